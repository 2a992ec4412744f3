"""Which clients may do more under one config than under another.

Tools that do not know all of our keys write a file back without `allowed_from` or `single_use`: it still loads, and
says less. Whoever follows the file tells its owner.
"""

from openme.config.model import ClientEntry, ServerConfig
from openme.config.server_keys import RIGHTS

MOST_NAMED = 20
"""Clients with a line of their own; a change of the group `default` or of `protocols` may widen them all."""


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
    return [change for compare in RIGHTS if (change := compare(old, new)) is not None]
