"""What comes to the knock port takes no room in the host's connection table, and nobody else's packets are touched."""

import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from openme.firewall.nftables_rules import KNOCK_LENGTH
from openme.wire.v1 import PACKET_SIZE
from support.handmade import wire
from support.netns import until
from support.odd_probes import on_one_processor
from support.server import KNOCK_PORT, SERVER, UNUSED, ServerWorld
from support.shaped import shaped

pytestmark = pytest.mark.root

FLOOD = 500
MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC, VIFF_USE_IFINDEX = 200, 202, 204, 8  # linux/mroute.h
CHECKSUM_OFFSET = 6  # of a UDP header
DROPPING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ct state invalid drop
    }
}
"""
BEHIND = "198.51.100.2"  # an address that the server forwards to

both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., ServerWorld]]:
    with ExitStack() as stack:
        yield lambda **settings: ServerWorld(stack, tmp_path, **settings)


def flood(world: ServerWorld, port: int, size: int, version: int) -> None:
    """One datagram from each of many source ports."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with world.stranger.entered():
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    with closing(raw):
        if version == 6:  # without a checksum connection tracking takes no notice of it
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, CHECKSUM_OFFSET)
        for source in range(10_000, 10_000 + FLOOD):
            raw.sendto(
                struct.pack("!HHHH", source, port, 8 + size, 0) + secrets.token_bytes(size), (SERVER[version], 0)
            )


def tracked(world: ServerWorld) -> int:
    return int(world.server.run("sysctl", "-n", "net.netfilter.nf_conntrack_count"))


def test_the_length_is_that_of_a_knock() -> None:
    assert KNOCK_LENGTH == 8 + PACKET_SIZE


@both_versions
@pytest.mark.parametrize("host", ["", DROPPING_HOST], ids=["plain_host", "dropping_host"])
def test_a_flood_at_the_knock_port_does_not_fill_the_connection_table(
    make_world: Callable[..., ServerWorld], version: int, host: str
) -> None:
    world = make_world()
    world.server.nft(host)
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    before = tracked(world)
    flood(world, KNOCK_PORT, PACKET_SIZE, version)
    for size in (0, PACKET_SIZE - 1, PACKET_SIZE + 1, 1400):
        flood(world, KNOCK_PORT, size, version)
    # The knock comes through the same queue, after all of them; its door is the one connection.
    world.opens(alice, version=version, port=22)
    assert tracked(world) <= before + 10, "connections and attempts of this test's own"
    # What is dropped on input leaves nothing behind either.
    flood(world, UNUSED, PACKET_SIZE, version)
    assert tracked(world) <= before + 10
    if not host:
        # Without openme's rules about it, every datagram of such a flood is a connection.
        world.serve(udp=[UNUSED])
        flood(world, UNUSED, PACKET_SIZE, version)
        until(lambda: tracked(world) >= before + FLOOD, 5)


@both_versions
def test_a_few_datagrams_of_another_length_are_counted_and_a_flood_stays_in_the_kernel(
    make_world: Callable[..., ServerWorld], version: int
) -> None:
    world = make_world()
    alice = world.add("alice")
    world.start()
    knock = world.packet(alice)
    world.send(b"", knock[:-1], knock + b"\0", knock * 30, host=world.stranger, version=version)
    until(lambda: world.log().count("refused: length (") == 4)
    flood(world, KNOCK_PORT, 100, version)
    world.send(shaped(), host=world.stranger, version=version)
    world.says("refused: decrypt")
    # A burst of the limit's size passes too, and the flood may take longer than a second.
    assert world.log().count("refused: length (") < FLOOD * 3 / 4


def test_knocks_to_a_link_local_address_are_untracked_too(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world()
    world.add("alice")
    world.start()
    shown = until(
        lambda: world.server.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link", "-tentative")
    )
    address = shown.split()[3].partition("/")[0]
    index = int(world.stranger.run("cat", "/sys/class/net/eth0/ifindex"))
    before = tracked(world)
    with closing(world.socket_on(world.stranger, socket.SOCK_DGRAM, 6)) as sender:
        until(lambda: _sends(sender, b"\1" + bytes(PACKET_SIZE - 1), (address, KNOCK_PORT, 0, index)))
    world.says("refused: low_order")
    assert tracked(world) == before


def _sends(sender: socket.socket, datagram: bytes, where: tuple[str, int, int, int]) -> bool:
    try:
        return bool(sender.sendto(datagram, where))
    except OSError:  # the sender's own link-local address is not usable yet
        return False


EVERYBODY = {
    "broadcast": (4, "192.0.2.255"),
    "all hosts": (4, "224.0.0.1"),
    "all nodes": (6, "ff02::1"),
    "anycast": (6, "2001:db8::"),  # of the subnet's routers
}


@pytest.mark.parametrize("open_knock_port", [True, False])
@pytest.mark.parametrize(("version", "address"), EVERYBODY.values(), ids=EVERYBODY)
def test_a_flood_to_everybody_does_not_fill_the_connection_table(
    make_world: Callable[..., ServerWorld],
    version: int,
    address: str,
    open_knock_port: bool,  # noqa: FBT001
) -> None:
    world = make_world(open_knock_port=open_knock_port)
    world.server.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    alice = world.add("alice")
    world.serve(tcp=[22], udp=[UNUSED])
    world.start()
    before = tracked(world)
    with wire(world.stranger, world.server, version) as cable, on_one_processor():
        for port in (KNOCK_PORT, UNUSED):
            for size in (0, PACKET_SIZE):
                for source in range(10_000, 10_000 + FLOOD):
                    cable.send(cable.udp(source, port, bytes(size), to=address))
            if port == KNOCK_PORT:
                world.opens(alice, port=22)
                assert tracked(world) <= before + 10, "connections and attempts of this test's own"
    # Another port shows that they are connections otherwise.
    until(lambda: tracked(world) >= before + FLOOD, 5)
    assert "refused: length" not in world.log(), "none of them reaches the server"


def test_a_group_that_this_host_forwards_is_left_alone(make_world: Callable[..., ServerWorld]) -> None:
    """Routed multicast to the knock port's number goes on to the next host; the copy for this one is dropped."""
    world = make_world()
    world.add("alice")
    group = "239.1.2.3"
    world.server.run("ip", "link", "add", "behind", "type", "veth", "peer", "name", "far", "netns", world.client.name)
    world.server.run("ip", "address", "add", "198.51.100.1/24", "dev", "behind")
    world.server.run("ip", "link", "set", "behind", "up")
    world.client.run("ip", "link", "set", "far", "up")
    world.start()
    with ExitStack() as stack:
        with world.server.entered():
            router = stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)))
            indexes = [socket.if_nametoindex(name) for name in ("eth0", "behind")]
        router.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        for number, index in enumerate(indexes):
            vif = struct.pack("=HBBIi4s", number, VIFF_USE_IFINDEX, 1, 0, index, bytes(4))
            router.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        wanted = struct.pack("=4s4sH32B", socket.inet_aton("192.0.2.77"), socket.inet_aton(group), 0, 0, 1, *bytes(30))
        router.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, wanted + bytes(2 + 12 + 4))
        with world.client.entered():
            ear = stack.enter_context(closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))))
        ear.bind(("far", 0x0800))
        ear.settimeout(5)
        with wire(world.stranger, world.server, 4) as cable:
            packet = cable.ip(17, cable.datagram(1, KNOCK_PORT, b"somebody else's", to=group), to=group, hops=9)
            cable.send(packet)
        until(lambda: b"somebody else's" in ear.recv(2000))


def test_what_a_router_forwards_is_left_alone(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world()
    world.add("alice")
    world.server.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    world.server.run("ip", "route", "add", f"{BEHIND}/32", "via", "192.0.2.2")
    world.client.run("ip", "address", "add", f"{BEHIND}/32", "dev", "lo")
    world.stranger.run("ip", "route", "add", f"{BEHIND}/32", "via", SERVER[4])
    world.start()
    before = tracked(world)
    receiver = world.socket_on(world.client, socket.SOCK_DGRAM)
    with closing(receiver), closing(world.socket_on(world.stranger, socket.SOCK_DGRAM)) as sender:
        receiver.bind((BEHIND, KNOCK_PORT))
        receiver.settimeout(5)
        for datagram in (b"somebody else's", bytes(PACKET_SIZE)):
            sender.sendto(datagram, (BEHIND, KNOCK_PORT))
            assert receiver.recv(1000) == datagram
        assert tracked(world) > before, "NAT needs this"


def test_only_the_named_interface_is_treated(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(interface="eth7")
    world.add("alice")
    world.start()
    world.send(b"too short", host=world.stranger)
    world.says("refused: length")


def test_a_host_that_decides_itself_may_ask_for_new_connections(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(open_knock_port=False)
    world.server.nft(DROPPING_HOST)
    world.server.nft(f"add rule inet host in ct state new udp dport {KNOCK_PORT} accept")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
