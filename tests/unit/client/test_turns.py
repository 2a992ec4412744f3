"""Turns come at their times, and one that was missed is not made up for."""

from openme.client.blocking import Blocking, finish
from openme.client.turns import LONGEST_SLEEP, Turns


class Clock(Blocking):
    """A machine that sleeps as long as it is told, or longer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.paused = 0.0

    def boot_clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        assert 0 < seconds <= LONGEST_SLEEP
        self.now += seconds + self.paused
        self.paused = 0.0


def test_turns_keep_their_distance_whatever_each_one_takes() -> None:
    clock = Clock()
    turns = Turns(clock, 25)
    times = []
    for _ in range(4):
        finish(turns.wait())
        times.append(clock.now)
        clock.now += 7  # the turn itself
    assert times == [125, 150, 175, 200]


def test_after_a_pause_there_is_one_turn_at_once_and_then_the_usual_distance() -> None:
    clock = Clock()
    turns = Turns(clock, 25)
    finish(turns.wait())
    clock.paused = 3600.0
    finish(turns.wait())
    woke = clock.now
    assert woke < 125 + 3600 + LONGEST_SLEEP + 1
    finish(turns.wait())
    assert clock.now == woke + 25
