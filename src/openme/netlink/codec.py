"""How netlink messages look: headers, attributes, errors (netlink(7), the kernel's `linux/netlink.h`).

Numbers in headers are in host order. Pure; whoever parses gets ValueError or struct.error for what makes no sense.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLMSGHDR = struct.Struct("=IHHII")  # length with this header, type, flags, sequence number, port id
NLATTR = struct.Struct("=HH")  # length with this header, type and its two flag bits
NLMSGERR_CODE = struct.Struct("=i")  # zero or a negative errno; the header of the message it answers follows
ALIGNMENT = 4
MAX_ATTRIBUTE = 0xFFFF

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF


class Received(NamedTuple):
    """One message as it came, without its header."""

    kind: int
    flags: int
    sequence: int
    payload: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to the next multiple of four."""
    length = NLATTR.size + len(payload)
    if length > MAX_ATTRIBUTE:
        raise ValueError(f"a netlink attribute holds {MAX_ATTRIBUTE} bytes at most, not {length}")
    return NLATTR.pack(length, kind) + payload + bytes(-length % ALIGNMENT)


def nested(kind: int, payload: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, payload)


def string(kind: int, text: str) -> bytes:
    """An attribute that holds a name, ended by a zero byte."""
    return attribute(kind, text.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type (flag bits taken off) and payload of each attribute. ValueError when the lengths do not add up."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < NLATTR.size:
            raise ValueError("netlink attributes end in the middle of a header")
        length, kind = NLATTR.unpack_from(data, offset)
        if not NLATTR.size <= length <= len(data) - offset:
            raise ValueError("a netlink attribute is longer than what holds it")
        yield kind & NLA_TYPE_MASK, data[offset + NLATTR.size : offset + length]
        offset += length + -length % ALIGNMENT


def framed(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A whole netlink message; the payload is aligned already."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(payload), kind, flags, sequence, 0) + payload


def split(data: bytes) -> Iterator[Received]:
    """The messages of one receive. ValueError when the lengths do not add up."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < NLMSGHDR.size:
            raise ValueError("netlink messages end in the middle of a header")
        length, kind, flags, sequence, _ = NLMSGHDR.unpack_from(data, offset)
        if not NLMSGHDR.size <= length <= len(data) - offset:
            raise ValueError("a netlink message is longer than what was received")
        yield Received(kind, flags, sequence, data[offset + NLMSGHDR.size : offset + length])
        offset += length + -length % ALIGNMENT


def error_code(payload: bytes) -> int:
    """The errno of an NLMSG_ERROR, 0 for done. ValueError if it is cut short."""
    if len(payload) < NLMSGERR_CODE.size:
        raise ValueError("a netlink error is cut short")
    code: int = NLMSGERR_CODE.unpack_from(payload)[0]
    return -code
