"""`target`: a door opens only for one unicast address that this client may use.

Every address is asked for by name in a knock that is otherwise perfect, and the reason of each refusal is asserted by
its name; then the same addresses are forged as the source of knocks that name none.
"""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from openme.firewall.base import PortList
from openme.firewall.nftables_rules import set_names
from openme.ports import parse_port_spec
from openme.wire.knock import IPAddress
from support.entries import refusal, restrict, verdict
from support.netns import until, v4, v6
from support.server import CLIENT, KNOCK_PORT, SERVER, ServerWorld

pytestmark = pytest.mark.root

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "::ffff:127.0.0.1": "loopback",
    "0.0.0.1": "unspecified",
    "0.255.255.255": "unspecified",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "::ffff:224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "ff0e::1": "multicast",
    "255.255.255.255": "broadcast",
    "::ffff:255.255.255.255": "broadcast",
    "240.0.0.1": "reserved",
    "255.255.255.254": "reserved",
    SERVER[4]: "own_address",
    SERVER[6]: "own_address",
    f"::ffff:{SERVER[4]}": "own_address",
    "192.0.2.255": "own_address",  # the directed broadcast address of the server's network
    "::ffff:192.0.2.255": "own_address",
    "198.51.100.7": "own_address",  # a second address of its own, on a device without traffic
    "198.51.100.255": "own_address",
    "2001:db8:0:7::7": "own_address",
    # IPv4 in IPv6's other clothes: compatible (as 127.0.0.1 and as an ordinary host) and translated.
    "::127.0.0.1": "embedded",
    f"::{CLIENT[4]}": "embedded",
    "::2": "embedded",
    "::ffff:0:127.0.0.1": "embedded",
    f"::ffff:0:{CLIENT[4]}": "embedded",
}
OPENED = {
    CLIENT[4]: CLIENT[4],
    CLIENT[6]: str(ip_address(CLIENT[6])),
    f"::ffff:{v4(9)}": v4(9),
    v6(9): str(ip_address(v6(9))),
    "10.1.2.3": "10.1.2.3",
    "169.254.7.7": "169.254.7.7",
    "fe80::77": "fe80::77",
    "fd00::7": "fd00::7",
    "223.255.255.255": "223.255.255.255",
    "1.0.0.0": "1.0.0.0",
}


@dataclass(frozen=True)
class Stage:
    world: ServerWorld
    alice: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path_factory.mktemp("target"))
        alice = world.add("alice")
        server = world.server
        server.run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
        for device in ("other0", "other1"):
            server.run("ip", "link", "set", device, "up")
        server.run("ip", "address", "add", "198.51.100.7/24", "broadcast", "+", "dev", "other0")
        server.run("ip", "address", "add", "2001:db8:0:7::7/64", "dev", "other0", "nodad")
        # The kernel itself is to let in what it can be told to let in.
        for name in ("all", "eth0"):
            server.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")
            server.run("sysctl", "-qw", f"net.ipv4.conf.{name}.accept_local=1")
            server.run("sysctl", "-qw", f"net.ipv4.conf.{name}.route_localnet=1")
        world.start()
        yield Stage(world, alice)


def ask(stage: Stage, target: IPAddress, name: str = "alice", profile: Path | None = None) -> str:
    return verdict(stage.world, name, stage.world.packet(profile or stage.alice, target=target))


def nobody_is_in(stage: Stage) -> bool:
    return stage.world.sessions() == [] and "expires" not in stage.world.server.run("nft", "list", "ruleset")


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_one_unicast_address_is_refused_by_name(stage: Stage, target: str) -> None:
    assert refusal(ask(stage, ip_address(target))) == REFUSED[target]
    assert nobody_is_in(stage)


def test_the_servers_link_local_address_is_its_own(stage: Stage) -> None:
    # For a second or so after the interface came up, the kernel looks whether somebody else has it.
    until(lambda: "tentative" not in stage.world.server.run("ip", "-6", "address", "show", "dev", "eth0"))
    shown = stage.world.server.run("ip", "-6", "-brief", "address", "show", "dev", "eth0", "scope", "link")
    own = shown.split()[2].partition("/")[0]
    assert refusal(ask(stage, ip_address(own))) == "own_address"


@pytest.mark.parametrize("target", OPENED)
def test_a_unicast_address_opens(stage: Stage, target: str) -> None:
    assert ask(stage, ip_address(target)).startswith(f"opened 22/tcp for {OPENED[target]} for")
    assert [session["ip"] for session in stage.world.sessions()] == [OPENED[target]]
    stage.world.ask("close", name="alice")


@pytest.mark.parametrize("wildcard", [IPv6Address("::"), IPv4Address("0.0.0.0")])
def test_both_spellings_of_nothing_mean_the_source(stage: Stage, wildcard: IPAddress) -> None:
    assert ask(stage, wildcard).startswith(f"opened 22/tcp for {CLIENT[4]} for")
    stage.world.ask("close", name="alice")


def test_allowed_from_holds_for_named_targets_and_for_sources(stage: Stage) -> None:
    world = stage.world
    bob = world.add("bob")
    restrict(world, "bob", "allowed_from: [10.0.0.0/8, 2001:db8:77::/48]")
    for target in (CLIENT[4], CLIENT[6], "11.0.0.1", f"::ffff:{CLIENT[4]}", "2001:db8:78::1"):
        assert refusal(ask(stage, ip_address(target), "bob", bob)) == "allowed_from"
    assert refusal(verdict(world, "bob", world.packet(bob))) == "allowed_from"
    assert refusal(verdict(world, "bob", world.packet(bob), version=6)) == "allowed_from"
    # What is refused to everybody stays refused inside a generous network.
    restrict(world, "bob", "max_timeout: 10s")
    assert nobody_is_in(stage)
    for target in ("10.9.9.9", "::ffff:10.9.9.9", "2001:db8:77::9"):
        assert "opened 22/tcp" in ask(stage, ip_address(target), "bob", bob)
    world.ask("close", name="bob")


def test_a_prefix_opens_the_network_of_its_length_and_no_address_that_is_refused(stage: Stage) -> None:
    """All that a knock names is an address; the shortest prefixes make none of those that are refused a good one."""
    world = stage.world
    carol = world.add("carol")
    restrict(world, "carol", "prefix_v4: 16", "prefix_v6: 48")
    assert {target: refusal(ask(stage, ip_address(target), "carol", carol)) for target in REFUSED} == REFUSED
    assert nobody_is_in(stage)
    for target in ("10.1.2.3", "10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3"):
        assert "and its network 10.1.0.0/16 for" in ask(stage, ip_address(target), "carol", carol)
    for target in ("2001:db8:77::", "2001:db8:77:ffff::9"):
        assert "and its network 2001:db8:77::/48 for" in ask(stage, ip_address(target), "carol", carol)
    elements = world.server.run("nft", "list", "table", "inet", "openme")
    assert set(re.findall(r"([0-9a-f.:]+) timeout \w+ expires", elements)) == {"10.1.0.0", "2001:db8:77::"}
    assert [session["network"] for session in world.sessions()] == ["10.1.0.0/16", "2001:db8:77::/48"]
    world.ask("close", name="carol")


def test_no_network_has_hosts_from_all_over_ipv4(stage: Stage) -> None:
    """Behind NAT64 the /64 of one IPv4 client is that of all, and Teredo's clients share those of few servers."""
    world = stage.world
    frank = world.add("frank")
    restrict(world, "frank", "prefix_v6: 64")
    # The last is no translated address, but would be in one /48 with all of them.
    for target in ("64:ff9b::c000:202", "64:ff9b:1::c000:202", "2001:0:c000:201::5", "64:ff9b:0:1::5"):
        assert refusal(ask(stage, ip_address(target), "frank", frank)) == "all_of_ipv4"
    assert nobody_is_in(stage)
    text = world.config.read_text()
    world.write_config(text.replace("    prefix_v6: 64\n", "    prefix_v6: 112\n"))
    assert world.ask("reload")["fault"] is None
    opened = ask(stage, ip_address("64:ff9b::c000:202"), "frank", frank)
    assert "and its network 64:ff9b::c000:0/112 for" in opened
    world.write_config(text)
    world.says("frank: closed for 64:ff9b::c000:202 and its network 64:ff9b::c000:0/112 (all_of_ipv4)")
    assert nobody_is_in(stage)


def test_allowed_from_must_hold_the_whole_network(stage: Stage) -> None:
    world = stage.world
    dave = world.add("dave")
    restrict(world, "dave", "prefix_v4: 24", "allowed_from: [10.1.2.0/24, 10.1.4.0/23]")
    for target in ("10.1.2.7", "10.1.5.7"):
        assert ask(stage, ip_address(target), "dave", dave).startswith("opened")
    for target in ("10.1.3.7", CLIENT[4], CLIENT[6]):
        assert refusal(ask(stage, ip_address(target), "dave", dave)) == "allowed_from"
    world.ask("close", name="dave")
    text = world.config.read_text()
    world.write_config(text.replace("allowed_from: [10.1.2.0/24, 10.1.4.0/23]", "allowed_from: [10.1.2.0/25]"))
    assert world.ask("reload")["fault"] is None
    assert ask(stage, ip_address("10.1.2.7"), "dave", dave).startswith("refused: disabled")
    assert nobody_is_in(stage)


def test_no_door_for_a_wider_network_outlives_a_config_that_narrows_it(stage: Stage) -> None:
    """Not where the wide network's rules live on for another client, and not by knocks that come meanwhile."""
    world = stage.world
    erin, other = world.add("erin"), world.add("other")
    restrict(world, "erin", "prefix_v4: 16")
    restrict(world, "other", "prefix_v4: 16")
    for number in range(150):  # more than follow a changed config in one step
        target = ip_address("10.0.0.0") + (number << 16) + 5
        world.send(world.packet(erin, target=target))
    until(lambda: len(world.sessions()) == 150)
    assert ask(stage, ip_address("10.200.0.5"), "other", other).startswith("opened")
    text = world.config.read_text()
    world.write_config(text.replace("  erin:\n    prefix_v4: 16\n", "  erin:\n    prefix_v4: 24\n"))
    for number in (0, 120, 149) * 20:
        world.send(world.packet(erin, target=ip_address("10.0.0.0") + (number << 16) + 5))

    def lengths() -> set[str]:
        return {session["network"][-3:] for session in world.sessions() if session["client_name"] == "erin"}

    until(lambda: lengths() == {"/24"})
    assert open_for(world, 16) == {"10.200.0.0"}
    assert len(open_for(world, 24)) == 150
    for name in ("erin", "other"):
        world.ask("close", name=name)
    assert nobody_is_in(stage)


def open_for(world: ServerWorld, length: int) -> set[str]:
    """The networks of this length that 22/tcp is open for, as the kernel has them."""
    name = set_names(PortList(parse_port_spec("22/tcp"), prefix_v4=length)).v4
    listed = world.server.run("nft", "list", "set", "inet", "openme", name)
    return set(re.findall(r"([0-9.]+) timeout", listed))


def test_forged_sources_open_nothing(stage: Stage) -> None:
    """Wildcard knocks whose datagrams claim to come from such addresses, on the wire itself."""
    world = stage.world
    mac = bytes.fromhex(world.server.run("cat", "/sys/class/net/eth0/address").strip().replace(":", ""))
    own = bytes.fromhex(world.client.run("cat", "/sys/class/net/eth0/address").strip().replace(":", ""))
    fence = world.add("fence")
    with world.client.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with closing(wire):
        wire.bind(("eth0", 0))
        for text in [*REFUSED, "0.0.0.0", "::"]:
            source = ip_address(text)
            wire.send(mac + own + _frame(source, world.packet(stage.alice)))
        # Behind all of them in the same queue: when this one is in, they have been judged.
        wire.send(mac + own + _frame(ip_address(v4(77)), world.packet(fence)))
    until(lambda: "fence: opened 22/tcp for 192.0.2.77" in world.log())
    assert [session["ip"] for session in world.sessions()] == [v4(77)]
    # Most never pass the kernel; one that does shows that the others would have been refused by us too.
    assert "alice: refused: reserved (from 240.0.0.1)" in world.log()
    world.ask("close", name="fence")


def _frame(source: IPAddress, packet: bytes) -> bytes:
    """Ethernet's type, IP and UDP headers around a knock."""
    udp = struct.pack("!HHHH", 40000, KNOCK_PORT, 8 + len(packet), 0)
    if isinstance(source, IPv4Address):
        target = IPv4Address(SERVER[4]).packed
        head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(packet), 1, 0, 64, 17, 0) + source.packed + target
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        return b"\x08\x00" + head + udp + packet
    target = IPv6Address(SERVER[6]).packed
    head = struct.pack("!IHBB", 6 << 28, 8 + len(packet), 17, 64) + source.packed + target
    pseudo = source.packed + target + struct.pack("!II", 8 + len(packet), 17)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + packet) or 0xFFFF)
    return b"\x86\xdd" + head + udp + packet


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\x00"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
