"""Bytes to and from conntrack and sock_diag, written out by hand from the kernel's headers."""

import socket
import struct
import sys
from ipaddress import ip_address

import pytest

from openme.firewall.connections import (
    Connection,
    _parsed,
    cut_key,
    deletion,
    socket_ends,
    sockets_request,
    table_request,
)
from openme.firewall.nfnetlink import attribute, framed, nested
from openme.ports import parse_port_spec

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes are written out for little-endian machines"
)

ALICE = ip_address("192.0.2.2")
SERVER = bytes([192, 0, 2, 1])
LABELS = bytes(15) + b"\x80"
ORIGINAL = bytes.fromhex(
    "14000180 08000100 c0000202 08000200 c00002011c000280 05000100 06000000 06000200 9c400000 06000300 00160000"
)
REPLY = bytes.fromhex(
    "14000180 08000100 c0000201 08000200 c00002021c000280 05000100 06000000 06000200 08ae0000 06000300 9c400000"
)
FOUND = Connection(
    4, 6, ORIGINAL, None, b"\1\2\3\4", (SERVER, b"\x08\xae", ALICE.packed, b"\x9c\x40"), alive=True
)  # to port 22, which NAT has turned into 2222


def row(*, labels: bytes = LABELS, original: bytes = ORIGINAL, state: int = 3, more: bytes = b"") -> bytes:
    return (
        bytes.fromhex("02000000")
        + nested(1, original)
        + nested(2, REPLY)
        + nested(4, nested(1, attribute(1, bytes([state]))))
        + attribute(12, b"\1\2\3\4")
        + attribute(22, labels)
        + more
    )


def test_a_message_is_framed() -> None:
    assert framed(0x102, 5, 7, b"\2\0\0\0") == bytes.fromhex("14000000 0201 0500 07000000 00000000 02000000")


def test_the_table_is_asked_for_one_source() -> None:
    assert table_request(ALICE) == bytes.fromhex(
        "02000000 10000180 0c000180 08000100 c0000202 14001980 08000100 01000000 08000200 00000000"
    )


def test_the_table_is_asked_for_all_of_ipv6() -> None:
    assert table_request(ip_address("2001:db8::2")) == bytes.fromhex("0a000000")


def test_a_connection_is_deleted_by_its_tuple_id_and_zone() -> None:
    head = bytes.fromhex("02000000 34000180") + ORIGINAL + bytes.fromhex("08000c00 01020304")
    assert deletion(FOUND) == head
    assert deletion(FOUND._replace(zone=b"\0\7")) == head + bytes.fromhex("06001200 00070000")


def test_a_connection_that_a_door_has_let_in() -> None:
    assert _parsed(row(), ALICE, parse_port_spec("22/tcp")) == FOUND
    assert _parsed(row(more=attribute(18, b"\0\7")), ALICE, parse_port_spec("20-22")) == FOUND._replace(zone=b"\0\7")


@pytest.mark.parametrize(("state", "alive"), [(3, True), (5, True), (7, False), (8, False)])
def test_a_connection_that_is_over_does_not_count(state: int, alive: bool) -> None:  # noqa: FBT001
    found = _parsed(row(state=state), ALICE, parse_port_spec("22/tcp"))
    assert found is not None
    assert found.alive is alive


@pytest.mark.parametrize("ports", ["22/udp", "2222/tcp", "23-24", "1-21"])
def test_other_ports_are_left_alone(ports: str) -> None:
    assert _parsed(row(), ALICE, parse_port_spec(ports)) is None


@pytest.mark.parametrize("labels", [b"", bytes(16), b"\x80" + bytes(15), bytes(15) + b"\x7f"])
def test_without_the_label_it_is_none_of_ours(labels: bytes) -> None:
    assert _parsed(row(labels=labels), ALICE, parse_port_spec("22/tcp")) is None


def test_the_address_must_be_the_source() -> None:
    assert _parsed(row(original=REPLY), ALICE, parse_port_spec("40000/tcp")) is None
    assert _parsed(row(original=REPLY), ip_address("192.0.2.1"), parse_port_spec("40000/tcp")) is not None


def test_protocols_without_ports_are_none_of_ours() -> None:
    ping = ORIGINAL[:20] + nested(2, attribute(1, b"\1") + attribute(5, b"\x08"))
    assert _parsed(row(original=ping), ALICE, parse_port_spec("1-65535")) is None


@pytest.mark.parametrize("payload", [row()[:-1], row(original=ORIGINAL[:-4] + b"\x05\0\x03\0\1\0\0\0")])
def test_rows_that_make_no_sense(payload: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        _parsed(payload, ALICE, parse_port_spec("22/tcp"))


def test_sockets_are_asked_for_by_their_peer() -> None:
    states = "bf1b0000"  # all but TCP_TIME_WAIT (6) and TCP_LISTEN (10)
    assert sockets_request(socket.AF_INET6, ALICE.packed) == (
        bytes.fromhex("0a060000" + states) + bytes(48) + bytes.fromhex(
            "14000100 08101400 02200000 ffffffff c0000202"
        )
    )  # fmt: skip
    assert sockets_request(socket.AF_INET6, bytes(16))[56:] == (
        bytes.fromhex("20000100 081c2000 0a800000 ffffffff") + bytes(16)
    )


@pytest.mark.parametrize(
    ("family", "prefix", "length"), [(socket.AF_INET, b"", 4), (socket.AF_INET6, bytes(10) + b"\xff\xff", 4)]
)
def test_mapped_addresses_are_ipv4_addresses(family: int, prefix: bytes, length: int) -> None:
    local, peer = prefix + SERVER, prefix + ALICE.packed
    identity = b"\x08\xae\x9c\x40" + local.ljust(16, b"\0") + peer.ljust(16, b"\0") + bytes(12)
    assert socket_ends(family, identity) == FOUND.ends
    assert len(socket_ends(family, identity)[0]) == length


def test_ipv6_addresses_stay_what_they_are() -> None:
    local, peer = (ip_address(f"2001:db8::{number}").packed for number in (1, 2))
    identity = b"\x00\x16\x9c\x40" + local + peer + bytes(12)
    assert socket_ends(socket.AF_INET6, identity) == (local, b"\0\x16", peer, b"\x9c\x40")


def test_the_key_for_the_service_that_may_not_speak_first() -> None:
    assert cut_key(FOUND) == bytes.fromhex("c0000202 06000000 08ae0000")
