"""What both wire formats carry."""

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from openme.reasons import Reason

IPAddress = IPv4Address | IPv6Address

RANDOM_NONCE_SIZE = 16
TARGET_SIZE = 16
_V4_MAPPED = bytes(10) + b"\xff\xff"
_V4_OFFSET = len(_V4_MAPPED)
_UNSPECIFIED = frozenset({bytes(TARGET_SIZE), _V4_MAPPED + bytes(4)})


class BadPacket(Exception):  # noqa: N818  # the name that the field uses for what is a verdict, not a fault of ours
    """Bytes that are no knock. `reason` is for counting."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Knock(NamedTuple):
    """What a client asks for.

    `timestamp_ns`: Unix time in nanoseconds, signed 64-bit. `random_nonce`: 16 bytes. `target`: the address to open,
    or None for the source address of the datagram.
    """

    timestamp_ns: int
    random_nonce: bytes
    target: IPAddress | None


def pack_address(address: IPAddress) -> bytes:
    """16 bytes: an IPv6 address as it is, an IPv4 address as `::ffff:a.b.c.d`."""
    return _V4_MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def unpack_address(raw: bytes) -> IPAddress:
    """The address in 16 bytes; a v4-mapped one becomes IPv4, so that one host has one form."""
    if raw.startswith(_V4_MAPPED):
        return IPv4Address(raw[_V4_OFFSET:])
    return IPv6Address(raw)


def pack_target(target: IPAddress | None) -> bytes:
    """The target field: 16 bytes, all zero for "the source address of this datagram"."""
    return bytes(TARGET_SIZE) if target is None else pack_address(target)


def unpack_target(raw: bytes) -> IPAddress | None:
    """The target field's meaning. Mapped 0.0.0.0, which some existing clients write, is the wildcard too."""
    return None if raw in _UNSPECIFIED else unpack_address(raw)
