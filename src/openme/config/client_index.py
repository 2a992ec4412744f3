"""What is asked of all clients of a config at once, gathered a few clients at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from openme.ports import PortRange

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from openme.config.model import ClientEntry


class Openable(NamedTuple):
    """What a client's knock opens, apart from whose it is; fields as in `ClientEntry`."""

    ports: tuple[PortRange, ...]
    single_use: bool
    disable_health_port: bool
    prefix_v4: int = 32
    prefix_v6: int = 128


@dataclass(slots=True)
class _Gathered:
    by_key: "dict[bytes, ClientEntry]" = field(default_factory=dict)
    by_key_id: "dict[bytes, list[ClientEntry]]" = field(default_factory=dict)
    openable: set[Openable] = field(default_factory=set)
    ends: "list[tuple[datetime, bytes]]" = field(default_factory=list)


class ClientIndex:
    """The clients by their keys, what they may open, and when they expire.

    An index without some of them (`without`) shares everything with the one it was made of, so that taking a client
    out costs the same for a hundred thousand. What those may open stays in `openable`.
    """

    def __init__(self, clients: "Iterable[ClientEntry]" = ()) -> None:
        self._all = _Gathered()
        self._out: frozenset[bytes] = frozenset()
        self.add(clients)

    def add(self, clients: "Iterable[ClientEntry]") -> None:
        """Take in clients, in the order of the file: of two with the same key the first one counts."""
        every = self._all
        last: Openable | None = None
        for client in clients:
            key = client.public_key.raw
            if key not in every.by_key:
                every.by_key[key] = client
                every.by_key_id.setdefault(client.public_key.key_id, []).append(client)
            if client.expires is not None:
                every.ends.append((client.expires, key))
            # Ports are slow to hash, and most clients have those of a group.
            flags = client.single_use, client.disable_health_port, client.prefix_v4, client.prefix_v6
            if last is None or client.ports is not last.ports or flags != last[1:]:
                last = Openable(client.ports, *flags)
                every.openable.add(last)

    def without(self, keys: Iterable[bytes]) -> "ClientIndex":
        """The same, less whoever has one of these keys."""
        made = ClientIndex()
        made._all = self._all
        made._out = self._out.union(key for key in keys if key in self._all.by_key)
        return made

    @property
    def openable(self) -> "Collection[Openable]":
        """What clients may open, each once."""
        return self._all.openable

    @property
    def ends(self) -> "Sequence[tuple[datetime, bytes]]":
        """When clients expire, and their public keys, in no order; also of those who are out."""
        return self._all.ends

    def by_key(self, public_key: bytes) -> "ClientEntry | None":
        """The client with this 32-byte public key."""
        return None if public_key in self._out else self._all.by_key.get(public_key)

    def is_part_of(self, other: "ClientIndex") -> bool:
        """Whether this is `other`, or was made of it by taking clients out, so that whoever is left is as before."""
        return self._all is other._all and self._out >= other._out  # noqa: SLF001  # of this class

    def missing(self, keys: "Iterable[bytes]") -> list[bytes]:
        """Those of these public keys that no client has."""
        known, out = self._all.by_key, self._out
        return [key for key in keys if key not in known or key in out]

    def by_key_id(self, key_id: bytes) -> "Sequence[ClientEntry]":
        """The clients with this version 2 key id."""
        found = self._all.by_key_id.get(key_id, ())
        return [client for client in found if client.public_key.raw not in self._out] if self._out else found

    def items(self) -> "Iterator[tuple[bytes, ClientEntry]]":
        """Public keys and clients."""
        for key, client in self._all.by_key.items():
            if key not in self._out:
                yield key, client
