"""Which clients may do more under one config than under another.

Tools that do not know all of our keys write a file back without `allowed_from` or `single_use`: it still loads, and
says less. Whoever follows the file tells its owner.
"""

from collections.abc import Callable

from openme.config.model import ClientEntry, ServerConfig
from openme.durations import format_duration
from openme.moments import rfc3339
from openme.networks import collapsed, is_within
from openme.ports import without

MOST_NAMED = 20
"""Clients with a line of their own; a change of the group `default` or of `protocols` may widen them all."""

Comparison = Callable[[ClientEntry, ClientEntry], str | None]


def widened(old: ServerConfig, new: ServerConfig) -> list[str]:
    """One line for each client with more rights in `new` than in `old`, a last one for those beyond `MOST_NAMED`.

    A client is whoever has the same key, or else the same name. Who is new is not widened.
    """
    by_key: dict[bytes, ClientEntry] | None = None
    lines: list[str] = []
    unnamed = 0
    for name, entry in new.clients.items():
        before = old.clients.get(name)
        if before is None or before.public_key != entry.public_key:
            if by_key is None:
                by_key = {client.public_key.raw: client for client in old.clients.values()}
            before = by_key.get(entry.public_key.raw, before)
        if before is None or not (changes := more_rights(before, entry)):
            continue
        if len(lines) < MOST_NAMED:
            lines.append(f"{new.path}: client {name} may do more than before: {'; '.join(changes)}")
        else:
            unnamed += 1
    if unnamed:
        lines.append(f"{new.path}: {unnamed} more clients may do more than before")
    return lines


def more_rights(old: ClientEntry, new: ClientEntry) -> list[str]:
    """What `new` allows and `old` did not, each beginning with the key it is about; empty if nothing."""
    return [change for compare in COMPARISONS if (change := compare(old, new)) is not None]


def _ports(old: ClientEntry, new: ClientEntry) -> str | None:
    if old.ports == new.ports:
        return None
    more = without(new.ports, old.ports)
    return f"allowed_ports has {', '.join(map(str, more))} more" if more else None


def _expires(old: ClientEntry, new: ClientEntry) -> str | None:
    if old.expires is None or old.expires == new.expires:
        return None
    if new.expires is None:
        return f"expires is gone (it was {rfc3339(old.expires.timestamp())})"
    return f"expires is later, {rfc3339(new.expires.timestamp())}" if new.expires > old.expires else None


def _health_port(old: ClientEntry, new: ClientEntry) -> str | None:
    return "disable_health_port is gone" if old.disable_health_port and not new.disable_health_port else None


def _protocols(old: ClientEntry, new: ClientEntry) -> str | None:
    more = new.protocols - old.protocols
    return f"protocols has {', '.join(sorted(more))} more" if more else None


def _allowed_from(old: ClientEntry, new: ClientEntry) -> str | None:
    if not old.allowed_from or old.allowed_from == new.allowed_from:
        return None
    if not new.allowed_from:
        return f"allowed_from is gone (it was {', '.join(map(str, old.allowed_from))})"
    known = list(collapsed(old.allowed_from))
    more = [network for network in collapsed(new.allowed_from) if not any(is_within(network, k) for k in known)]
    return f"allowed_from has {', '.join(map(str, more))} more" if more else None


def _require_target_ip(old: ClientEntry, new: ClientEntry) -> str | None:
    return "require_target_ip is gone" if old.require_target_ip and not new.require_target_ip else None


def _single_use(old: ClientEntry, new: ClientEntry) -> str | None:
    return "single_use is gone" if old.single_use and not new.single_use else None


def _max_timeout(old: ClientEntry, new: ClientEntry) -> str | None:
    if old.max_timeout is None or old.max_timeout == new.max_timeout:
        return None
    if new.max_timeout is None:
        return f"max_timeout is gone (it was {format_duration(old.max_timeout)})"
    return f"max_timeout is longer, {format_duration(new.max_timeout)}" if new.max_timeout > old.max_timeout else None


def _prefixes(old: ClientEntry, new: ClientEntry) -> str | None:
    lengths = (("prefix_v4", old.prefix_v4, new.prefix_v4), ("prefix_v6", old.prefix_v6, new.prefix_v6))
    shorter = [f"{name} is shorter, {after} (it was {before})" for name, before, after in lengths if after < before]
    return ", ".join(shorter) or None


COMPARISONS: tuple[Comparison, ...] = (
    *(_ports, _expires, _health_port, _protocols),
    *(_allowed_from, _require_target_ip, _single_use, _max_timeout, _prefixes),
)
"""One for each key of a client's entry that can widen what it may do. A new key of that kind gets its own here."""
