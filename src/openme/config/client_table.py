"""The clients of a config as one block of bytes: an entry is made of it when somebody asks for one.

Among a hundred thousand clients few ever knock in the same hour. As objects they take 100 MiB, and a second to hand
from one process to another; as a block some 80 bytes each, which a process takes over without looking at them.

    magic, counts   64 bytes
    numbers         8 bytes each: expiry in file order, then the expiries that there are in order of time (microseconds
                    since 1970)
    numbers         4 bytes each: the line of an entry, its rights, the end of its name; key ids in order, and whose
                    they are; clients by name; whose the expiries are; the end of each of the rights
    bytes           public keys, 32 bytes each; names (UTF-8); rights and what doors open (JSON)

Clients are numbered in the order of the file. What many clients have in common is kept once, as their *rights*: all
fields of an entry but name, key, expiry and line. Numbers are in the machine's own order: a block is for the machine
that made it.
"""

import json
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Sequence, ValuesView
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_network
from typing import Any, Literal, NamedTuple, overload

from openme.config.client_index import ClientIndex, IndexedClients, Openable
from openme.config.model import ClientEntry, ServerConfig
from openme.keys.ed25519 import KEY_ID_SIZE, KEY_SIZE, ClientPublicKey, key_id_of
from openme.ports import PortRange

_MAGIC = b"openme clients 1"
_ORDER = 0x0102030405060708
_HEADER = struct.Struct("=16s6Q")  # magic, order, and the five numbers of `_Counts`
_NEVER = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOST_KEPT = 4096  # rights, and whole entries, that are kept as they were read
_LOOKED_UP = 10  # to look a key up takes as long as to put so many into a set


class BadTable(Exception):  # noqa: N818  # not an error by itself: the config is read instead
    """A block that is no table of clients."""


class _Counts(NamedTuple):
    clients: int
    expiring: int
    rights: int
    names: int  # bytes
    openable: int  # bytes


def ports_to_json(ports: Iterable[PortRange]) -> list[list[str | int]]:
    """Ranges as JSON has them."""
    return [[item.proto, item.first, item.last] for item in ports]


def ports_from_json(value: Iterable[Sequence[Any]]) -> tuple[PortRange, ...]:
    """Ranges that `ports_to_json` has written."""
    return tuple(PortRange(*item) for item in value)


class _Form(NamedTuple):
    """How a field of an entry stands in JSON."""

    to_json: Callable[[Any], object]
    from_json: Callable[[Any], object]


def _same(value: object) -> object:
    return value


_AS_IT_IS = _Form(_same, _same)
_FORMS = {
    "ports": _Form(ports_to_json, ports_from_json),
    "allowed_ports": _Form(_same, lambda value: None if value is None else tuple(value)),
    "disable_health_port": _AS_IT_IS,
    "protocols": _Form(sorted, frozenset),
    "allowed_from": _Form(lambda value: [str(item) for item in value], lambda value: tuple(map(ip_network, value))),
    "require_target_ip": _AS_IT_IS,
    "single_use": _AS_IT_IS,
    "max_timeout": _AS_IT_IS,
    "prefix_v4": _AS_IT_IS,
    "prefix_v6": _AS_IT_IS,
}
_OF_ITS_OWN = {"name", "public_key", "expires", "line"}
_SHARED = tuple(field.name for field in fields(ClientEntry) if field.name not in _OF_ITS_OWN)
"""The rights. One without a row in `_FORMS` fails every table, so that none can be lost on the way."""


def table_of(clients: Iterable[ClientEntry]) -> bytes:
    """The block for clients of different names and keys."""
    entries = list(clients)
    names = [entry.name.encode() for entry in entries]
    ids = [int.from_bytes(entry.public_key.key_id, "big") for entry in entries]
    expiries = [_NEVER if e.expires is None else (e.expires - _EPOCH) // _MICROSECOND for e in entries]
    numbers = range(len(entries))
    by_id = sorted(numbers, key=ids.__getitem__)
    ending = sorted((number for number in numbers if expiries[number] != _NEVER), key=expiries.__getitem__)
    rights: dict[tuple[object, ...], int] = {}
    whose = [rights.setdefault(_rights_of(entry), len(rights)) for entry in entries]
    texts = [
        _compact([_FORMS[name].to_json(value) for name, value in zip(_SHARED, key, strict=True)]) for key in rights
    ]
    opened = dict.fromkeys(openable_of(entry) for entry in entries)
    openable = _compact([[ports_to_json(item.ports), *item[1:]] for item in opened])
    counts = _Counts(len(entries), len(ending), len(texts), sum(map(len, names)), len(openable))
    return b"".join(
        (
            _HEADER.pack(_MAGIC, _ORDER, *counts),
            array("q", expiries),
            array("q", [expiries[number] for number in ending]),
            array("I", [entry.line for entry in entries]),
            array("I", whose),
            array("I", _ends(names)),
            array("I", [ids[number] for number in by_id]),
            array("I", by_id),
            array("I", sorted(numbers, key=names.__getitem__)),
            array("I", ending),
            array("I", _ends(texts)),
            *(entry.public_key.raw for entry in entries),
            *names,
            openable,
            *texts,
        )
    )


def openable_of(entry: ClientEntry) -> Openable:
    """What this client's knock opens."""
    return Openable(entry.ports, entry.single_use, entry.disable_health_port, entry.prefix_v4, entry.prefix_v6)


def _rights_of(entry: ClientEntry) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in _SHARED)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _ends(parts: Iterable[bytes]) -> Iterator[int]:
    end = 0
    for part in parts:
        end += len(part)
        yield end


class _Parts:
    """Takes a block apart, from a place on."""

    def __init__(self, block: memoryview, place: int) -> None:
        self._block = block
        self._place = place

    def take(self, size: int, form: Literal["B", "I", "q"] = "B") -> memoryview:
        """The next `size` bytes as numbers; BadTable if there are fewer."""
        part = self._block[self._place : self._place + size]
        if len(part) != size:
            raise BadTable
        self._place += size
        return part.cast(form)

    def rest(self) -> memoryview:
        """What is left."""
        return self._block[self._place :]


class _Ends(Sequence[tuple[datetime, bytes]]):
    """Moments and public keys, made when they are looked at."""

    def __init__(self, moments: memoryview, numbers: memoryview, key: Callable[[int], bytes]) -> None:
        self._moments = moments
        self._numbers = numbers
        self._key = key

    def __len__(self) -> int:
        return len(self._moments)

    @overload
    def __getitem__(self, place: int) -> tuple[datetime, bytes]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[datetime, bytes]]: ...

    def __getitem__(self, place: int | slice) -> tuple[datetime, bytes] | list[tuple[datetime, bytes]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        return _moment(self._moments[place]), self._key(self._numbers[place])


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


class ClientTable:
    """What is asked of all clients at once, of a block that `table_of` has made; `Known` of `client_index`.

    What stands in the block is believed: whoever reads one of others' seals it (`parsed_copy`).
    """

    def __init__(self, block: memoryview) -> None:
        """BadTable if it is none, or not whole. The block must not change any more."""
        try:
            magic, order, *rest = _HEADER.unpack_from(block)
            counts = _Counts(*rest)
            if magic != _MAGIC or order != _ORDER:
                raise BadTable
            parts = _Parts(block, _HEADER.size)
            count = counts.clients
            self._expiries = parts.take(8 * count, "q")
            self._ends = parts.take(8 * counts.expiring, "q")
            self._lines = parts.take(4 * count, "I")
            self._whose = parts.take(4 * count, "I")
            self._name_ends = parts.take(4 * count, "I")
            self._ids = parts.take(4 * count, "I")
            self._by_id = parts.take(4 * count, "I")
            self._by_name = parts.take(4 * count, "I")
            self._ending = parts.take(4 * counts.expiring, "I")
            self._rights_ends = parts.take(4 * counts.rights, "I")
            self._keys = parts.take(KEY_SIZE * count)
            self._names = parts.take(counts.names)
            self._openable = parts.take(counts.openable)
            self._rights_texts = parts.rest()
        except struct.error:
            raise BadTable from None
        self.block = block
        self._count = count
        self._kept: dict[int, dict[str, Any]] = {}
        self._entries: dict[int, ClientEntry] = {}

    def __len__(self) -> int:
        return self._count

    def entry(self, number: int) -> ClientEntry:
        """The client with this number."""
        if (entry := self._entries.get(number)) is None:
            if len(self._entries) >= _MOST_KEPT:
                self._entries.clear()
            self._entries[number] = entry = self._made(number)
        return entry

    def _made(self, number: int) -> ClientEntry:
        expires = self._expiries[number]
        return ClientEntry(
            name=self.name(number),
            public_key=ClientPublicKey.checked_before(self.key(number)),
            expires=None if expires == _NEVER else _moment(expires),
            line=self._lines[number],
            **self._rights(self._whose[number]),
        )

    def name(self, number: int) -> str:
        """The name of the client with this number."""
        return self._name_bytes(number).decode()

    def key(self, number: int) -> bytes:
        """The public key of the client with this number, 32 bytes."""
        return bytes(self._keys[KEY_SIZE * number : KEY_SIZE * (number + 1)])

    def number_of(self, name: str) -> int | None:
        """The number of the client with this name."""
        try:
            wanted = name.encode()
        except UnicodeEncodeError:
            return None
        place = bisect_left(self._by_name, wanted, key=self._name_bytes)
        if place < self._count and self._name_bytes(number := self._by_name[place]) == wanted:
            return number
        return None

    def by_key(self, public_key: bytes) -> ClientEntry | None:
        """The client with this 32-byte public key."""
        for number in self._with_key_id(key_id_of(public_key)):
            if self.key(number) == public_key:
                return self.entry(number)
        return None

    def by_key_id(self, key_id: bytes) -> Sequence[ClientEntry]:
        """The clients with this version 2 key id."""
        return [self.entry(number) for number in self._with_key_id(key_id)]

    def keys(self) -> Iterator[bytes]:
        """All public keys, in the order of the file."""
        return map(self.key, range(self._count))

    def known(self, keys: Collection[bytes]) -> Collection[bytes]:
        """Those of these public keys that a client has."""
        if len(keys) * _LOOKED_UP > self._count:
            return {key for (key,) in struct.iter_unpack(f"{KEY_SIZE}s", self._keys)}.intersection(keys)
        return {key for key in keys if any(self.key(number) == key for number in self._with_key_id(key_id_of(key)))}

    @cached_property
    def openable(self) -> Collection[Openable]:
        """What clients may open, each once."""
        return frozenset(Openable(ports_from_json(ports), *rest) for ports, *rest in json.loads(bytes(self._openable)))

    @property
    def ends(self) -> Sequence[tuple[datetime, bytes]]:
        """When clients expire, and their public keys, in order of time."""
        return _Ends(self._ends, self._ending, self.key)

    def _with_key_id(self, key_id: bytes) -> Iterator[int]:
        wanted = int.from_bytes(key_id, "big")
        place = bisect_left(self._ids, wanted) if len(key_id) == KEY_ID_SIZE else self._count
        while place < self._count and self._ids[place] == wanted:
            yield self._by_id[place]
            place += 1

    def _name_bytes(self, number: int) -> bytes:
        start = self._name_ends[number - 1] if number else 0
        return bytes(self._names[start : self._name_ends[number]])

    def _rights(self, number: int) -> dict[str, Any]:
        kept = self._kept.get(number)
        if kept is None:
            start = self._rights_ends[number - 1] if number else 0
            values = json.loads(bytes(self._rights_texts[start : self._rights_ends[number]]))
            kept = {name: _FORMS[name].from_json(value) for name, value in zip(_SHARED, values, strict=True)}
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[number] = kept
        return kept


class TableClients(IndexedClients):
    """The clients of a table by name, in the order of the file."""

    def __init__(self, table: ClientTable) -> None:
        self.table = table

    def __getitem__(self, name: str) -> ClientEntry:
        number = self.table.number_of(name)
        if number is None:
            raise KeyError(name)
        return self.table.entry(number)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.table.number_of(name) is not None

    def __iter__(self) -> Iterator[str]:
        return map(self.table.name, range(len(self.table)))

    def __len__(self) -> int:
        return len(self.table)

    def items(self) -> ItemsView[str, ClientEntry]:
        """Names and entries, without looking for each."""
        return _Items(self)

    def values(self) -> ValuesView[ClientEntry]:
        """Entries, without looking for each."""
        return _Values(self)

    def entries(self) -> Iterator[ClientEntry]:
        """All entries."""
        return map(self.table.entry, range(len(self.table)))

    @property
    def index(self) -> ClientIndex:
        """The table is one."""
        return ClientIndex(known=self.table)


class _Items(ItemsView[str, ClientEntry]):
    _mapping: TableClients

    def __iter__(self) -> Iterator[tuple[str, ClientEntry]]:
        return ((entry.name, entry) for entry in self._mapping.entries())


class _Values(ValuesView[ClientEntry]):
    _mapping: TableClients

    def __iter__(self) -> Iterator[ClientEntry]:
        return self._mapping.entries()


def with_table(config: ServerConfig) -> ServerConfig:
    """The same config, its clients a table."""
    table = ClientTable(memoryview(table_of(config.clients.values())))
    return replace(config, clients=TableClients(table))
