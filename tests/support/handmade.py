"""Packets made by hand and what comes back, on the cable of a namespace: for what no kernel would send.

    with wire(client, server, version=4) as cable:
        cable.send(cable.tcp(40000, 22, SYN, seq=7))
        answer = cable.tcp_answer(40000, 22)

They come from an address of their own, `cable.source`, that the sender's kernel does not have, so that it neither
answers nor resets what it knows nothing of. The server is told where to find it.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from support.netns import DEADLINE, Namespace, until, v4, v6

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
ETH_P_ALL = 3
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
ICMP = {4: 1, 6: 58}
PHANTOM = 77  # the host number of the address that the packets come from
MSS, SACK_PERMITTED = b"\x02\x04\x05\x78", b"\x04\x02"
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33


class Segment(NamedTuple):
    """A TCP segment from the server."""

    flags: int
    seq: int
    ack: int
    payload: bytes


@dataclass
class Cable:
    """One end of a cable, and the two addresses that packets bear."""

    version: int
    source: str
    destination: str
    _socket: socket.socket
    _ethernet: bytes

    # -- packets

    def ip(self, proto: int, payload: bytes, *, to: str | None = None, options: bytes = b"", hops: int = 64) -> bytes:
        """An IP packet. `options`: of IPv4, a multiple of four bytes; of IPv6, whole extension headers, the first of
        which `proto` names.
        """
        near, far = (ip_address(address).packed for address in (self.source, to or self.destination))
        if self.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(options + payload), proto, hops) + near + far + options + payload
        size = 20 + len(options)
        head = struct.pack("!BBHHHBBH", 4 << 4 | size // 4, 0, size + len(payload), 7, 0, hops, proto, 0)
        head += near + far + options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

    def segment(
        self,
        source: int,
        destination: int,
        flags: int,
        *,
        seq: int = 0,
        ack: int = 0,
        options: bytes = b"",
        payload: bytes = b"",
        offset: int | None = None,
        urgent: int = 0,
        to: str | None = None,
        wrong: int = 0,
    ) -> bytes:
        """A TCP segment without its IP header. `offset`: what it says of its header's length; `wrong` is added to the
        checksum.
        """
        options += bytes(-len(options) % 4)
        if offset is None:
            offset = 5 + len(options) // 4
        made = struct.pack(
            "!HHIIBBHHH", source, destination, seq % 2**32, ack % 2**32, offset << 4, flags, 64000, 0, urgent
        )
        return self._summed(TCP, made + options + payload, 16, to, wrong)

    def tcp(
        self, source: int, destination: int, flags: int, *, seq: int = 0, ack: int = 0, payload: bytes = b""
    ) -> bytes:
        """A TCP segment in a packet, with the options of a SYN if it is one."""
        options = MSS + SACK_PERMITTED if flags & SYN else b""
        made = self.segment(source, destination, flags, seq=seq, ack=ack, options=options, payload=payload)
        return self.ip(TCP, made)

    def datagram(
        self, source: int, destination: int, payload: bytes = b"", *, to: str | None = None, wrong: int = 0
    ) -> bytes:
        """A UDP datagram without its IP header."""
        made = struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload
        return self._summed(UDP, made, 6, to, wrong)

    def udp(self, source: int, destination: int, payload: bytes = b"", *, to: str | None = None) -> bytes:
        """A UDP datagram in a packet."""
        return self.ip(UDP, self.datagram(source, destination, payload, to=to), to=to)

    def _summed(self, proto: int, made: bytes, at: int, to: str | None, wrong: int) -> bytes:
        near, far = (ip_address(address).packed for address in (self.source, to or self.destination))
        total = (checksum(near + far + struct.pack("!HH", proto, len(made)) + made) + wrong) % 2**16
        return made[:at] + struct.pack("!H", total or 0xFFFF) + made[at + 2 :]

    # -- the wire

    def send(self, *packets: bytes, ethernet: bytes | None = None) -> None:
        """Put packets on the cable. `ethernet`: another Ethernet header."""
        for packet in packets:
            self._socket.send((ethernet or self._ethernet) + packet)

    @property
    def broadcast(self) -> bytes:
        """An Ethernet header that is for everybody."""
        return b"\xff" * 6 + self._ethernet[6:]

    def heard(self) -> list[bytes]:
        """The packets for our address that have come since the last call, without waiting."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            frame, address = self._socket.recvfrom(65536)
            mine = ip_address(self.source).packed
            at = slice(30, 34) if self.version == 4 else slice(38, 54)
            kind = int.from_bytes(frame[12:14], "big")
            if address[2] != PACKET_OUTGOING and kind == ETHERTYPE[self.version] and frame[at] == mine:
                found.append(frame[14:])
        return found

    def answer(self, wanted: Callable[[bytes], bool], seconds: float = DEADLINE) -> bytes | None:
        """The first packet that is wanted; None when the time is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            for packet in self.heard():
                if wanted(packet):
                    return packet
        return None

    def tcp_answer(self, ours: int, theirs: int, seconds: float = DEADLINE, *, flags: int = 0) -> Segment | None:
        """The next segment from their port to ours with all of these flags; None when the time is over."""

        def wanted(packet: bytes) -> bool:
            proto, payload = self.carried(packet)
            ports = struct.pack("!HH", theirs, ours)
            return proto == TCP and payload[:4] == ports and payload[13] & flags == flags

        packet = self.answer(wanted, seconds)
        if packet is None:
            return None
        _, segment = self.carried(packet)
        seq, ack, offset, seen = struct.unpack_from("!IIBB", segment, 4)
        return Segment(seen, seq, ack, segment[(offset >> 4) * 4 :])

    def carried(self, packet: bytes) -> tuple[int, bytes]:
        """Protocol and payload of a packet without extension headers."""
        if self.version == 6:
            return packet[6], packet[40:]
        size = (packet[0] & 15) * 4
        return packet[9], packet[size : int.from_bytes(packet[2:4], "big")]


@contextmanager
def wire(
    near: Namespace, far: Namespace, version: int, *, number: int = PHANTOM, device: str = "eth0"
) -> Iterator[Cable]:
    """The cable of `near`, for packets to `far`, which has host number 1."""
    macs = [host.run("cat", f"/sys/class/net/{device}/address").strip() for host in (near, far)]
    source, destination = ((v4(number), v4(1)), (v6(number), v6(1)))[version == 6]
    far.run("ip", "neighbour", "replace", source, "lladdr", macs[0], "dev", device, "nud", "permanent")
    with near.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with closing(made):
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        made.bind((device, ETH_P_ALL))
        here, there = (bytes.fromhex(mac.replace(":", "")) for mac in macs)
        yield Cable(version, source, destination, made, there + here + struct.pack("!H", ETHERTYPE[version]))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class HandmadeConnection:
    """A TCP connection to an echo service, kept by hand; it can end at the server without conntrack noticing."""

    def __init__(self, cable: Cable, ours: int, theirs: int) -> None:
        self.cable = cable
        self.ports = ours, theirs
        self.seq = self.ack = 0

    def begin(self, isn: int, *, flags: int = SYN, seconds: float = DEADLINE) -> bool:
        """Shake hands; whether the server did."""
        self.cable.heard()
        self.cable.send(self.cable.tcp(*self.ports, flags, seq=isn))
        answer = self.cable.tcp_answer(*self.ports, seconds)
        if answer is None or answer.flags & (SYN | ACK) != SYN | ACK or answer.ack != (isn + 1) % 2**32:
            return False
        self.seq, self.ack = isn + 1, answer.seq + 1
        self._send(ACK)
        return True

    def echoes(self, word: bytes, seconds: float = DEADLINE) -> bool:
        """Whether a service behind the connection says it back."""
        self._send(PSH | ACK, word)
        self.seq += len(word)
        answer = self.cable.tcp_answer(*self.ports, seconds, flags=PSH)
        if answer is None or answer.payload != word:
            return False
        self.ack = answer.seq + len(word)
        self._send(ACK)
        return True

    def end_behind_conntracks_back(self, server: Namespace) -> None:
        """The server acknowledges what came out of order, and takes a reset at its right edge (RFC 5961, as Linux does
        it); for conntrack that reset is out of order, and the connection lives on for days.
        """
        self.cable.heard()
        self._send(ACK, b"z" * 10, ahead=100)
        assert self.cable.tcp_answer(*self.ports) is not None, "the selective acknowledgement"
        self._send(RST, ahead=110)
        until(lambda: not has_connection(server, self.ports[1], self.ports[0]))
        assert conntrack_calls_it_established(server, *self.ports)

    def _send(self, flags: int, payload: bytes = b"", *, ahead: int = 0) -> None:
        self.cable.send(self.cable.tcp(*self.ports, flags, seq=self.seq + ahead, ack=self.ack, payload=payload))


def has_connection(server: Namespace, here: int, there: int) -> bool:
    """Whether a socket of the server has an established TCP connection between these ports."""
    wanted, established = (f"{here:04X}", f"{there:04X}"), "01"
    lines = _of_the_kernel(server, "tcp") + _of_the_kernel(server, "tcp6")
    rows = [line.split() for line in lines if established in line]
    return any((row[1][-4:], row[2][-4:]) == wanted and row[3] == established for row in rows)


def conntrack_calls_it_established(server: Namespace, there: int, here: int) -> bool:
    """Whether conntrack holds an established TCP connection from one port to the other."""
    return any(
        " ESTABLISHED " in line and f" sport={there} dport={here} " in line
        for line in _of_the_kernel(server, "nf_conntrack")
    )


def _of_the_kernel(host: Namespace, name: str) -> list[str]:
    with host.entered():
        return Path("/proc/thread-self/net", name).read_text().splitlines()
