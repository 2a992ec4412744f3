"""What one client's entry allows more than another, key by key: the keys that are rights.

Each takes the old entry and the new, and says what is more, beginning with the key's name; None if nothing is.
"""

from collections.abc import Callable

from openme.config.model import ClientEntry
from openme.durations import format_duration
from openme.moments import rfc3339
from openme.networks import collapsed, is_within
from openme.ports import without

Comparison = Callable[[ClientEntry, ClientEntry], str | None]


def more_ports(old: ClientEntry, new: ClientEntry) -> str | None:
    """Ports."""
    if old.ports == new.ports:
        return None
    more = without(new.ports, old.ports)
    return f"allowed_ports has {', '.join(map(str, more))} more" if more else None


def later_expiry(old: ClientEntry, new: ClientEntry) -> str | None:
    """`expires`: none any more, or later."""
    if old.expires is None or old.expires == new.expires:
        return None
    if new.expires is None:
        return f"expires is gone (it was {rfc3339(old.expires.timestamp())})"
    return f"expires is later, {rfc3339(new.expires.timestamp())}" if new.expires > old.expires else None


def more_protocols(old: ClientEntry, new: ClientEntry) -> str | None:
    """Wire formats."""
    more = new.protocols - old.protocols
    return f"protocols has {', '.join(sorted(more))} more" if more else None


def more_networks(old: ClientEntry, new: ClientEntry) -> str | None:
    """`allowed_from`: other networks."""
    if not old.allowed_from or old.allowed_from == new.allowed_from:
        return None
    if not new.allowed_from:
        return f"allowed_from is gone (it was {', '.join(map(str, old.allowed_from))})"
    known = list(collapsed(old.allowed_from))
    more = [network for network in collapsed(new.allowed_from) if not any(is_within(network, k) for k in known)]
    return f"allowed_from has {', '.join(map(str, more))} more" if more else None


def longer_doors(old: ClientEntry, new: ClientEntry) -> str | None:
    """`max_timeout`: none any more, or longer."""
    if old.max_timeout is None or old.max_timeout == new.max_timeout:
        return None
    if new.max_timeout is None:
        return f"max_timeout is gone (it was {format_duration(old.max_timeout)})"
    return f"max_timeout is longer, {format_duration(new.max_timeout)}" if new.max_timeout > old.max_timeout else None


def shorter(name: str) -> Comparison:
    """A prefix, and so a larger network."""

    def compare(old: ClientEntry, new: ClientEntry) -> str | None:
        before, after = getattr(old, name), getattr(new, name)
        return f"{name} is shorter, {after} (it was {before})" if after < before else None

    return compare


def gone(name: str) -> Comparison:
    """A flag that restricts."""
    return lambda old, new: f"{name} is gone" if getattr(old, name) and not getattr(new, name) else None
