"""Doors for a network: who else gets in, who does not, and what is left when they end.

The client has 192.0.2.2 and .6, the stranger .3 and .12, and the like of IPv6, 2001:db8::2 and so on. With prefixes of
29 and 125 the network around the client is .0 to .7.
"""

import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from support.netns import add_addresses, until, v4, v6
from support.server import SERVER, Seen, ServerWorld

pytestmark = pytest.mark.root
both_versions = pytest.mark.parametrize("version", [4, 6])
MakeWorld = Callable[..., ServerWorld]
NETWORK = {4: "192.0.2.0/29", 6: "2001:db8::/125"}
INSIDE, OUTSIDE = ("client", 6), ("stranger", 12)


@pytest.fixture
def make_wide(make_world: MakeWorld) -> MakeWorld:
    def make(**settings: object) -> ServerWorld:
        world = make_world(**{"prefix_v4": 29, "prefix_v6": 125} | settings)
        add_addresses(world.client, 6)
        add_addresses(world.stranger, 12)
        return world

    return make


def address(number: int, version: int) -> str:
    return str(ip_address(v4(number) if version == 4 else v6(number)))


def add_alice(world: ServerWorld, version: int) -> Path:
    """Her profile names her first address, as which of two the kernel takes is not ours to say."""
    return world.add("alice", server_host=SERVER[version], lines=f"ip: {address(2, version)}")


def seen(world: ServerWorld, port: int, version: int = 4, *, udp: bool = False) -> dict[str, Seen]:
    """How a port looks from each address of the hosts beside the server."""
    look = world.udp if udp else world.tcp
    places = {"client": 2, "client too": 6, "stranger inside": 3, "stranger outside": 12}
    return {
        name: look(getattr(world, name.split()[0]), port, version, source=address(number, version))
        for name, number in places.items()
    }


def all_but_outside(inside: Seen, outside: Seen) -> dict[str, Seen]:
    return {"client": inside, "client too": inside, "stranger inside": inside, "stranger outside": outside}


@both_versions
@pytest.mark.parametrize(("hidden_as", "hidden"), [("drop", "filtered"), ("reject", "closed")])
def test_the_door_is_open_for_the_network_and_shut_beside_it(
    make_wide: MakeWorld, version: int, hidden_as: str, hidden: Seen
) -> None:
    world = make_wide(hidden_as=hidden_as)
    world.set_ports(default="[22/tcp, 53/udp]")
    alice = add_alice(world, version)
    world.serve(tcp=[22], udp=[53])
    world.start()
    assert set(seen(world, 22, version).values()) == {hidden}
    assert set(seen(world, 53, version, udp=True).values()) == {"filtered"}
    world.knock(alice, "--check")
    assert seen(world, 22, version) == all_but_outside("open", hidden)
    assert seen(world, 53, version, udp=True) == all_but_outside("open", "filtered")
    assert world.tcp(world.client, 22, 10 - version) == hidden, "the other family was not knocked for"
    world.says(f"opened 22/tcp, 53/udp for {address(2, version)} and its network {NETWORK[version]} for 30s")
    (session,) = world.sessions()
    assert (session["ip"], session["network"]) == (address(2, version), NETWORK[version])


@both_versions
def test_a_carrier_that_sends_tcp_from_another_address_than_udp(make_wide: MakeWorld, version: int) -> None:
    """The receipt too is fetched over TCP, and names the address that the server saw, and the network."""
    world = make_wide()
    alice = add_alice(world, version)
    world.serve(tcp=[22])
    world.start()
    family, other = ("ip", v4(6)) if version == 4 else ("ip6", v6(6))
    world.client.nft(
        f"table {family} carrier {{ chain out {{ type nat hook postrouting priority srcnat;"
        f" meta l4proto tcp snat to {other}; }}; }}"
    )
    shown = world.knock(alice, "--check")
    assert f"22/tcp for {address(2, version)} and its network {NETWORK[version]} until" in shown.stdout
    (receipt,) = json.loads(world.status(alice, "--json").stdout)["receipts"]
    assert (receipt["ip"], receipt["network"]) == (address(2, version), NETWORK[version])
    assert world.tcp(world.client, 22, version) == "open"
    world.edit(**{f"prefix_v{version}": 32 if version == 4 else 128})
    world.says("config in force")
    world.ask("close", name="alice")
    assert world.knock(alice, "--check", code=3).stdout.startswith("closed")


def test_every_beginning_meets_the_door_and_who_is_in_goes_on(make_wide: MakeWorld) -> None:
    world = make_wide(knock_timeout="2s")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    with closing(world.connection(world.stranger, 22, source=v4(3))) as neighbour:
        until(lambda: world.tcp(world.client, 22) == "filtered", 10)
        assert seen(world, 22) == all_but_outside("filtered", "filtered")
        neighbour.sendall(b"lives on")
        assert neighbour.recv(100) == b"lives on"


def test_a_narrower_prefix_shuts_the_door_for_those_outside_and_for_nobody_else(make_wide: MakeWorld) -> None:
    world = make_wide(knock_timeout="1m")
    world.set_ports(default="[22/tcp, 53/udp]")
    alice = world.add("alice")
    world.serve(tcp=[22], udp=[53])
    world.start()
    world.knock(alice, "--check")
    with (
        closing(world.socket_on(world.stranger, socket.SOCK_DGRAM, source=v4(3))) as near,
        closing(world.socket_on(world.client, socket.SOCK_DGRAM, source=v4(6))) as far,
    ):
        for end in (near, far):
            end.connect((SERVER[4], 53))
            assert echoed(end)
        world.edit(prefix_v4=31)
        until(lambda: world.tcp(world.client, 22, source=v4(6)) == "filtered", 5)
        expected = {
            "client": "open",
            "client too": "filtered",
            "stranger inside": "open",
            "stranger outside": "filtered",
        }
        assert seen(world, 22) == expected
        (session,) = world.sessions()
        assert session["network"] == "192.0.2.2/31"
        until(lambda: not echoed(far), 5)
        assert echoed(near), "an exchange from the network that is left goes on"


def test_a_shorter_prefix_is_said_and_the_open_door_follows(make_wide: MakeWorld) -> None:
    world = make_wide(knock_timeout="1m")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    world.edit(prefix_v4=28)
    world.says("client alice may do more than before: prefix_v4 is shorter, 28 (it was 29)")
    until(lambda: world.tcp(world.stranger, 22, source=v4(12)) == "open", 5)


def test_another_length_that_comes_or_goes_leaves_open_doors_alone(make_wide: MakeWorld) -> None:
    world = make_wide(knock_timeout="1m")
    alice = world.add("alice")
    bob = world.add("bob")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    before = world.config.read_text()
    world.write_config(before.replace("  bob:\n", "  bob:\n    prefix_v4: 32\n", 1))
    world.says("config in force")
    world.knock(bob, "--check", host=world.stranger)
    assert seen(world, 22) == all_but_outside("open", "filtered")
    world.ask("close", name="alice")
    only_bob = {name: "open" if name == "stranger inside" else "filtered" for name in seen(world, 22)}
    assert seen(world, 22) == only_bob
    world.write_config(before)
    until(lambda: world.tcp(world.client, 22) == "open", 5)  # bob's follows into his network, which is alice's too


@pytest.mark.parametrize("narrower", [False, True])
def test_after_kill_9_a_start_takes_the_network_over_unless_it_is_narrower_now(
    make_wide: MakeWorld,
    narrower: bool,  # noqa: FBT001
) -> None:
    world = make_wide(knock_timeout="1m")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    assert world.process is not None
    world.kill()
    assert seen(world, 22) == all_but_outside("open", "filtered"), "the kernel holds the door"
    if narrower:
        world.edit(prefix_v4=31)
    world.start()
    if narrower:
        assert set(seen(world, 22).values()) == {"filtered"}
        assert world.sessions() == []
        return
    assert seen(world, 22) == all_but_outside("open", "filtered")
    (session,) = world.sessions()
    assert (session["ip"], session["network"]) == (v4(2), NETWORK[4])
    world.says(f"alice: still open for {v4(2)} and its network {NETWORK[4]} from before this start")
    world.ask("close", name="alice")
    assert set(seen(world, 22).values()) == {"filtered"}


@both_versions
def test_a_revocation_cuts_what_came_from_all_over_the_network_and_nothing_else(
    make_wide: MakeWorld, version: int
) -> None:
    world = make_wide(knock_timeout="1m")
    world.set_ports(default="[22/tcp]", bobs="[22/tcp]")
    alice, bob = world.add("alice", server_host=SERVER[version]), world.add("bob", server_host=SERVER[version])
    text = world.config.read_text()
    world.write_config(text.replace("  bob:\n", "  bob:\n    prefix_v4: 32\n    prefix_v6: 128\n", 1))
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    world.knock(bob, "--check", f"--ip={address(12, version)}", host=world.stranger, code=None)
    near = world.connection(world.stranger, 22, version, source=address(3, version))
    also = world.connection(world.client, 22, version, source=address(6, version))
    bobs = world.connection(world.stranger, 22, version, source=address(12, version))
    with near, also, bobs:
        done = world.openme(world.server, "--config", world.config, "revoke", "alice", "--cut", code=0)
        assert "connections cut: 2" in done.stderr
        for end in (near, also):
            with pytest.raises(ConnectionResetError):
                end.recv(100)
        bobs.sendall(b"stays")
        assert bobs.recv(100) == b"stays"


def test_what_the_server_itself_asks_in_the_network_is_not_cut(make_wide: MakeWorld) -> None:
    """It has an address in there, too, and its neighbours have services on ports of the same numbers."""
    world = make_wide()
    world.set_ports(default="[53/udp]")
    alice = world.add("alice")
    world.start()
    world.knock(alice, "--check")
    with (
        closing(world.socket_on(world.stranger, socket.SOCK_DGRAM)) as resolver,
        closing(world.socket_on(world.server, socket.SOCK_DGRAM)) as asking,
    ):
        resolver.bind((v4(3), 53))
        asking.connect((v4(3), 53))
        asking.send(b"question")
        sender = resolver.recvfrom(100)[1]
        world.server.nft(
            "table inet host { chain in { type filter hook input priority 0; policy drop;"
            " ct state established accept; }; }"
        )
        world.openme(world.server, "--config", world.config, "close", "alice", "--cut", code=0)
        resolver.sendto(b"answer", sender)
        assert asking.recv(100) == b"answer"


@both_versions
@pytest.mark.parametrize("first", ["client", "service"])
def test_an_exchange_between_equal_ports_ends_with_the_right_whoever_began_it(
    make_wide: MakeWorld, version: int, first: str
) -> None:
    """As of two ends of a VPN. The server's own address is in the network, too, and no client's for that."""
    world = make_wide(knock_timeout="1m")
    world.set_ports(default="[51820/udp]")
    alice = add_alice(world, version)
    world.start()
    world.knock(alice, "--check")
    with (
        closing(world.socket_on(world.server, socket.SOCK_DGRAM, version)) as service,
        closing(world.socket_on(world.client, socket.SOCK_DGRAM, version)) as client,
    ):
        service.bind((SERVER[version], 51820))
        client.bind((address(6, version), 51820))
        service.connect((address(6, version), 51820))
        client.connect((SERVER[version], 51820))
        for one, other in ((client, service), (service, client)) if first == "client" else ((service, client),) * 2:
            one.send(b"datagram")
            assert other.recv(100) == b"datagram"
        client.send(b"datagram")
        assert service.recv(100) == b"datagram"
        world.openme(world.server, "--config", world.config, "revoke", "alice", code=0)
        client.send(b"datagram")
        with pytest.raises(TimeoutError):
            service.recv(100)


def test_a_flush_of_the_ruleset_costs_no_network_its_door(make_wide: MakeWorld) -> None:
    world = make_wide(knock_timeout="1m")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    world.server.nft("flush ruleset")
    until(lambda: world.tcp(world.stranger, 22, source=v4(12)) == "filtered", 5)
    assert seen(world, 22) == all_but_outside("open", "filtered")


def test_no_set_has_intervals(make_wide: MakeWorld) -> None:
    world = make_wide()
    world.add("alice")
    world.start()
    rules = world.server.run("nft", "list", "table", "inet", "openme")
    assert re.search("tcp dport 22 ip saddr & 255.255.255.248 (== )?@v4_", rules)
    assert re.search("tcp dport 22 ip6 saddr & ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8 (== )?@v6_", rules)
    assert "interval" not in rules


def echoed(end: socket.socket) -> bool:
    """Whether a datagram goes to the service and back."""
    word = str(time.monotonic_ns()).encode()
    try:
        end.send(word)
        while end.recv(100) != word:
            pass
    except TimeoutError:
        return False
    return True
