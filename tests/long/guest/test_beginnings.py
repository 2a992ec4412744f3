"""Whoever was let in once begins nothing new on this kernel, though conntrack still calls the connection established.

The client's segments are made by hand: the connection ends at the server, conntrack does not notice, and a SYN comes
over the same four numbers.
"""

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import pytest

from openme.firewall.base import Door, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.ports import merged, parse_port_spec
from support.netns import Namespace, connect, namespace, until, v4, v6

pytestmark = pytest.mark.root

SYN, RST, ACK = 0x02, 0x04, 0x10
MSS, SACK_PERMITTED = b"\x02\x04\x05\x78", b"\x04\x02\x01\x01"
OURS = 40000
SILENCE = 1.0
SSH = PortList(parse_port_spec("22/tcp"))
ONCE = PortList(parse_port_spec("2222/tcp"), single_use=True)
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + ONCE.ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH, ONCE}),
)
both_versions = pytest.mark.parametrize("version", [4, 6])

# What the client's own kernel knows nothing of it would reset; ours bear a mark.
_MARK = 7
_NO_RESETS = f"""
table inet ours {{
    chain out {{ type filter hook output priority 0; tcp flags & rst == rst meta mark != {_MARK} drop; }}
}}
"""
# Counts the beginnings that conntrack takes for part of a connection, before anybody judges them.
_WATCH = """
table inet watch {
    chain pre {
        type filter hook prerouting priority -100;
        tcp flags & (syn | ack) == syn ct state established counter;
    }
}
"""


class Answer(NamedTuple):
    flags: int
    seq: int


@dataclass
class Client:
    """A TCP connection kept by hand."""

    raw: socket.socket
    near: IPv4Address | IPv6Address
    far: IPv4Address | IPv6Address
    theirs: int
    seq: int = 0
    ack: int = 0

    def send(self, flags: int, *, ahead: int = 0, payload: bytes = b"") -> None:
        options = MSS + SACK_PERMITTED if flags == SYN else b""
        head = struct.pack("!HHII", OURS, self.theirs, (self.seq + ahead) % 2**32, self.ack % 2**32)
        made = head + struct.pack("!BBHHH", (20 + len(options)) // 4 << 4, flags, 64000, 0, 0) + options + payload
        pseudo = self.near.packed + self.far.packed + struct.pack("!HH", socket.IPPROTO_TCP, len(made))
        made = made[:16] + struct.pack("!H", _checksum(pseudo + made)) + made[18:]
        self.raw.sendto(made, (str(self.far), 0))

    def answer(self, seconds: float = 10) -> Answer | None:
        """The next segment for us; None when the time is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.raw.settimeout(left)
            try:
                packet = self.raw.recv(65536)
            except TimeoutError:
                return None
            if self.near.version == 4:
                packet = packet[(packet[0] & 15) * 4 :]
            if packet[:4] == struct.pack("!HH", self.theirs, OURS):
                return Answer(packet[13], int.from_bytes(packet[4:8], "big"))
        return None

    def begins(self, isn: int, seconds: float = 10) -> bool:
        """A SYN, and the end of the handshake if it is answered."""
        while self.answer(0.05):
            pass
        self.seq, self.ack = isn, 0
        self.send(SYN)
        answer = self.answer(seconds)
        if answer is None or answer.flags & (SYN | ACK) != SYN | ACK:
            return False
        self.seq, self.ack = isn + 1, answer.seq + 1
        self.send(ACK)
        return True

    def end_behind_conntracks_back(self, served: socket.socket) -> None:
        """A reset at the right edge of what the server has acknowledged out of order: TCP takes it (RFC 5961, as Linux
        does it); conntrack, for which it is out of order, goes on calling the entry established.
        """
        self.send(ACK, ahead=100, payload=b"z" * 10)
        assert self.answer() is not None, "the selective acknowledgement"
        self.send(RST, ahead=110)
        with closing(served), pytest.raises(ConnectionResetError):
            served.recv(1)


@dataclass
class Hosts:
    stack: ExitStack
    server: Namespace
    client: Namespace
    firewall: NftFirewall

    def listening(self, port: int, version: int) -> socket.socket:
        with self.server.entered():
            made = socket.create_server(
                (v4(1) if version == 4 else v6(1), port), family=socket.AF_INET if version == 4 else socket.AF_INET6
            )
        made.settimeout(10)
        return self.stack.enter_context(closing(made))

    def by_hand(self, port: int, version: int) -> Client:
        with self.client.entered():
            raw = socket.socket(
                socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP
            )
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        self.stack.callback(raw.close)
        near, far = ((v4(2), v4(1)), (v6(2), v6(1)))[version == 6]
        return Client(raw, ip_address(near), ip_address(far), port)

    def beginnings_in_established(self) -> int:
        found = re.search(r"counter packets (\d+)", self.server.run("nft", "list", "table", "inet", "watch"))
        assert found is not None
        return int(found[1])


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        client.nft(_NO_RESETS)
        server.nft(_WATCH)
        with server.entered():
            firewall = NftFirewall()
        firewall.start(RULES)
        yield Hosts(stack, server, client, firewall)


def assert_begins_nothing(hosts: Hosts, client: Client, listener: socket.socket) -> None:
    before = hosts.beginnings_in_established()
    assert not client.begins(1_000_000, SILENCE)
    assert hosts.beginnings_in_established() > before, "conntrack has noticed, and this shows nothing"
    listener.settimeout(SILENCE)
    with pytest.raises(TimeoutError):
        listener.accept()


@both_versions
@pytest.mark.parametrize("end", ["closed", "expired"])
def test_nothing_begins_over_an_old_connection_once_the_door_is(hosts: Hosts, version: int, end: str) -> None:
    listener = hosts.listening(22, version)
    client = hosts.by_hand(22, version)
    hosts.firewall.open([Door(SSH, client.near, 60)])
    assert client.begins(1000)
    client.end_behind_conntracks_back(listener.accept()[0])
    # With the door open the same numbers serve again.
    assert client.begins(500_000)
    client.end_behind_conntracks_back(listener.accept()[0])
    if end == "closed":
        hosts.firewall.close([(SSH, client.near)])
    else:
        hosts.firewall.open([Door(SSH, client.near, 0.1)])
        until(lambda: not hosts.firewall.doors())
    assert_begins_nothing(hosts, client, listener)


@both_versions
def test_nothing_begins_over_the_connection_that_took_a_single_use_door(hosts: Hosts, version: int) -> None:
    listener = hosts.listening(2222, version)
    client = hosts.by_hand(2222, version)
    hosts.firewall.open([Door(ONCE, client.near, 60)])
    assert client.begins(1000)
    client.end_behind_conntracks_back(listener.accept()[0])
    assert_begins_nothing(hosts, client, listener)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
