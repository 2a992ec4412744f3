"""Turns come at their times, and one that was missed is not made up for; another network has one at once."""

from collections.abc import Callable
from ipaddress import ip_address

from openme.client.blocking import Blocking, finish
from openme.client.roaming import LOOK_EVERY, Roaming
from openme.client.turns import Turns

HOME, AWAY = (frozenset({ip_address(f"192.0.2.{n}")}) for n in (1, 2))


class Clock(Blocking):
    """A machine that sleeps as long as it is told, or longer; nobody tells it anything."""

    def __init__(self) -> None:
        self.now = 100.0
        self.paused = 0.0
        self.sources = {0.0: HOME}

    def boot_clock(self) -> float:
        return self.now

    def system_tells(self) -> None:
        pass

    async def pause(self, seconds: float) -> None:
        assert 0 < seconds <= LOOK_EVERY
        self.now += seconds + self.paused
        self.paused = 0.0

    def turns(self, interval: float) -> Turns:
        return self.turns_by(lambda: interval)

    def turns_by(self, interval: Callable[[], float]) -> Turns:
        return Turns(self, interval, Roaming(self, lambda: self.sources[max(t for t in self.sources if t <= self.now)]))


def times(clock: Clock, turns: Turns, count: int) -> list[float]:
    found = []
    for _ in range(count):
        finish(turns.wait())
        found.append(clock.now)
    return found


def test_turns_keep_their_distance_whatever_each_one_takes() -> None:
    clock = Clock()
    turns = clock.turns(25)
    found = []
    for _ in range(4):
        found += times(clock, turns, 1)
        clock.now += 7  # the turn itself
    assert found == [125, 150, 175, 200]


def test_a_turn_that_begins_a_little_late_moves_none_of_the_others() -> None:
    clock = Clock()
    turns = clock.turns(25)
    found = []
    for late in (0.25, 0.0, 0.25, 0.0):
        clock.now += 20.5
        clock.paused = late
        found += times(clock, turns, 1)
    assert found == [125.25, 150, 175.25, 200]


def test_after_a_pause_there_is_one_turn_at_once_and_then_the_usual_distance() -> None:
    clock = Clock()
    turns = clock.turns(25)
    finish(turns.wait())
    clock.paused = 3600.0
    finish(turns.wait())
    woke = clock.now
    assert woke < 125 + 3600 + LOOK_EVERY + 1
    finish(turns.wait())
    assert clock.now == woke + 25


def test_another_address_has_a_turn_at_the_next_look_and_then_the_usual_distance() -> None:
    clock = Clock()
    turns = clock.turns(25)
    clock.sources[128.0] = AWAY
    assert times(clock, turns, 4) == [125, 130, 155, 180]


def test_no_way_at_all_has_no_turn_of_its_own_and_the_way_back_is_no_other_network() -> None:
    clock = Clock()
    turns = clock.turns(25)
    clock.sources |= {128.0: frozenset(), 140.0: HOME, 160.0: frozenset(), 170.0: AWAY}
    assert times(clock, turns, 4) == [125, 150, 170, 195]


def test_the_way_back_may_be_there_while_the_knock_that_found_none_is_still_failing() -> None:
    clock = Clock()
    turns = clock.turns(25)
    clock.sources |= {120.0: frozenset(), 126.0: HOME}
    assert times(clock, turns, 1) == [125]
    clock.now = 128.0  # what failed took this long
    assert times(clock, turns, 2) == [133, 158]


def test_a_turn_may_tell_that_the_next_one_is_to_come_sooner() -> None:
    clock = Clock()
    intervals = [25.0, 6.0, 6.0]
    turns = clock.turns_by(lambda: intervals.pop(0))
    assert times(clock, turns, 3) == [125, 131, 137]


def test_the_network_may_change_while_a_turn_is_taken() -> None:
    clock = Clock()
    turns = clock.turns(25)
    finish(turns.wait())
    clock.sources[126.0] = AWAY
    clock.now = 127.0
    assert times(clock, turns, 1) == [132]
