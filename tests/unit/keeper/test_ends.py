"""When somebody's time is over: found in time, in order, and never twice."""

from ipaddress import ip_address
from random import Random

import pytest

from openme.keeper.ends import Ends
from openme.wire.knock import IPAddress
from support.knocks import ELSEWHERE, HOME


class Model:
    """Times by address, of which those that are over are taken away when they are found."""

    def __init__(self) -> None:
        self.times: dict[IPAddress, list[float]] = {}
        self.looks = 0
        self.ends = Ends(self.first)

    def first(self, address: IPAddress) -> float | None:
        self.looks += 1
        return min(self.times.get(address, []), default=None)

    def add(self, address: IPAddress, end: float) -> None:
        there = self.times.setdefault(address, [])
        if not there or end < min(there):
            self.ends.note(address, end)
        there.append(end)

    def over(self, now: float) -> list[tuple[IPAddress, float]]:
        found = []
        for address in self.ends.due(now):
            times = self.times[address]
            found += [(address, end) for end in times if end <= now]
            assert found, "somebody's time is over"
            self.times[address] = [end for end in times if end > now]
        return found


def test_a_time_is_over_when_it_has_come_and_once() -> None:
    model = Model()
    model.add(HOME, 10.4)
    assert [model.over(now) for now in (9.0, 10.0, 10.39)] == [[], [], []]
    assert model.over(10.4) == [(HOME, 10.4)]
    assert model.over(1e9) == []


def test_the_times_of_one_second_are_in_their_order_also_one_that_comes_late() -> None:
    model, far = Model(), ip_address("2001:db8::2")
    for address, end in ((HOME, 10.8), (far, 10.3), (ELSEWHERE, 10.3)):
        model.add(address, end)
    assert model.over(10.1) == []
    model.add(HOME + 1, 10.2)
    assert model.over(10.25) == [(HOME + 1, 10.2)]
    assert sorted(map(str, model.over(10.3))) == sorted(map(str, [(far, 10.3), (ELSEWHERE, 10.3)]))
    assert model.over(10.8) == [(HOME, 10.8)]


def test_an_address_is_found_for_each_of_its_times_though_one_is_noted() -> None:
    model = Model()
    for end in (10.0, 10.5, 11.0, 500.0):
        model.add(HOME, end)
    assert [len(model.over(now)) for now in (9.9, 10.0, 10.4, 20.0, 499.0, 500.0, 600.0)] == [0, 1, 0, 2, 0, 1, 0]


def test_a_time_that_has_moved_is_found_where_it_is_now() -> None:
    model = Model()
    model.add(HOME, 10.0)
    model.times[HOME] = [70.0]
    assert model.over(10.0) == []
    assert model.over(69.9) == []
    assert model.over(70.0) == [(HOME, 70.0)]


def test_nobody_is_looked_at_before_his_second() -> None:
    model = Model()
    for number in range(2000):
        model.add(HOME + number, 100.0 + number)
    assert model.over(99.0) == []
    assert model.looks == 0
    assert len(model.over(109.5)) == 10
    assert model.looks < 50


def test_an_address_that_was_noted_often_is_known_once_when_its_second_has_come() -> None:
    """As of one who comes and is sent away again and again: he is not looked at as often ever after."""
    model = Model()
    for _ in range(100):
        model.ends.note(HOME, 10.5)
    model.times[HOME] = [20.5, 30.5]
    for now in (10.0, 10.5, 20.0, 20.5, 30.0, 30.5):
        model.over(now)
    assert model.looks < 20


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_noted_is_found_as_by_a_look_at_all(seed: int) -> None:
    chance, model, now = Random(seed), Model(), 1000.0
    for _ in range(3000):
        if chance.random() < 0.6:
            model.add(HOME + chance.randrange(5), now + chance.random() * chance.choice((0.5, 3, 60)))
        elif chance.random() < 0.3:
            model.times[HOME + chance.randrange(5)] = []  # they have ended early
        else:
            now += chance.random()
            wanted = sorted((str(a), end) for a, ends in model.times.items() for end in ends if end <= now)
            assert sorted((str(a), end) for a, end in model.over(now)) == wanted
    model.times.clear()
    assert model.over(now + 100) == []
    assert (model.ends._later, model.ends._seconds, model.ends._soon) == ({}, [], [])
