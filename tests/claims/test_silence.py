"""`silence`: no datagram, valid or not, is ever answered: no UDP, no ICMP, no DNS query, nothing.

A tap on the switch sees every frame that leaves the server while it is knocked at in every way, also while it stops.
From the moment its table is gone the knock port is an unused port like any other, and the host may say so: the tap
knows that moment from the kernel itself, which tells of a table's end before anything of it can be seen on the wire.
"""

import random
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.client.knock import build
from openme.config.profile_model import Profile
from support.handmade import wire
from support.netns import Namespace, until
from support.server import CLIENT, KNOCK_PORT, SERVER, ServerWorld
from support.shaped import shaped

pytestmark = pytest.mark.root

KNOCKS = 10_000
SEED = 20261123
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
NETLINK_NETFILTER = 12
NFTABLES_GROUP = 1 << 6  # NFNLGRP_NFTABLES, as a bit
DELTABLE = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
ARP, IPV6 = 0x0806, 0x86DD
ICMPV6 = 58
NEIGHBOURS = range(133, 138)  # ICMPv6: router and neighbour discovery (RFC 4861)
MLD = (131, 132, 143)  # multicast listener reports, which neighbour discovery needs (RFC 3810)


class Tap:
    """Collects what leaves the server, other than address resolution, until its table is gone."""

    def __init__(self, stack: ExitStack, server: Namespace, switch: Namespace, server_port: str) -> None:
        self.leaks: list[str] = []
        self.after: list[str] = []
        self.neighbours = 0
        self.table_gone = False
        self._ended = False
        self._selector = selectors.DefaultSelector()
        with server.entered():
            self._events = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER))
            self._events.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            self._events.bind((0, NFTABLES_GROUP))
            self._events.setblocking(False)  # noqa: FBT003  # the standard library's signature
            self._watch(stack, "lo", incoming=False)
        with switch.entered():
            self._watch(stack, server_port, incoming=True)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self.end)

    def _watch(self, stack: ExitStack, device: str, *, incoming: bool) -> None:
        wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        if incoming:
            wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        wire.bind((device, ETH_P_ALL))
        wire.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._selector.register(wire, selectors.EVENT_READ, device)

    def end(self) -> None:
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.05):
                frame = key.fileobj.recv(65536)  # type: ignore[union-attr]  # they are sockets
                self._note(frame, key.data)
            self._drain_events()

    def _note(self, frame: bytes, device: str) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ARP or (kind == IPV6 and _icmpv6_type(frame) in {*NEIGHBOURS, *MLD}):
            self.neighbours += 1
            return
        # What the end of the table allows comes after it, so that the news of it is here already.
        self._drain_events()
        (self.after if self.table_gone else self.leaks).append(f"{device}: {frame[12:120].hex()}")

    def _drain_events(self) -> None:
        while True:
            try:
                message = self._events.recv(1 << 20)
            except BlockingIOError:
                return
            while len(message) >= 16:  # one datagram may tell of many changes
                length, kind = struct.unpack_from("=IH", message)
                if kind == DELTABLE and b"openme\0" in message[:length]:
                    self.table_gone = True
                message = message[(length + 3) & ~3 :]


def _icmpv6_type(frame: bytes) -> int:
    header, payload = frame[20], frame[54:]
    if header == 0:  # hop-by-hop options, with which multicast listener reports begin
        header, payload = payload[0], payload[8:]
    return payload[0] if header == ICMPV6 and payload else -1


def datagrams(alice: Profile) -> Iterator[bytes]:
    """Knocks, near-knocks and garbage of every length, without end; the same for the same seed but for the knocks."""
    chance = random.Random(SEED)
    good = build(alice, None, time.time_ns()).datagram
    while True:
        if chance.random() < 0.02:
            good = build(alice, ip_address(CLIENT[chance.choice((4, 6))]), time.time_ns()).datagram
        place = chance.randrange(len(good))
        yield from (
            good,
            good,  # the replay
            good[:place] + bytes([good[place] ^ 1 << chance.randrange(8)]) + good[place + 1 :],
            good[:place],
            good + chance.randbytes(chance.randrange(1, 200)),
            build(alice, None, time.time_ns() - 3600 * 10**9).datagram,
            shaped(),
            shaped(b"\x01" + bytes(32)),  # a low-order point
            b"\x01" + chance.randbytes(164),
            b"\x02" + chance.randbytes(164),
            chance.randbytes(165),
            chance.randbytes(chance.randrange(1400)),
            chance.randbytes(chance.randrange(1500, 4000)) if chance.random() < 0.1 else b"",
        )


def broken(version: int) -> Iterator[bytes]:
    """UDP headers that do not fit what follows: for a raw socket."""
    for length, ports in ((8, (1, KNOCK_PORT)), (173, (0, KNOCK_PORT)), (9000, (1, KNOCK_PORT)), (3, (53, KNOCK_PORT))):
        yield struct.pack("!HHHH", *ports, length, 0) + secrets.token_bytes(165)
    yield struct.pack("!HH", version, KNOCK_PORT)


def lost(world: ServerWorld) -> int:
    """Datagrams for which a queue had no room; what the kernel filter drops is not among them."""
    net = Path(f"/proc/{world.pids()[0]}/net")
    names, numbers = (line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Udp: "))
    counts = dict(zip(names, numbers, strict=True))
    counts |= dict(line.split() for line in (net / "snmp6").read_text().splitlines())
    return int(counts["RcvbufErrors"]) + int(counts["Udp6RcvbufErrors"])


def waiting(world: ServerWorld) -> int:
    """Bytes in the queue of the knock port."""
    assert lost(world) == 0, "datagrams were dropped"
    for line in Path(f"/proc/{world.pids()[0]}/net/udp6").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == KNOCK_PORT:
            return int(words[4].partition(":")[2], 16)
    raise AssertionError("nobody listens on the knock port")


def wrapped() -> Iterator[tuple[int, bytes]]:
    """Datagrams to the knock port behind IPv6 extension headers that the host complains of: next header, payload."""
    udp = struct.pack("!HHHH", 40000, KNOCK_PORT, 8 + 165, 0xFFFF) + bytes(165)
    for unknown in (0x80, 0xC0):  # RFC 8200 section 4.2: discard, and send Parameter Problem
        yield 60, bytes([17, 0, unknown, 4, 0, 0, 0, 0]) + udp
    yield 43, bytes([17, 2, 2, 1]) + bytes(20) + udp  # a routing header of a type that is not for hosts
    yield 43, bytes([17, 2, 99, 1]) + bytes(20) + udp  # and of one that nobody knows
    yield 44, bytes([17, 0, 0, 1, 0, 0, 0, 7]) + udp[:13]  # a first fragment whose length is no multiple of eight


def test_nothing_leaves_but_address_resolution(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path)
        alice = world.add("alice")
        world.add("bob")
        world.start()
        tap = Tap(stack, world.server, world.switch, "port1")
        senders = [
            (stack.enter_context(closing(world.socket_on(host, socket.SOCK_DGRAM, version))), SERVER[version])
            for host in (world.client, world.stranger)
            for version in (4, 6)
        ]
        sent = 0
        source = datagrams(world.profile(alice))
        while sent < KNOCKS:
            for sender, address in senders:
                sender.sendto(next(source), (address, KNOCK_PORT))
                sent += 1
            if sent % 400 == 0:  # each is to be read by the server, not lost in a full queue
                until(lambda: waiting(world) == 0)
        to_everybody = world.socket_on(world.client, socket.SOCK_DGRAM)
        with closing(to_everybody), closing(world.socket_on(world.client, socket.SOCK_DGRAM, 6)) as to_all_nodes:
            to_everybody.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            index = int(world.client.run("cat", "/sys/class/net/eth0/ifindex"))
            for _ in range(50):
                to_everybody.sendto(next(source), ("192.0.2.255", KNOCK_PORT))
                to_all_nodes.sendto(next(source), ("ff02::1", KNOCK_PORT, 0, index))
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with world.client.entered():
                raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
            with closing(raw):
                for datagram in broken(version):
                    raw.sendto(datagram, (SERVER[version], 0))
        with wire(world.client, world.server, 4) as cable:
            for options in (b"\7\7\3" + bytes(5), b"\x44\x0c\2\0" + bytes(8), b"\x44\x28\5\0", b"\x44\0\0\0"):
                # Options that a host complains of: wrong pointers and lengths.
                cable.send(cable.ip(17, cable.datagram(40000, KNOCK_PORT, bytes(165)), options=options))
        for header, datagram in wrapped():
            with world.client.entered():
                raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, header)
            with closing(raw):
                raw.sendto(datagram, (SERVER[6], 0))
        # It has been at work all the time, and nobody has heard of it.
        until(lambda: waiting(world) == 0)
        world.send(world.packet(world.folder / "bob.yaml", target=ip_address("192.0.2.99")))
        world.says("bob: opened 22/tcp for 192.0.2.99", 20)
        assert "alice: opened 22/tcp" in world.log()
        assert tap.leaks == []
        assert not tap.table_gone

        # Killed, with nobody behind the port any more: the table is there, and the host says nothing of it.
        world.kill()
        for sender, address in senders * 50:
            sender.sendto(next(source), (address, KNOCK_PORT))
        world.start()
        assert tap.leaks == []
        assert not tap.table_gone

        # On through the end, until the host itself answers for a port that is now unused.
        assert world.process is not None
        world.process.terminate()
        deadline = time.monotonic() + 10
        while not tap.after and time.monotonic() < deadline:
            for sender, address in senders:
                try:
                    sender.sendto(next(source), (address, KNOCK_PORT))
                except ConnectionRefusedError:  # the host's answer, from then on
                    continue
        assert world.wait() == 0
        assert tap.leaks == []
        assert tap.after, "the tap sees what leaves: without it, silence would show nothing"
        until(lambda: tap.neighbours > 0)
        tap.end()
        assert tap.leaks == []
