"""What is asked of all clients of a config at once, and the same without some of them."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

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


class Known(Protocol):
    """All clients of a config: as objects, or as a block of bytes (`client_table.ClientTable`)."""

    @property
    def openable(self) -> "Collection[Openable]":
        """What clients may open, each once."""

    @property
    def ends(self) -> "Sequence[tuple[datetime, bytes]]":
        """When clients expire, and their public keys, in order of time."""

    def by_key(self, public_key: bytes) -> "ClientEntry | None":
        """The client with this 32-byte public key."""

    def by_key_id(self, key_id: bytes) -> "Sequence[ClientEntry]":
        """The clients with this version 2 key id."""

    def keys(self) -> "Iterator[bytes]":
        """All public keys, in the order of the file."""

    def known(self, keys: "Collection[bytes]") -> "Collection[bytes]":
        """Those of these public keys that a client has."""


@dataclass(slots=True)
class _Gathered:
    """Of clients that are there as objects."""

    _by_key: "dict[bytes, ClientEntry]" = field(default_factory=dict)
    _by_key_id: "dict[bytes, list[ClientEntry]]" = field(default_factory=dict)
    openable: set[Openable] = field(default_factory=set)
    ends: "list[tuple[datetime, bytes]]" = field(default_factory=list)

    def add(self, clients: "Iterable[ClientEntry]") -> None:
        last: Openable | None = None
        for client in clients:
            key = client.public_key.raw
            if key not in self._by_key:
                self._by_key[key] = client
                self._by_key_id.setdefault(client.public_key.key_id, []).append(client)
            if client.expires is not None:
                self.ends.append((client.expires, key))
            # Ports are slow to hash, and most clients have those of a group.
            flags = client.single_use, client.disable_health_port, client.prefix_v4, client.prefix_v6
            if last is None or client.ports is not last.ports or flags != last[1:]:
                last = Openable(client.ports, *flags)
                self.openable.add(last)
        self.ends.sort(key=itemgetter(0))

    def by_key(self, public_key: bytes) -> "ClientEntry | None":
        return self._by_key.get(public_key)

    def by_key_id(self, key_id: bytes) -> "Sequence[ClientEntry]":
        return self._by_key_id.get(key_id, ())

    def keys(self) -> "Iterator[bytes]":
        return iter(self._by_key)

    def known(self, keys: "Collection[bytes]") -> "Collection[bytes]":
        return self._by_key.keys() & keys


class ClientIndex:
    """The clients by their keys, what they may open, and when they expire.

    An index without some of them (`without`) shares everything with the one it was made of, so that taking a client
    out costs the same for a hundred thousand. What those may open stays in `openable`.
    """

    def __init__(self, clients: "Iterable[ClientEntry]" = (), known: Known | None = None) -> None:
        """Of these clients, in the order of the file: of two with the same key the first one counts.

        `known` stands for them where there is one already.
        """
        if known is None:
            known = _Gathered()
            known.add(clients)
        self._all: Known = known
        self._out: frozenset[bytes] = frozenset()

    def without(self, keys: Iterable[bytes]) -> "ClientIndex":
        """The same, less whoever has one of these keys."""
        made = ClientIndex(known=self._all)
        made._out = self._out.union(self._all.known(set(keys)))
        return made

    @property
    def openable(self) -> "Collection[Openable]":
        """What clients may open, each once."""
        return self._all.openable

    @property
    def ends(self) -> "Sequence[tuple[datetime, bytes]]":
        """When clients expire, and their public keys, in order of time; also of those who are out."""
        return self._all.ends

    def by_key(self, public_key: bytes) -> "ClientEntry | None":
        """The client with this 32-byte public key."""
        return None if public_key in self._out else self._all.by_key(public_key)

    def taken_out_of(self, other: "ClientIndex") -> frozenset[bytes] | None:
        """The keys of those whom this one lacks of `other`'s, if there is no other difference; None if there is."""
        return self._out - other._out if self.is_part_of(other) else None  # noqa: SLF001  # of this class

    def is_part_of(self, other: "ClientIndex") -> bool:
        """Whether this is `other`, or was made of it by taking clients out, so that whoever is left is as before."""
        return self._all is other._all and self._out >= other._out  # noqa: SLF001  # of this class

    def missing(self, keys: "Iterable[bytes]") -> list[bytes]:
        """Those of these public keys that no client has."""
        asked = list(dict.fromkeys(keys))
        known = self._all.known(asked)
        return [key for key in asked if key not in known or key in self._out]

    def by_key_id(self, key_id: bytes) -> "Sequence[ClientEntry]":
        """The clients with this version 2 key id."""
        found = self._all.by_key_id(key_id)
        return [client for client in found if client.public_key.raw not in self._out] if self._out else found

    def keys(self) -> "Iterator[bytes]":
        """The public keys, in the order of the file."""
        every = self._all.keys()
        return (key for key in every if key not in self._out) if self._out else every


class IndexedClients(Mapping[str, "ClientEntry"]):
    """Clients by name that bring their index with them."""

    @property
    @abstractmethod
    def index(self) -> ClientIndex:
        """The index of these clients."""


class Fewer(IndexedClients):
    """Clients by name without some of them, at the same cost for a hundred thousand."""

    def __init__(self, clients: "Mapping[str, ClientEntry]", out: Iterable[str]) -> None:
        """`out`: names of clients that are there."""
        self._all: Mapping[str, ClientEntry] = clients
        self._out = frozenset(out)
        if isinstance(clients, Fewer):
            self._all = clients._all  # noqa: SLF001  # of this class
            self._out |= clients._out  # noqa: SLF001

    def __getitem__(self, name: str) -> "ClientEntry":
        if name in self._out:
            raise KeyError(name)
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name not in self._out and name in self._all

    def __iter__(self) -> "Iterator[str]":
        return (name for name in self._all if name not in self._out)

    def __len__(self) -> int:
        return len(self._all) - len(self._out)

    @property
    def index(self) -> ClientIndex:
        """The index of all, without these."""
        return index_of(self._all).without(self._all[name].public_key.raw for name in self._out)


def index_of(clients: "Mapping[str, ClientEntry]") -> ClientIndex:
    """The index that clients bring with them, or a new one."""
    return clients.index if isinstance(clients, IndexedClients) else ClientIndex(clients.values())
