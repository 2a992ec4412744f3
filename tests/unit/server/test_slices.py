"""Work in slices: nobody waits for more than one turn's share of it."""

from openme.firewall.base import Steps
from openme.server.slices import SHARE, Slices


class Clock:
    """Counts seconds; every step of a job moves it on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(clock: Clock, seconds: list[float], taken: list[str], name: str = "") -> Steps[None]:
    """A job of so many steps, each of which takes its time."""
    try:
        for number, step in enumerate(seconds):
            clock.now += step
            taken.append(f"{name}{number}")
            yield
    finally:
        taken.append(f"{name}end")


def test_a_turn_takes_steps_until_its_share_is_over() -> None:
    clock, taken = Clock(), list[str]()
    slices = Slices(clock)
    slices.add(job(clock, [SHARE / 2.5] * 10, taken))
    assert taken == ["0"]
    slices.advance()
    assert taken == ["0", "1", "2", "3"]
    assert slices
    slices.advance()
    assert taken == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_turn_takes_one_step_however_long_it_is() -> None:
    clock, taken = Clock(), list[str]()
    slices = Slices(clock)
    slices.add(job(clock, [10.0] * 3, taken))
    slices.advance()
    assert taken == ["0", "1"]


def test_jobs_take_turns() -> None:
    clock, taken = Clock(), list[str]()
    slices = Slices(clock)
    slices.add(job(clock, [SHARE / 3.5] * 9, taken, "a"))
    slices.add(job(clock, [SHARE / 3.5] * 9, taken, "b"))
    slices.advance()
    assert taken == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_they_end() -> None:
    clock, taken = Clock(), list[str]()
    slices = Slices(clock)
    slices.add(job(clock, [], taken, "a"))
    slices.add(job(clock, [0.0], taken, "b"))
    assert slices
    slices.advance()
    assert not slices
    slices.advance()
    assert taken == ["aend", "b0", "bend"]


def test_what_is_given_up_is_told_so_also_in_its_first_step() -> None:
    clock, taken = Clock(), list[str]()
    slices = Slices(clock)
    slices.add(job(clock, [0.0] * 5, taken))
    slices.close()
    assert not slices
    assert taken == ["0", "end"]
