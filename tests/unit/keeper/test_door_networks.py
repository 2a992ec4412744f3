"""Doors for a network: whose addresses they are for, what a knock from beside does, and what a changed config does."""

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from openme.clocks import Now
from openme.config.model import ClientEntry, ServerConfig
from openme.firewall.base import CutTarget, PortList
from openme.firewall.memory import MemoryFirewall
from openme.keeper.grants import Grant
from openme.keeper.keeper import Keeper
from openme.keeper.lost_rights import lost_by_change, lost_by_keys, lost_to
from openme.keeper.policy import Opening, PolicyRefusal, decide, door_network
from openme.keeper.rules import rules_for
from openme.ports import parse_port_spec, port
from openme.store.base import Holder
from openme.wire.knock import IPAddress
from support.knocks import ALICE, BOB, NOW, NS, START, Judge, config, judged, keeper, later, packet
from support.steps import done

SSH, WEB = parse_port_spec("22/tcp"), parse_port_spec("443/tcp")
NEAR, BESIDE, FAR = (ip_address(f"203.0.{part}") for part in ("113.5", "113.200", "7.5"))
NET, WIDE = ip_network("203.0.113.0/24"), ip_network("203.0.0.0/16")
FIRST = NET.network_address
NEAR6, BESIDE6 = ip_address("2001:db8:1:2::5"), ip_address("2001:db8:1:2:ffff::7")
OWN = ip_address("203.0.113.1")


def alice(fields: str = "prefix_v4: 24", others: str = "") -> ServerConfig:
    return config(f"{{alice: {{ed25519_pubkey: KEY_A, {fields}}}{others}}}")


def entry(fields: str = "prefix_v4: 24") -> ClientEntry:
    return alice(fields).clients["alice"]


def listed(ports: object = SSH, v4: int = 24, v6: int = 128) -> PortList:
    assert isinstance(ports, tuple)
    return PortList(ports, prefix_v4=v4, prefix_v6=v6)


def admitted(judge: Judge, source: IPAddress = NEAR, seconds: float = 0, who: object = ALICE, **named: str) -> Grant:
    """A knock is accepted, and its grant in force."""
    datagram = packet(who, START + round(seconds * NS), label=(str(source), seconds), **named)  # type: ignore[arg-type]
    grant = judged(judge, datagram, later(seconds), source).grant
    assert grant is not None
    judge.grants.add(grant)
    return grant


# -- policy


def decided(client: ClientEntry, target: str | None = None, source: IPAddress = NEAR) -> Opening | str:
    wanted = None if target is None else ip_address(target)
    outcome = decide(client, wanted, source, NOW.utc, 30, 54154, lambda address: address == OWN)
    return outcome.reason if isinstance(outcome, PolicyRefusal) else outcome


def test_a_door_is_for_the_network_around_the_address_and_the_health_port_too() -> None:
    outcome = decided(entry("prefix_v4: 24, prefix_v6: 64"))
    lists = listed(v6=64), listed((port("tcp", 54154),), v6=64)
    assert outcome == Opening(NEAR, lists, 30, NET)
    assert decided(entry("prefix_v6: 64"), str(NEAR6)) == Opening(
        NEAR6,
        (listed(v4=32, v6=64), listed((port("tcp", 54154),), v4=32, v6=64)),
        30,
        ip_network("2001:db8:1:2::/64"),
    )


def test_without_a_prefix_for_its_version_a_door_is_for_the_address_alone() -> None:
    outcome = decided(entry("prefix_v6: 64"))
    assert isinstance(outcome, Opening)
    assert outcome.network is None


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (str(OWN), "own_address"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.1", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("::1", "loopback"),
        ("ff02::1", "multicast"),
    ],
)
def test_the_address_itself_has_to_pass_though_its_network_is_wide(target: str, reason: str) -> None:
    assert decided(entry("prefix_v4: 16, prefix_v6: 48"), target) == reason


def test_the_whole_network_has_to_be_in_allowed_from() -> None:
    whole = entry("prefix_v4: 24, allowed_from: [203.0.113.0/24]")
    assert isinstance(decided(whole), Opening)
    assert decided(whole, str(FAR)) == "allowed_from"
    # Not through the file, which is refused; the knock is as well.
    half = replace(whole, allowed_from=(ip_network("203.0.113.0/25"),))
    assert decided(half) == "allowed_from"
    halves = replace(whole, allowed_from=tuple(NET.subnets()))
    assert isinstance(decided(halves), Opening)
    others = replace(whole, allowed_from=(ip_network("2001:db8::/32"),))
    assert decided(others) == "allowed_from"


def test_a_client_cannot_ask_for_another_network_than_its_entry_says() -> None:
    """All that a knock names is an address: whichever it is, the length is the config's."""
    for target in ("203.0.113.0", "203.0.113.255", "203.0.0.0", "203.0.113.5"):
        outcome = decided(entry(), target)
        assert isinstance(outcome, Opening)
        assert outcome.network is not None
        assert (outcome.network.prefixlen, ip_address(target) in outcome.network) == (24, True)


# -- grants


def test_a_knock_from_beside_refreshes_the_same_grant_and_is_named() -> None:
    judge = keeper(alice())
    first = admitted(judge)
    assert (first.address, first.network, first.named) == (FIRST, NET, NEAR)
    assert first.place == "203.0.113.5 and its network 203.0.113.0/24"
    second = admitted(judge, BESIDE, 10)
    (held,) = judge.grants
    assert (held.named, held.deadline, held.opened_at) == (BESIDE, second.deadline, first.opened_at)
    assert second.doors == first.doors == ((listed(), FIRST), (listed((port("tcp", 54154),)), FIRST))


def test_two_clients_of_one_network_share_a_door_for_the_longer_time() -> None:
    judge = keeper(config(server="prefix_v4: 24"))
    one = admitted(judge)
    other = admitted(judge, BESIDE, 10, BOB)
    assert one.doors == other.doors
    change = judge.grants.remove([other], NOW.monotonic + 15)
    assert [(door.address, door.seconds) for door in change.open] == [(FIRST, 15.0)] * 2
    assert change.close == ()


def test_a_neighbour_with_an_address_alone_shares_nothing_with_the_network() -> None:
    judge = keeper(alice(others=", bob: {ed25519_pubkey: KEY_B}"))
    admitted(judge)
    other = admitted(judge, FIRST, 0, BOB)
    assert other.doors[0] == (PortList(SSH), FIRST)
    change = judge.grants.remove([other], NOW.monotonic)
    assert change.close == other.doors
    assert [grant.client_name for grant in judge.grants] == ["alice"]


def test_a_door_is_open_for_every_address_of_its_network_and_none_beside_it() -> None:
    judge = keeper(alice("prefix_v4: 24, prefix_v6: 64", ", bob: {ed25519_pubkey: KEY_B, allowed_ports: [443/tcp]}"))
    admitted(judge)
    admitted(judge, NEAR6)
    admitted(judge, FIRST, 0, BOB)
    inside = (FIRST, NEAR, BESIDE, ip_address("203.0.113.255"), NEAR6, BESIDE6)
    outside = (FAR, ip_address("203.0.112.255"), ip_address("203.0.114.0"), ip_address("2001:db8:1:3::5"))
    assert [judge.grants.is_open(address, *SSH) for address in (*inside, *outside)] == [True] * 6 + [False] * 4
    assert [judge.grants.is_open(address, *WEB) for address in inside] == [True] + [False] * 5


# -- a changed config


def test_a_narrower_network_leaves_nothing_of_the_wider_one() -> None:
    judge = keeper(alice("prefix_v4: 16"))
    admitted(judge)
    outcome = judge.reconfigure(alice("prefix_v4: 24"), later(10))
    (held,) = judge.grants
    assert (held.address, held.network, held.named, held.deadline) == (FIRST, NET, NEAR, NOW.monotonic + 30)
    assert {(d.port_list.prefix_v4, d.address, d.seconds) for d in outcome.change.open} == {(24, FIRST, 20.0)}
    assert {item.prefix_v4 for item in outcome.rules.port_lists} == {24, 32}, "32: the health port of everybody"
    assert not judge.grants.is_open(FAR, *SSH)
    assert [(before.network, after.network) for before, after in outcome.moved] == [(WIDE, NET)]


def test_a_narrower_network_closes_the_wider_door_where_its_rules_live_on() -> None:
    both = ", bob: {ed25519_pubkey: KEY_B, prefix_v4: 16}"
    judge = keeper(alice("prefix_v4: 16", both))
    admitted(judge)
    outcome = judge.reconfigure(alice("prefix_v4: 32", both), later(1))
    assert {(item.prefix_v4, address) for item, address in outcome.change.close} == {(16, WIDE.network_address)}
    assert {(d.port_list.prefix_v4, d.address) for d in outcome.change.open} == {(32, NEAR)}


def test_doors_that_come_to_be_for_one_network_are_one_for_the_longer_time() -> None:
    judge = keeper(alice("prefix_v4: 32"))
    admitted(judge, BESIDE, 20)
    admitted(judge, NEAR, 0)
    outcome = judge.reconfigure(alice("prefix_v4: 24"), later(25))
    (held,) = judge.grants
    assert (held.network, held.named, held.deadline) == (NET, BESIDE, NOW.monotonic + 50)
    assert {(d.address, d.seconds) for d in outcome.change.open} == {(FIRST, 25.0)}


def test_a_network_that_allowed_from_no_longer_holds_ends_its_doors() -> None:
    judge = keeper(alice())
    admitted(judge)
    outcome = judge.reconfigure(alice("prefix_v4: 24, allowed_from: [203.0.112.0/24]"), later(1))
    assert [why for _, why in outcome.ended] == ["allowed_from"]
    narrower = keeper(alice())
    admitted(narrower)
    assert narrower.reconfigure(alice("prefix_v4: 25, allowed_from: [203.0.113.0/25]"), later(1)).ended == ()


CONFIGS = [
    alice(f"prefix_v4: {length}{ports}", f", bob: {{ed25519_pubkey: KEY_B, prefix_v4: {other}}}")
    for length in (16, 17, 24, 30, 32)
    for ports in ("", ", allowed_ports: [443/tcp]", ", allowed_from: [203.0.113.0/24, 198.51.0.0/16]")
    for other in (16, 24, 32)
    if not (length < 24 and "allowed_from" in ports)
] + [config("{bob: {ed25519_pubkey: KEY_B, prefix_v4: 20}}"), alice("prefix_v4: 24, expires: 2026-11-23T12:01:00Z")]


@pytest.mark.parametrize("seed", range(150))
def test_whatever_changes_the_firewall_has_the_doors_of_the_grants_and_these_the_configs_networks(seed: int) -> None:
    draw = random.Random(seed)
    now = [NOW]
    judge = keeper(draw.choice(CONFIGS))
    firewall = MemoryFirewall(lambda: now[0].monotonic)
    firewall.start(rules_for(judge.config))
    for _ in range(60):
        now[0] = later(draw.random() * 4, now[0])
        judge.grants.expire(now[0].monotonic)
        if draw.random() < 0.6:
            knock(judge, firewall, draw, now[0])
            continue
        parsed = draw.choice(CONFIGS)
        addresses = judge.grants.addresses()
        draw.shuffle(addresses)
        first = addresses[: draw.randrange(len(addresses) + 1)]
        plan = judge.plan(parsed, now[0], None, first)
        firewall.apply(plan.rules, plan.change.open)
        judge.follow(plan)
        firewall.close(plan.change.close)
        if draw.random() < 0.5:  # a knock between two steps
            knock(judge, firewall, draw, now[0])
        for start in range(0, len(addresses), 2):
            plan = judge.plan(judge.config, now[0], None, addresses[start : start + 2])
            judge.settle(plan)
            firewall.open(plan.change.open)
            firewall.close(plan.change.close)
        agree(judge, firewall, now[0])


def knock(judge: Judge, firewall: MemoryFirewall, draw: random.Random, now: Now) -> None:
    source = ip_address(f"{draw.choice(('203.0.113', '203.0.7', '198.51.100'))}.{draw.choice((0, 5, 6, 130))}")
    datagram = packet(draw.choice((ALICE, BOB)), now.unix_ns, label=draw.random())
    grant = judged(judge, datagram, now, source).grant
    if grant is not None:
        assert firewall.rules is not None
        earlier = judge.grants.add(grant)
        change = judge.grants.changed_by([grant], [earlier], firewall.rules.port_lists, now.monotonic)
        firewall.open(change.open)
        firewall.close(change.close)


def agree(judge: Keeper, firewall: MemoryFirewall, now: Now) -> None:
    wanted: dict[tuple[PortList, IPAddress], float] = {}
    for grant in judge.grants:
        client = judge.client(grant.client_key)
        assert client is not None
        assert grant.network == door_network(client, grant.named)
        for key in grant.doors:
            wanted[key] = max(grant.deadline - now.monotonic, wanted.get(key, 0))
    found = {(door.port_list, door.address): door.seconds for door in firewall.doors()}
    assert found == pytest.approx(wanted, abs=0.01)


# -- what is lost


def holder(network: str | None = str(WIDE), *, ports: object = SSH) -> Holder:
    assert isinstance(ports, tuple)
    if network is None:
        return Holder(ALICE.public.raw, NEAR, "alice", ports, NOW.unix - 60, NOW.unix - 30)
    around = ip_network(network)
    times = NOW.unix - 60, NOW.unix - 30
    return Holder(ALICE.public.raw, around.network_address, "alice", ports, *times, around, NEAR)


def test_whoever_lost_all_loses_it_in_the_whole_network() -> None:
    expected = [CutTarget(WIDE.network_address, SSH, network=WIDE)]
    assert lost_to(holder(), None, NOW.utc) == expected
    assert lost_to(holder(), entry("prefix_v4: 16, allowed_from: [198.51.0.0/16]"), NOW.utc) == expected


def test_with_a_narrower_network_all_that_is_outside_it_is_lost_and_nothing_inside() -> None:
    lost = lost_to(holder(ports=(*SSH, *WEB)), entry(), NOW.utc)
    assert lost[0] == CutTarget(WIDE.network_address, WEB, network=WIDE)
    assert {target.ports for target in lost[1:]} == {SSH}
    outside = [target.network for target in lost[1:]]
    assert sum(network.num_addresses for network in outside if network is not None) == 2**16 - 2**8
    assert not any(network is None or network.overlaps(NET) for network in outside)
    alone = lost_to(holder(str(NET)), entry("prefix_v4: 32"), NOW.utc)
    assert sum(target.network.num_addresses for target in alone if target.network is not None) == 255


@pytest.mark.parametrize("held", [str(WIDE), str(NET), None])
def test_with_the_same_or_a_wider_network_nothing_is_lost(held: str | None) -> None:
    assert lost_to(holder(held), entry("prefix_v4: 16"), NOW.utc) == []


def test_a_network_that_was_knocked_from_since_keeps_what_is_its_own() -> None:
    """Or each start would end the exchanges of a client whose network was a wider one weeks ago."""
    client, elsewhere = entry(), ip_address("203.0.7.5")
    since = ip_network("203.0.7.0/24")
    later_on = Holder(ALICE.public.raw, since[0], "alice", SSH, NOW.unix - 9, NOW.unix + 9, since, elsewhere)
    lost = done(lost_by_keys([ALICE.public.raw], lambda _: client, lambda _: [holder(), later_on], NOW.utc))
    outside = [target.network for target in lost if target.network is not None]
    assert sum(network.num_addresses for network in outside) == 2**16 - 2 * 2**8
    assert not any(network.overlaps(NET) or network.overlaps(since) for network in outside)


def test_a_change_of_the_prefix_alone_is_looked_into() -> None:
    before, after = alice("prefix_v4: 16"), alice()
    keys = before.index.keys()
    lost = done(lost_by_change(keys, before.index.by_key, after.index.by_key, lambda _: [holder()], NOW.utc))
    assert len(lost) == 8
