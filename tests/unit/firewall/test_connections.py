"""Bytes to and from conntrack and sock_diag, written out by hand from the kernel's headers."""

import socket
import struct
import sys
from ipaddress import ip_address, ip_network

import pytest

from openme.firewall.base import CutTarget, IPAddress
from openme.firewall.connections import Connection, Wanted, _parsed, cut_key
from openme.netlink.codec import attribute, framed, nested
from openme.netlink.conntrack import addresses_of, deletion
from openme.netlink.sock_diag import HALF_OPEN_STATES, STATES, Ends, socket_ends, sockets_request
from openme.ports import parse_port_spec, port

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
UDP_ORIGINAL = ORIGINAL[:28] + b"\x11" + ORIGINAL[29:]
FOUND = Connection(
    ALICE,
    port("tcp", 22),
    ORIGINAL,
    None,
    b"\1\2\3\4",
    (SERVER, b"\x08\xae", ALICE.packed, b"\x9c\x40"),
    alive=True,
    by_door=True,
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


def parsed(
    payload: bytes,
    address: IPAddress,
    ports: str,
    *,
    established: bool = True,
    half_open: frozenset[Ends] = frozenset(),
) -> Connection | None:
    """What is to end by this row, where this address and these ports are the target."""
    return _parsed(payload, Wanted([CutTarget(address, parse_port_spec(ports), established)]), half_open)


def test_a_message_is_framed() -> None:
    assert framed(0x102, 5, 7, b"\2\0\0\0") == bytes.fromhex("14000000 0201 0500 07000000 00000000 02000000")


def test_a_connection_is_deleted_by_its_tuple_id_and_zone() -> None:
    head = bytes.fromhex("02000000 34000180") + ORIGINAL + bytes.fromhex("08000c00 01020304")
    assert deletion(FOUND.version, FOUND.tuple_, FOUND.id, None) == (0x102, head, 0)
    assert deletion(FOUND.version, FOUND.tuple_, FOUND.id, b"\0\7") == (
        0x102,
        head + bytes.fromhex("06001200 00070000"),
        0,
    )


def test_a_connection_that_a_door_has_let_in() -> None:
    assert parsed(row(), ALICE, "22/tcp") == FOUND
    assert parsed(row(more=attribute(18, b"\0\7")), ALICE, "20-22") == FOUND._replace(zone=b"\0\7")


@pytest.mark.parametrize(("state", "alive"), [(3, True), (5, True), (7, False), (8, False)])
def test_a_connection_that_is_over_does_not_count(state: int, alive: bool) -> None:  # noqa: FBT001
    found = parsed(row(state=state), ALICE, "22/tcp")
    assert found is not None
    assert found.alive is alive


@pytest.mark.parametrize("ports", ["22/udp", "2222/tcp", "23-24", "1-21"])
def test_other_ports_are_left_alone(ports: str) -> None:
    assert parsed(row(), ALICE, ports) is None


@pytest.mark.parametrize("labels", [b"", bytes(16), b"\x80" + bytes(15), bytes(15) + b"\x7f"])
def test_without_the_label_it_is_none_of_ours(labels: bytes) -> None:
    assert parsed(row(labels=labels), ALICE, "22/tcp") is None


def test_the_address_must_be_the_source() -> None:
    assert parsed(row(original=REPLY), ALICE, "40000/tcp") is None
    assert parsed(row(original=REPLY), ip_address("192.0.2.1"), "40000/tcp") is not None


def test_protocols_without_ports_are_none_of_ours() -> None:
    ping = ORIGINAL[:20] + nested(2, attribute(1, b"\1") + attribute(5, b"\x08"))
    assert parsed(row(original=ping), ALICE, "1-65535") is None


@pytest.mark.parametrize("payload", [row()[:-1], row(original=ORIGINAL[:-4] + b"\x05\0\x03\0\1\0\0\0")])
def test_rows_that_make_no_sense(payload: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        parsed(payload, ALICE, "22/tcp")


@pytest.mark.parametrize(("states", "bits"), [(STATES, "bf1b0000"), (HALF_OPEN_STATES, "08100000")])
def test_sockets_are_asked_for_by_their_state(states: int, bits: str) -> None:
    # All but TCP_TIME_WAIT (6) and TCP_LISTEN (10); TCP_SYN_RECV (3) and TCP_NEW_SYN_RECV (12) alone.
    assert sockets_request(socket.AF_INET6, states) == bytes.fromhex("0a060000" + bits) + bytes(48)


@pytest.mark.parametrize(("state", "begins"), [(1, True), (2, True), (9, True), (3, False), (4, False), (7, False)])
def test_without_established_ones_only_handshakes_under_way_end(state: int, begins: bool) -> None:  # noqa: FBT001
    assert (parsed(row(state=state), ALICE, "22", established=False) is not None) is begins


def test_a_handshake_is_under_way_as_long_as_its_socket_says_so() -> None:
    assert parsed(row(), ALICE, "22", established=False, half_open=frozenset({FOUND.ends})) == FOUND


def test_udp_ends_also_without_established_ones() -> None:
    assert parsed(row(original=UDP_ORIGINAL), ALICE, "22/udp", established=False) is not None
    assert parsed(row(original=UDP_ORIGINAL), ALICE, "22/tcp", established=False) is None


def test_targets_for_one_address_keep_their_ports_apart() -> None:
    wanted = Wanted([CutTarget(ALICE, parse_port_spec("22/tcp")), CutTarget(ALICE, parse_port_spec("23/tcp"), True)])  # noqa: FBT003
    both = port("tcp", 22), port("tcp", 23)
    assert [wanted.has(ALICE.packed, service, begins=False) for service in both] == [False, True]
    assert [wanted.has(ALICE.packed, service, begins=True) for service in both] == [True, True]
    assert not wanted.has(ALICE.packed, port("udp", 23), begins=True)
    assert not wanted.has(SERVER, both[1], begins=True)


def test_nothing_is_wanted_of_targets_without_ports() -> None:
    assert not Wanted([CutTarget(ALICE, (), established=True)])
    assert Wanted([CutTarget(ALICE, parse_port_spec("22/udp"))]).has_tcp is False


def test_a_network_wants_what_comes_from_all_its_addresses_and_from_none_beside_it() -> None:
    targets = [
        CutTarget(network.network_address, parse_port_spec("22"), established, network)
        for network, established in ((ip_network("192.0.2.0/28"), True), (ip_network("2001:db8:1::/48"), False))
    ]
    wanted = Wanted([*targets, CutTarget(ip_address("192.0.2.99"), parse_port_spec("23/tcp"))])
    assert wanted
    assert wanted.has_tcp
    inside = [ip_address(text).packed for text in ("192.0.2.0", "192.0.2.15", "2001:db8:1::", "2001:db8:1:ffff::9")]
    outside = [ip_address(text).packed for text in ("192.0.2.16", "192.0.1.255", "2001:db8:2::", "::192.0.2.1")]
    ssh = port("tcp", 22)
    assert [wanted.concerns([address]) for address in (*inside, *outside, b"")] == [True] * 4 + [False] * 5
    assert [wanted.has(address, ssh, begins=True) for address in (*inside, *outside)] == [True] * 4 + [False] * 4
    assert [wanted.has(address, ssh, begins=False) for address in inside] == [True, True, False, False]
    assert not wanted.has(inside[0], port("tcp", 23), begins=True)
    assert wanted.has(ip_address("192.0.2.99").packed, port("tcp", 23), begins=True)
    assert not wanted.has(ip_address("192.0.2.99").packed, ssh, begins=True)


def test_what_this_host_asks_in_a_network_is_not_wanted_unless_its_own_address_is_named() -> None:
    network, own = ip_network("192.0.2.0/24"), ip_address("192.0.2.1")
    target = CutTarget(network.network_address, parse_port_spec("22"), network=network)
    wanted = Wanted([target], lambda packed: packed == own.packed)
    assert [wanted.has(a.packed, port("udp", 22), begins=True) for a in (own, ALICE)] == [False, True]
    wanted.add([CutTarget(own, parse_port_spec("22/udp"))])
    assert wanted.has(own.packed, port("udp", 22), begins=True)


def test_mapped_targets_are_ipv4_targets() -> None:
    wanted = Wanted([CutTarget(ip_address("::ffff:192.0.2.2"), parse_port_spec("22/tcp"))])
    assert wanted.concerns([ALICE.packed])


def test_the_addresses_are_found_without_parsing_and_by_parsing() -> None:
    assert addresses_of(row()) == (ALICE.packed, SERVER)
    six, other = ip_address("2001:db8::2").packed, ip_address("2001:db8::1").packed
    tuple_six = nested(1, attribute(3, six) + attribute(4, other)) + nested(2, attribute(1, b"\x06"))
    assert addresses_of(bytes.fromhex("0a000000") + nested(1, tuple_six)) == (six, other)
    # The kernel may put another attribute first some day.
    later = bytes.fromhex("02000000") + attribute(12, b"\1\2\3\4") + nested(1, ORIGINAL)
    assert addresses_of(later) == (ALICE.packed, SERVER)
    assert addresses_of(bytes.fromhex("07000000") + attribute(12, b"\1\2\3\4")) == (b"", b"")


def test_an_udp_exchange_is_ended_whether_or_not_a_door_let_it_in() -> None:
    found = parsed(row(original=UDP_ORIGINAL, labels=b""), ALICE, "22/udp", established=False)
    assert found is not None
    assert not found.by_door


def test_an_udp_exchange_that_the_service_has_begun_is_one_with_its_client() -> None:
    begun = REPLY[:28] + b"\x11" + REPLY[29:]  # from port 2222 to the client's 40000
    found = parsed(row(original=begun, labels=b""), ALICE, "2222/udp", established=False)
    assert found is not None
    assert (found.address, found.service) == (ALICE, port("udp", 2222))
    assert found.ends == (SERVER, b"\x08\xae", ALICE.packed, b"\x9c\x40")
    assert parsed(row(original=begun, labels=b""), ALICE, "40000/udp", established=False) is None
    assert parsed(row(original=REPLY), ALICE, "2222/tcp") is None


@pytest.mark.parametrize(
    ("family", "prefix", "length"), [(socket.AF_INET, b"", 4), (socket.AF_INET6, bytes(10) + b"\xff\xff", 4)]
)
def test_mapped_addresses_are_ipv4_addresses(family: int, prefix: bytes, length: int) -> None:
    local, peer = prefix + SERVER, prefix + ALICE.packed
    socket_id = b"\x08\xae\x9c\x40" + local.ljust(16, b"\0") + peer.ljust(16, b"\0") + bytes(12)
    assert socket_ends(family, socket_id) == FOUND.ends
    assert len(socket_ends(family, socket_id)[0]) == length


def test_ipv6_addresses_stay_what_they_are() -> None:
    local, peer = (ip_address(f"2001:db8::{number}").packed for number in (1, 2))
    socket_id = b"\x00\x16\x9c\x40" + local + peer + bytes(12)
    assert socket_ends(socket.AF_INET6, socket_id) == (local, b"\0\x16", peer, b"\x9c\x40")


def test_the_key_for_the_service_that_may_not_speak_first() -> None:
    assert cut_key(FOUND) == bytes.fromhex("c0000202 06000000 08ae0000")
