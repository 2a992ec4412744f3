"""The main job: a knock opens the door, for its sender alone, for a while."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from support.kernel_doors import seconds_left, until_shut
from support.netns import connect, until, v4, v6
from support.server import CLIENT, KNOCK_PORT, SERVER, UNUSED, ServerWorld, echoes

pytestmark = pytest.mark.root
both_versions = pytest.mark.parametrize("version", [4, 6])

# A host that lets nothing in by itself, not even what belongs to an established connection.
DROPPING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""


@both_versions
@pytest.mark.parametrize(("hidden_as", "hidden"), [("drop", "filtered"), ("reject", "closed")])
def test_nmap_finds_the_door_only_from_where_the_knock_came(
    make_world: Callable[..., ServerWorld], version: int, hidden_as: str, hidden: str
) -> None:
    world = make_world(hidden_as=hidden_as)
    alice = world.add("alice", server_host=SERVER[version])
    world.serve(tcp=[22])
    world.start()
    shut = {"22/tcp": hidden, f"{KNOCK_PORT}/tcp": hidden}
    assert world.nmap(world.client, "22", str(KNOCK_PORT), version=version) == shut
    world.knock(alice, "--check")
    assert world.nmap(world.client, "22", str(KNOCK_PORT), version=version) == {
        "22/tcp": "open",
        f"{KNOCK_PORT}/tcp": "open",
    }
    assert world.nmap(world.stranger, "22", str(KNOCK_PORT), version=version) == shut
    assert world.tcp(world.client, 22, 10 - version) == hidden, "the other family was not knocked for"


@both_versions
def test_a_client_gets_its_port_list_ranges_and_udp(world: ServerWorld, version: int) -> None:
    world.set_ports(default="[22/tcp]", web="[80/tcp, 8080-8082/tcp]", names="[53/udp, 9000]")
    alice = world.add("alice", "--ports", "web,names,5000-5001/udp", server_host=SERVER[version])
    tcp, udp = (22, 80, 8080, 8082, 8083, 9000), (53, 5001, 5002, 9000)
    world.serve(tcp=tcp, udp=udp)
    world.start()
    knocked_for = {(world.tcp, port) for port in (80, 8080, 8082, 9000)} | {
        (world.udp, port) for port in (53, 5001, 9000)
    }
    unmanaged = {(world.tcp, 8083), (world.udp, 5002)}

    def found(host: str) -> set[object]:
        looks = [(world.tcp, port) for port in tcp] + [(world.udp, port) for port in udp]
        with ThreadPoolExecutor(len(looks)) as pool:
            seen = pool.map(lambda look: look[0](getattr(world, host), look[1], version), looks)
            return {look for look, state in zip(looks, seen, strict=True) if state == "open"}

    assert found("client") == unmanaged
    world.knock(alice, "--check")
    assert found("client") == unmanaged | knocked_for
    assert found("stranger") == unmanaged


def test_rules_hold_on_the_named_interface_alone(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(interface="eth0")
    connect(world.server, world.client, device="eth1", subnet=1)
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    assert world.tcp(world.client, 22) == "filtered"
    with world.socket_on(world.client, socket.SOCK_STREAM) as other:
        other.connect((v4(1, subnet=1), 22))
    world.knock(alice, "--check")
    assert world.tcp(world.client, 22) == "open"


def test_an_interface_named_on_the_command_line_stands_above_the_config(world: ServerWorld) -> None:
    connect(world.server, world.client, device="eth1", subnet=1)
    world.serve(tcp=[22])
    world.start("--interface", "eth1")
    assert world.tcp(world.client, 22) == "open"


@both_versions
def test_on_a_host_that_drops_by_itself_knock_and_door_work(world: ServerWorld, version: int) -> None:
    world.server.nft(DROPPING_HOST)
    alice = world.add("alice", server_host=SERVER[version])
    world.serve(tcp=[22])
    world.start()
    assert world.tcp(world.client, 22, version) == "filtered"
    world.knock(alice, "--check")
    assert world.tcp(world.client, 22, version) == "open"
    assert world.tcp(world.stranger, 22, version) == "filtered"


def test_open_knock_port_false_leaves_the_knock_port_to_the_host(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(open_knock_port=False)
    world.server.nft(DROPPING_HOST)
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.send(world.packet(alice))
    assert world.tcp(world.client, 22) == "filtered"
    assert world.sessions() == []
    world.server.nft(f"add rule inet host in udp dport {KNOCK_PORT} accept")
    world.opens(alice, port=22)


def test_drop_ports_false_leaves_managed_ports_to_the_host(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(drop_ports=False)
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    assert world.tcp(world.client, 22) == "open"
    assert world.tcp(world.client, KNOCK_PORT) == "filtered", "the health port is hidden whatever drop_ports says"
    world.stop()
    world.server.nft(DROPPING_HOST)
    world.start()
    assert world.tcp(world.client, 22) == "filtered"
    world.opens(alice, port=22)
    assert world.tcp(world.stranger, 22) == "filtered"


@both_versions
def test_a_door_closes_by_itself_and_a_knock_starts_its_time_afresh(
    make_world: Callable[..., ServerWorld], version: int
) -> None:
    world = make_world(knock_timeout="2s")
    alice = world.add("alice", server_host=SERVER[version])
    world.serve(tcp=[22])
    world.start()

    world.opens(alice, version=version, port=22)
    until_shut(world.server, at_most=2)
    assert world.tcp(world.client, 22, version) == "filtered"
    world.says("alice: closed for")
    world.opens(alice, version=version, port=22)
    before = max(seconds_left(world.server))
    until(lambda: max(seconds_left(world.server), default=0) < before)
    # From here on it can only become less, unless a knock begins it anew.
    before = max(seconds_left(world.server), default=0)
    world.send(world.packet(alice), version=version)
    until(lambda: max(seconds_left(world.server), default=0) > before)
    until_shut(world.server, at_most=2)
    until(lambda: world.sessions() == [])


@both_versions
@pytest.mark.parametrize("host", ["accepts", "drops"])
def test_an_established_connection_outlives_the_grant(
    make_world: Callable[..., ServerWorld], version: int, host: str
) -> None:
    world = make_world(knock_timeout="1s")
    if host == "drops":
        world.server.nft(DROPPING_HOST)
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, version=version, port=22)
    connection = world.connection(world.client, 22, version)
    until(lambda: world.tcp(world.client, 22, version) == "filtered", 5)
    assert echoes(connection)
    world.stop()
    if host == "accepts":
        assert echoes(connection)


@both_versions
def test_two_clients_behind_one_address_hold_their_doors_apart(world: ServerWorld, version: int) -> None:
    world.set_ports(default="[22/tcp]", web="[80/tcp]")
    alice, bob = world.add("alice"), world.add("bob", "--ports", "web")
    world.serve(tcp=[22, 80])
    world.start()
    world.opens(alice, version=version, port=22)
    assert world.tcp(world.client, 80, version) == "filtered"
    world.opens(bob, version=version, port=80)
    world.revoke("alice")
    assert world.tcp(world.client, 22, version) == "filtered"
    assert world.tcp(world.client, 80, version) == "open"
    assert [(s["client_name"], s["ip"]) for s in world.sessions()] == [("bob", str(ip_address(CLIENT[version])))]


def test_other_ports_of_the_host_are_left_alone(world: ServerWorld) -> None:
    world.add("alice")
    world.serve(tcp=[UNUSED], udp=[UNUSED])
    world.start()
    for version in (4, 6):
        assert world.tcp(world.stranger, UNUSED, version) == "open"
        assert world.udp(world.stranger, UNUSED, version) == "open"


@pytest.mark.parametrize(("target", "version"), [(v4(3), 4), (v6(3), 6), (f"::ffff:{v4(3)}", 4)])
def test_a_knock_can_name_the_address_to_open_for(world: ServerWorld, target: str, version: int) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--ip", target)
    until(lambda: world.tcp(world.stranger, 22, version) == "open", 5)
    assert world.tcp(world.client, 22, version) == "filtered"


def test_no_knock_opens_for_the_server_itself(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start()
    world.knock(alice, "--ip", v4(1))
    world.says("alice: refused: own_address")
