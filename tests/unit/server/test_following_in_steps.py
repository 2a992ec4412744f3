"""A changed config and many open doors: the switch is one step, the doors follow in others, knocks come between."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.control.requests import request_untrusted
from openme.firewall.base import IPAddress
from openme.keeper.grants import Grant
from openme.keeper.policy import client_lists
from openme.reasons import End
from openme.server import slices
from openme.server.doors import Doors
from support.keeper_process import KeeperWorld, keeper_world
from support.knocks import ALICE, packet

FIRST = ip_address("198.51.100.1")
ONLY_BOB = "{bob: {ed25519_pubkey: KEY_B}}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperWorld]:
    """Two addresses are followed in a step, and one step is a turn."""
    monkeypatch.setattr(Doors, "at_once", 2)
    monkeypatch.setattr(slices, "SHARE", 0)
    with keeper_world(tmp_path) as made:
        yield made


def let_in(world: KeeperWorld, name: str, *numbers: int, seconds: float = 30) -> list[str]:
    """Open doors for addresses; their texts."""
    keeper, now = world.parts.keeper, world.clock.now
    client = keeper.config.clients[name]
    lists = client_lists(client, keeper.config.health_port)
    grants = [
        Grant(
            client.public_key.raw,
            name,
            address(number),
            client.ports,
            lists,
            now.unix,
            now.unix + seconds,
            now.monotonic + seconds,
        )
        for number in numbers
    ]
    assert world.process.doors.open(grants, now)
    return [str(grant.address) for grant in grants]


def address(number: int) -> IPAddress:
    return FIRST + number


def changes(world: KeeperWorld, clients: str) -> None:
    """Somebody edits the file, and the keeper sees it."""
    world.write_config(clients)
    world.clock.advance(1)
    world.process.tick()


def test_who_is_taken_out_with_many_doors_is_out_at_once_and_his_doors_close_step_by_step(world: KeeperWorld) -> None:
    let_in(world, "alice", *range(9))
    bobs = let_in(world, "bob", 20, 21)
    changes(world, ONLY_BOB)
    assert len(world.open_for()) == 9, "two of eleven, the first of those who went"
    assert set(bobs) < world.open_for()
    assert world.parts.keeper.client(ALICE.public.raw) is None, "the next knock is nobody's"
    world.work_off()
    assert world.open_for() == set(bobs)
    assert world.grants() == {"bob"}
    assert {target for target, _ in world.firewall.cuts} == {address(number) for number in range(9)}


def test_nothing_is_cut_before_the_last_door_is_closed(world: KeeperWorld) -> None:
    let_in(world, "alice", *range(9))
    changes(world, ONLY_BOB)
    while world.process.slices:
        assert world.open_for() == set() or not world.firewall.cuts
        world.process.slices.advance()
    assert world.firewall.cuts


def test_moved_doors_follow_and_a_repair_between_two_steps_puts_back_what_the_rules_know(world: KeeperWorld) -> None:
    everybody = let_in(world, "alice", *range(9))
    changes(world, "{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}}")
    world.firewall.flush()
    world.process.doors.on_ruleset_change()
    world.clock.advance(1)
    world.process.tick()
    assert not world.firewall.lost
    world.work_off()
    assert world.open_for() == set(everybody)
    opened = {str(port) for door in world.firewall.doors() for port in door.port_list.ports}
    assert opened == {"443/tcp", "54154/tcp"}
    assert all(grant.port_lists[0].ports[0].first == 443 for grant in world.parts.keeper.grants)


def test_a_later_config_counts_for_doors_that_still_follow_an_earlier_one(world: KeeperWorld) -> None:
    let_in(world, "alice", *range(9))
    changes(world, "{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}}")
    changes(world, ONLY_BOB)
    world.work_off()
    assert world.open_for() == set()
    assert not list(world.parts.keeper.grants)


def test_close_of_many_doors_takes_steps_and_who_knocks_meanwhile_stays_in(world: KeeperWorld) -> None:
    let_in(world, "alice", *range(9))
    bobs = let_in(world, "bob", 20)
    grants = [(grant, End.CLOSED) for grant in world.parts.keeper.grants_of("alice")]
    world.process.doors.end(grants, world.clock.now)
    assert len(world.open_for()) == 8
    world.clock.advance(1)
    again = let_in(world, "alice", 8)
    world.work_off()
    assert world.open_for() == {*again, *bobs}


def test_a_cut_waits_for_the_last_of_many_doors_that_the_operator_closes(world: KeeperWorld) -> None:
    world.work_off()
    let_in(world, "alice", *range(60))
    world.process.answer(request_untrusted(b'{"command": "close", "name": "alice", "cut": true}'))
    while world.process.slices:
        assert not world.firewall.cuts or not world.grants()
        world.process.slices.advance()
    assert len(world.firewall.cuts) == 60


def test_close_is_answered_with_all_addresses_when_the_last_is_closed(world: KeeperWorld) -> None:
    everybody = let_in(world, "alice", *range(9))
    assert sorted(world.ask("close", name="alice")["closed"]) == sorted(everybody)
    assert world.open_for() == set()


def test_revoke_of_one_looks_at_nobody_else(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(world, "alice", 0)
    let_in(world, "bob", *range(20, 29))
    looked: list[IPAddress] = []
    part = world.parts.keeper.grants.part

    def noted(addresses: list[IPAddress]) -> object:
        looked.extend(addresses)
        return part(addresses)

    monkeypatch.setattr(world.parts.keeper.grants, "part", noted)
    world.firewall.calls.clear()
    world.ask("revoke", name="alice")
    assert looked == [address(0)]
    assert "apply" not in world.firewall.calls, "no rule changes with it"
    assert world.grants() == {"bob"}
    world.knock(packet())
    assert world.grants() == {"bob"}
