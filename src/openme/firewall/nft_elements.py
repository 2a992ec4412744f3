"""Elements of nf_tables sets as netlink messages: people who come, stay and go.

Attribute numbers from the kernel's `linux/netfilter/nf_tables.h`. Times are milliseconds.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Literal

from openme.netlink.codec import NLATTR, NLM_F_CREATE, attribute, attributes, nested, string
from openme.netlink.nftables import NFPROTO_INET, Message

NFT_MSG_NEWSETELEM = 12
NFT_MSG_GETSETELEM = 13
NFT_MSG_DELSETELEM = 14
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_TIMEOUT = 4
NFTA_SET_ELEM_EXPIRATION = 5
NFTA_DATA_VALUE = 1
U64 = struct.Struct(">Q")

ELEMENTS_PER_MESSAGE = 1000
"""An IPv6 element takes 52 bytes, and the list of elements is one attribute of at most 65535."""
PLACEHOLDER_MS = 1000
"""Timeout of an element that its own batch takes away again."""

Refresh = Literal["expires", "replace"]
"""How an element's remaining time is set afresh. `expires`: an add that carries the expiration (kernel 6.12 and later).
`replace`: add, delete, add. The first add lets the delete find something; readers see the batch as one step."""

Elements = Mapping[bytes, int]
"""Address (4 or 16 bytes) → remaining time."""


def refreshed(table: str, name: str, elements: Elements, how: Refresh) -> Iterator[Message]:
    """Messages after which every element is in the set with just this remaining time."""
    if how == "expires":
        added = [_refreshed(key, ms) for key, ms in elements.items()]
        yield from _messages(NFT_MSG_NEWSETELEM, table, name, added)
        return
    added = [_element(key, ms) for key, ms in elements.items()]
    yield from _messages(NFT_MSG_NEWSETELEM, table, name, added)
    yield from _messages(NFT_MSG_DELSETELEM, table, name, [_element(key) for key in elements])
    yield from _messages(NFT_MSG_NEWSETELEM, table, name, added)


def removed(table: str, name: str, keys: Sequence[bytes]) -> Iterator[Message]:
    """Messages after which none of the keys, which must differ, is in the set, whether or not it was before."""
    yield from _messages(NFT_MSG_NEWSETELEM, table, name, [_element(key, PLACEHOLDER_MS) for key in keys])
    yield from _messages(NFT_MSG_DELSETELEM, table, name, [_element(key) for key in keys])


def flushed(table: str, name: str) -> Message:
    """The message after which the set is empty; it must exist."""
    return Message(NFT_MSG_DELSETELEM, 0, NFPROTO_INET, set_reference(table, name))


def set_reference(table: str, name: str) -> bytes:
    """Attributes that name a set, in requests for its elements."""
    return string(NFTA_SET_ELEM_LIST_TABLE, table) + string(NFTA_SET_ELEM_LIST_SET, name)


def parse_elements(row: Mapping[int, bytes]) -> Iterator[tuple[bytes, int | None]]:
    """Key and remaining time (None: for ever) of each element in one row of a dump. ValueError if malformed."""
    for kind, item in attributes(row.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        if kind != NFTA_LIST_ELEM:
            raise ValueError("a set's list of elements holds something else")
        parts = dict(attributes(item))
        key = dict(attributes(parts.get(NFTA_SET_ELEM_KEY, b""))).get(NFTA_DATA_VALUE)
        if key is None:
            raise ValueError("a set element without a key")
        yield key, _milliseconds(parts.get(NFTA_SET_ELEM_EXPIRATION))


def _milliseconds(data: bytes | None) -> int | None:
    if data is None:
        return None
    if len(data) != U64.size:
        raise ValueError("a time in a set element is not 64 bits long")
    value: int = U64.unpack(data)[0]
    return value


def _element(key: bytes, timeout: int | None = None, expiration: int | None = None) -> bytes:
    parts = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))
    if timeout is not None:
        parts += attribute(NFTA_SET_ELEM_TIMEOUT, U64.pack(timeout))
    if expiration is not None:
        parts += attribute(NFTA_SET_ELEM_EXPIRATION, U64.pack(expiration))
    return nested(NFTA_LIST_ELEM, parts)


def _refreshed(key: bytes, time: int) -> bytes:
    """`_element(key, time, time)`, some for each knock: all but these two depends on the key's size alone."""
    head, middle, tail = _parts(len(key))
    packed = U64.pack(time)
    return b"".join((head, key, middle, packed, tail, packed))


@cache
def _parts(size: int) -> tuple[bytes, bytes, bytes]:
    """What stands before a key of this size, between it and its timeout, and between that and its expiration."""
    whole = _element(bytes(size), 0, 0)
    key_at, expiration_at = 3 * NLATTR.size, len(whole) - U64.size
    timeout_at = expiration_at - NLATTR.size - U64.size
    return whole[:key_at], whole[key_at + size : timeout_at], whole[timeout_at + U64.size : expiration_at]


def _messages(kind: int, table: str, name: str, elements: Sequence[bytes]) -> Iterator[Message]:
    flags = NLM_F_CREATE if kind == NFT_MSG_NEWSETELEM else 0
    for start in range(0, len(elements), ELEMENTS_PER_MESSAGE):
        part = b"".join(elements[start : start + ELEMENTS_PER_MESSAGE])
        payload = set_reference(table, name) + nested(NFTA_SET_ELEM_LIST_ELEMENTS, part)
        yield Message(kind, flags, NFPROTO_INET, payload)
