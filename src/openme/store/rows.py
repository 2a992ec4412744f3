"""What rows of the database say. No digest is over these: a flipped bit may cost one of them, not the start."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_network
from typing import Any, TypeVar

from openme.networks import IPNetwork
from openme.ports import PortRange, parse_port_spec
from openme.store.base import Holder, RatchetNote, Seen
from openme.wire.knock import IPAddress, pack_address, unpack_address

SEEN = "SELECT client, name, at, source FROM seen"
RENEWED = "SELECT client, last FROM delivered"
NETWORK_SIZE = 16 + 1  # of a network in the database: first address, length of the prefix
Made = TypeVar("Made")


def text_of(raw: bytes) -> str:
    """SQLite's text, whatever its bytes are."""
    return raw.decode(errors="replace")


def readable(rows: Iterable[Any], make: Callable[[Any], Made]) -> Iterator[Made]:
    """What can be made of the rows."""
    for row in rows:
        with suppress(ValueError, TypeError):
            yield make(row)


def seen_of(row: tuple[Any, ...]) -> tuple[bytes, Seen]:
    """By 32-byte public key."""
    client, name, at, source = row
    return _key(client), Seen(str(name), float(at), unpack_address(source))


def holder_of(row: tuple[Any, ...]) -> Holder:
    """Of (client, place, name, ports, opened_at, expires_at)."""
    client, place, name, ports, opened_at, expires_at = row
    address, network, knocked_for = _unpack_place(_key(place))
    times = float(opened_at), float(expires_at)
    return Holder(_key(client), address, str(name), _ports(ports), *times, network, knocked_for)


def pack_place(holder: Holder) -> bytes:
    """16 bytes for an address. A network: its first address, the prefix's length, and the address knocked for.

    What does not know networks, as an earlier openme, finds no address in it and passes it over.
    """
    place = pack_address(holder.address)
    if holder.network is None:
        return place
    return place + bytes([holder.network.prefixlen]) + pack_address(holder.named)


def _unpack_place(place: bytes) -> tuple[IPAddress, IPNetwork | None, IPAddress | None]:
    """Address, network and address knocked for of `pack_place`. ValueError for anything else."""
    if len(place) < NETWORK_SIZE:
        return unpack_address(place), None, None
    first, named = unpack_address(place[: NETWORK_SIZE - 1]), unpack_address(place[NETWORK_SIZE:])
    network = ip_network((first, place[NETWORK_SIZE - 1]))
    if named not in network:
        raise ValueError("an address outside its network")
    return first, network, named


def renewal_of(row: tuple[Any, ...]) -> tuple[bytes, int]:
    """32-byte public key and epoch."""
    client, last = row
    if type(last) is not int:
        raise TypeError("not an epoch")
    return _key(client), last


def note_of(row: tuple[Any, ...]) -> RatchetNote:
    """Epoch and 32-byte public key."""
    epoch, public = row
    if type(epoch) is not int:
        raise TypeError("not an epoch")
    return epoch, _key(public)


def _key(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not a key")
    return value


def _ports(specs: str) -> tuple[PortRange, ...]:
    return tuple(item for spec in specs.split() for item in parse_port_spec(spec))
