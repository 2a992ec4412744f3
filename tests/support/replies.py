"""What a host answers to probes, header by header, so that two ports can be compared reply by reply.

A `Watch` sees probes and replies on the scanner's own cable. A reply's numbers are written relative to its probe's, as
nmap draws them by lot.
"""

import select
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from typing import NamedTuple

from support.netns import Namespace

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
ICMP = {4: 1, 6: 58}
UNREACHABLE = {4: 3, 6: 1}


class Packet(NamedTuple):
    """An IP packet: what its header tells but addresses, and what it carries."""

    version: int
    source: str
    header: tuple[object, ...]
    proto: int
    payload: bytes


class Port(NamedTuple):
    """A port of the scanned host."""

    proto: int
    number: int

    def __str__(self) -> str:
        return f"{self.number}/{'tcp' if self.proto == TCP else 'udp'}"


class Answers(NamedTuple):
    """How often a port was probed, and all that came of it."""

    probes: list[bytes]
    replies: list[tuple[object, ...]]

    @property
    def character(self) -> tuple[float, frozenset[tuple[object, ...]]]:
        """What a scanner could tell a port by: replies to each probe, and what they are."""
        return len(self.replies) / len(self.probes), frozenset(self.replies)


Replies = dict[Port, Answers]


class Watch:
    """What `host` answers to one scan."""

    def __init__(self, host: str, wire: socket.socket) -> None:
        self._host = str(ip_address(host))
        self._wire = wire
        self._probes: dict[tuple[Port, int], bytes] = {}

    def replies(self) -> Replies:
        """All replies since the last call, by the port that they tell of; a port that was probed in vain has none."""
        replies: Replies = defaultdict(lambda: Answers([], []))
        while select.select([self._wire], [], [], 0)[0]:
            frame, address = self._wire.recvfrom(65536)
            packet = _parsed(frame)
            if packet is None:
                continue
            if address[2] == PACKET_OUTGOING and packet.proto in (TCP, UDP):
                here, there = _ports(packet.payload)
                self._probes[Port(packet.proto, there), here] = packet.payload
                replies[Port(packet.proto, there)].probes.append(packet.payload)
            elif packet.source == self._host:
                _note(packet, self._probes, replies)
        return dict(replies)


@contextmanager
def watch(scanner: Namespace, host: str) -> Iterator[Watch]:
    """Watch the scanner's cable for what `host` answers."""
    with scanner.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with closing(wire):
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        wire.bind(("eth0", ETH_P_ALL))
        yield Watch(host, wire)


def _parsed(frame: bytes) -> Packet | None:
    kind, data = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == IPV4:
        size = (data[0] & 15) * 4
        length = int.from_bytes(data[2:4], "big")
        numbered = data[4:6] != b"\0\0"
        header4 = (data[1], length, numbered, data[6:8], data[8], data[20:size])
        return Packet(4, str(ip_address(data[12:16])), header4, data[9], data[size:length])
    if kind == IPV6:
        first = int.from_bytes(data[:4], "big")
        length = int.from_bytes(data[4:6], "big")
        header6 = (first >> 20 & 0xFF, first & 0xFFFFF != 0, length, data[7])
        return Packet(6, str(ip_address(data[8:24])), header6, data[6], data[40 : 40 + length])
    return None


def _ports(payload: bytes) -> tuple[int, int]:
    return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")


def _note(packet: Packet, probes: dict[tuple[Port, int], bytes], replies: Replies) -> None:
    if packet.proto in (TCP, UDP):
        there, here = _ports(packet.payload)
        port = Port(packet.proto, there)
        told = _tcp(packet.payload, probes[port, here]) if packet.proto == TCP else (packet.payload[8:],)
        replies[port].replies.append((*packet.header, packet.proto, *told))
    elif packet.proto == ICMP[packet.version] and packet.payload[0] == UNREACHABLE[packet.version]:
        quoted = packet.payload[8:]
        proto, size = (quoted[9], (quoted[0] & 15) * 4) if packet.version == 4 else (quoted[6], 40)
        _, there = _ports(quoted[size:])
        told = (packet.payload[:2], packet.payload[4:8], len(quoted))
        replies[Port(proto, there)].replies.append((*packet.header, packet.proto, *told))


def _tcp(reply: bytes, probe: bytes) -> tuple[object, ...]:
    sequence, acknowledged = (int.from_bytes(reply[place : place + 4], "big") for place in (4, 8))
    sent, known = (int.from_bytes(probe[place : place + 4], "big") for place in (4, 8))
    size = (reply[12] >> 4) * 4
    return (
        "seq 0" if sequence == 0 else f"seq ack+{(sequence - known) % 2**32}",
        "ack 0" if acknowledged == 0 else f"ack seq+{(acknowledged - sent) % 2**32}",
        reply[12:14].hex(),  # header length and flags
        int.from_bytes(reply[14:16], "big"),  # window
        reply[18:20],  # urgent pointer
        reply[20:size],  # options
        reply[size:],
    )
