"""Who is in: doors that two people share stay open for whoever has more time left."""

from dataclasses import replace
from ipaddress import ip_address
from math import inf
from random import Random

import pytest

from openme.firewall.base import Door, PortList
from openme.keeper.grants import Change, Grant, Grants
from openme.ports import parse_port_spec, port
from openme.wire.knock import IPAddress
from support.knocks import ELSEWHERE, HOME

SSH, WEB = PortList(parse_port_spec("22/tcp")), PortList(parse_port_spec("443/tcp"))


def grant(key: str, deadline: float, *lists: PortList, address: IPAddress = HOME, opened_at: float = 0.0) -> Grant:
    return Grant(key.encode(), key, address, (), lists or (SSH,), opened_at, 0.0, deadline)


def test_a_first_grant_opens_its_doors_for_its_time() -> None:
    grants, first = Grants(), grant("alice", 30.0, SSH, WEB)
    assert grants.doors_for(first, 10.0) == (Door(SSH, HOME, 20.0), Door(WEB, HOME, 20.0))


def test_a_shared_door_stays_as_long_as_the_longer_grant() -> None:
    grants = Grants()
    grants.add(grant("alice", 100.0))
    assert grants.doors_for(grant("bob", 30.0, SSH, WEB), 0.0) == (Door(SSH, HOME, 100.0), Door(WEB, HOME, 30.0))


def test_another_address_shares_nothing() -> None:
    grants = Grants()
    grants.add(grant("alice", 100.0))
    assert grants.doors_for(grant("bob", 30.0, address=ELSEWHERE), 0.0) == (Door(SSH, ELSEWHERE, 30.0),)


def test_a_new_knock_takes_the_place_of_the_old_and_may_shorten_it() -> None:
    grants = Grants()
    grants.add(grant("alice", 100.0, opened_at=5.0))
    shorter = grant("alice", 30.0, opened_at=20.0)
    assert grants.doors_for(shorter, 0.0) == (Door(SSH, HOME, 30.0),)
    grants.add(shorter)
    (held,) = grants
    assert (held.deadline, held.opened_at) == (30.0, 5.0)


def test_removing_one_falls_back_to_the_others_remaining_time() -> None:
    grants, alice, bob = Grants(), grant("alice", 100.0, SSH, WEB), grant("bob", 30.0)
    grants.add(alice)
    grants.add(bob)
    assert grants.remove([alice], 10.0) == Change(open=(Door(SSH, HOME, 20.0),), close=((WEB, HOME),))
    assert grants.remove([bob], 10.0) == Change(close=((SSH, HOME),))
    assert list(grants) == []


def test_removing_a_grant_that_is_gone_changes_nothing() -> None:
    grants, alice = Grants(), grant("alice", 100.0)
    grants.add(alice)
    grants.remove([alice], 0.0)
    assert grants.remove([alice], 0.0) == Change()


def test_removing_both_at_once_closes_the_shared_door_once() -> None:
    grants, alice, bob = Grants(), grant("alice", 100.0), grant("bob", 30.0)
    grants.add(alice)
    grants.add(bob)
    assert grants.remove([alice, bob], 0.0) == Change(close=((SSH, HOME),))


def test_an_overdue_neighbour_holds_no_door_open() -> None:
    grants, alice, bob = Grants(), grant("alice", 100.0), grant("bob", 30.0)
    grants.add(alice)
    grants.add(bob)
    assert grants.remove([alice], 31.0) == Change(close=((SSH, HOME),))


def test_grants_end_at_their_deadline_and_not_before() -> None:
    grants, alice, bob = Grants(), grant("alice", 100.0), grant("bob", 30.0)
    assert grants.expire(1000.0) == []
    grants.add(alice)
    grants.add(bob)
    assert grants.expire(29.999) == []
    assert grants.expire(30.0) == [bob]
    assert grants.expire(99.999) == []
    assert grants.expire(1000.0) == [alice]
    assert grants.expire(1000.0) == []


def test_whoever_looks_when_the_next_is_to_end_misses_none() -> None:
    chance, grants, now = Random(5), Grants(), 0.0
    deadlines: dict[str, float] = {}
    assert grants.next_end == inf
    for _ in range(2000):
        name, deadline = f"{chance.randrange(20)}", now + chance.uniform(1.0, 50.0)
        if chance.random() < 0.1 and name in deadlines:
            grants.remove([grant(name, deadlines.pop(name))], now)
        else:
            grants.add(grant(name, deadline))
            deadlines[name] = deadline
        now += chance.uniform(0.0, 2.0)
        while grants.next_end <= now:
            for over in grants.expire(grants.next_end):
                del deadlines[over.client_name]
        assert grants.next_end <= min(deadlines.values(), default=inf)
        assert min(deadlines.values(), default=inf) > now
    grants.expire(now + 100.0)
    assert grants.next_end == inf


def test_one_client_may_be_in_from_two_addresses() -> None:
    grants = Grants()
    here, there = grant("alice", 100.0), grant("alice", 100.0, address=ELSEWHERE)
    grants.add(here)
    grants.add(there)
    assert grants.remove([here], 0.0) == Change(close=((SSH, HOME),))
    assert list(grants) == [there]


def test_somebody_elses_single_use_door_is_not_opened_again_when_another_ends() -> None:
    """It may have been used up, which the kernel alone knows."""
    once = PortList(parse_port_spec("22/tcp"), single_use=True)
    grants, ends = Grants(), grant("alice", 100.0, once)
    grants.add(ends)
    grants.add(grant("bob", 30.0, once))
    assert grants.remove([ends], 0.0) == Change()


def test_each_grant_ends_at_its_own_time() -> None:
    grants = Grants()
    for name, deadline in (("carol", 30.0), ("alice", 10.0), ("bob", 20.0)):
        grants.add(grant(name, deadline))
    ended = [[g.client_name for g in grants.expire(now)] for now in (9.0, 10.0, 11.0, 20.0, 29.0, 31.0, 40.0)]
    assert ended == [[], ["alice"], [], ["bob"], [], ["carol"], []]
    grants.add(grant("alice", 50.0))
    grants.take_back(grant("alice", 50.0), grant("alice", 45.0))
    assert [g.deadline for g in grants.expire(45.0)] == [45.0]


def test_what_is_open_for_an_address_is_told_port_by_port() -> None:
    grants, alice = Grants(), grant("alice", 100.0, SSH, PortList(parse_port_spec("8080-8090/udp")))
    grants.add(alice)
    assert grants.is_open(HOME, port("tcp", 22))
    assert grants.is_open(HOME, port("udp", 8085))
    assert not grants.is_open(HOME, port("udp", 22))
    assert not grants.is_open(HOME, port("udp", 8091))
    assert not grants.is_open(ELSEWHERE, port("tcp", 22))
    grants.remove([alice], 0.0)
    assert not grants.is_open(HOME, port("tcp", 22))


def test_one_door_for_the_longest_time_that_somebody_asks_for() -> None:
    grants = Grants()
    grants.add(grant("alice", 100.0))
    grants.add(grant("bob", 30.0, SSH, WEB))
    assert grants.door((SSH, HOME), 10.0) == Door(SSH, HOME, 90.0)
    assert grants.door((WEB, HOME), 10.0) == Door(WEB, HOME, 20.0)
    assert grants.door((WEB, HOME), 30.0) is None
    assert grants.door((WEB, ELSEWHERE), 10.0) is None


def test_a_part_ends_its_grants_as_the_original_does_and_can_be_put_back() -> None:
    grants = Grants()
    grants.add(grant("alice", 10.0))
    tried = grants.part([HOME])
    tried.add(grant("bob", 5.0))
    assert [g.client_name for g in grants] == ["alice"]
    grants.put_back(tried, [HOME])
    assert [g.client_name for g in grants.expire(5.0)] == ["bob"]
    assert [g.client_name for g in grants.part([HOME]).expire(10.0)] == ["alice"]


def test_a_clients_grants_are_found_by_key_whatever_happens_to_them() -> None:
    grants = Grants()

    def found() -> dict[bytes, list[Grant]]:
        return {key: grants.of_client(key) for key in grants.clients()}

    def in_force() -> dict[bytes, list[Grant]]:
        held = list(grants)
        return {key: [g for g in held if g.client_key == key] for key in {g.client_key for g in held}}

    alice, bob, later = grant("alice", 10.0), grant("bob", 20.0), grant("alice", 30.0)
    for held in (alice, bob):
        grants.add(held)
        assert found() == in_force()
    earlier = grants.add(later)
    assert found() == in_force()
    grants.take_back(later, earlier)
    assert found() == in_force()
    part = grants.part([HOME])
    part.remove([alice], 0.0)
    assert found() == in_force()
    grants.put_back(part, [HOME])
    assert found() == in_force() == {bob.client_key: [bob]}
    assert not grants.holds(alice)
    assert grants.holds(bob)
    grants.expire(20.0)
    assert found() == {}


def test_grants_of_one_moment_and_client_for_addresses_of_both_families_end_together() -> None:
    grants = Grants()
    both = [grant("alice", 30.0), grant("alice", 30.0, address=ip_address("2001:db8::2"))]
    for one in both:
        grants.add(one)
    assert grants.expire(30.0) == both


def test_a_grant_that_is_given_anew_ends_by_its_new_time_alone() -> None:
    for first, then in ((30.0, 100.0), (100.0, 30.0)):
        grants, later = Grants(), grant("alice", then)
        grants.add(grant("alice", first))
        grants.add(later)
        assert grants.expire(then - 0.001) == []
        assert grants.expire(then) == [later]
        assert grants.expire(1000.0) == []


def test_what_is_taken_back_leaves_the_earlier_grant_its_time() -> None:
    grants, before, more = Grants(), grant("alice", 30.0), grant("alice", 100.0)
    grants.add(before)
    grants.take_back(more, grants.add(more))
    assert grants.expire(30.0) == [before]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_done_grants_end_at_their_deadline(seed: int) -> None:
    """Against a plain list of what is in force."""
    chance, grants, model, now = Random(seed), Grants(), {}, 0.0
    for _ in range(4000):
        name, address = chance.choice("abcdef"), HOME + chance.randrange(4)
        made = grant(name, now + chance.randrange(1, 40), address=address)
        act = chance.randrange(6)
        if act < 3:
            grants.add(made)
            model[name, address] = made.deadline
        elif act == 3:
            grants.remove([made], now)
            model.pop((name, address), None)
        elif act == 4:
            part = grants.part([address])
            part.add(made)
            grants.put_back(part, [address])
            model[name, address] = made.deadline
        else:
            now += chance.random()
            over = {(held.client_name, held.address) for held in grants.expire(now)}
            assert over == {key for key, deadline in model.items() if deadline <= now}
            model = {key: deadline for key, deadline in model.items() if deadline > now}
    assert {(held.client_name, held.address): held.deadline for held in grants} == model


def test_what_is_given_anew_again_and_again_takes_no_more_room() -> None:
    grants = Grants()
    for number in range(1000):
        grants.add(grant("alice", 1000.0 + number))
    noted = [address for addresses in grants._ends._later.values() for address in addresses]
    assert noted == [HOME]


def test_what_a_clients_grants_have_in_common_is_in_memory_once() -> None:
    grants = Grants()
    for number in range(3):
        same = grant(f"alice{number}"[:5], 10.0, PortList(parse_port_spec("22/tcp")), address=HOME + number)
        grants.add(replace(same, ports=parse_port_spec("22/tcp")))
    grants.add(grant("alice", 20.0, WEB, address=HOME + 2))
    first, second, other = grants
    for shared in ("client_key", "client_name", "ports", "port_lists"):
        assert getattr(first, shared) is getattr(second, shared)
    assert other.client_key is first.client_key
    assert (other.port_lists, other.ports) == ((WEB,), ())


def test_with_many_in_force_nobody_looks_at_all_of_them_for_one_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    grants = Grants()
    for number in range(3000):
        grants.add(grant("alice", 1000.0 + number, address=HOME + number))
    monkeypatch.setattr(Grants, "__iter__", lambda _: pytest.fail("all were looked at"))
    assert len(grants.expire(1000.0)) == 1
    assert grants.expire(1000.5) == []
    assert len(grants.expire(1010.0)) == 10


@pytest.mark.parametrize("seed", range(5))
def test_doors_of_many_grants_are_those_of_each(seed: int) -> None:
    chance, grants = Random(seed), Grants()
    lists = (SSH, WEB)
    for _ in range(30):
        held = grant(chance.choice("abcdef"), chance.randrange(40), *chance.sample(lists, 1), address=HOME)
        grants.add(held)
    new = [grant(chance.choice("abc"), chance.randrange(40), SSH, WEB, address=HOME + n % 2) for n in range(6)]
    for one in new:
        grants.add(one)
    last = {(one.client_key, one.address): one for one in new}.values()
    each = {(d.port_list, d.address): d for one in last for d in grants.doors_for(one, 0.0)}
    assert grants.doors_of(new, 0.0) == each
