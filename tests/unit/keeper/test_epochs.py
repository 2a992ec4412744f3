"""Accept by the clock, erase by evidence: which epochs are live, and when a key may go."""

import hashlib

import pytest

from openme.keeper.epochs import Epochs, LiveChange
from openme.keys.ratchet import MAX_STEPS, NS, Ratchet

LENGTH = 604_800
WINDOW = 60
FIRST = 100
BEGIN = FIRST * LENGTH


def epochs(first: int = FIRST, length: int = LENGTH, window: float = WINDOW, horizon: int = 53) -> Epochs:
    return Epochs(Ratchet(length, first, hashlib.sha256(b"key").digest()), window, horizon)


def ns(seconds: float) -> int:
    return round(seconds * NS)


# -- what is live


@pytest.mark.parametrize(
    ("unix_ns", "live"),
    [
        (ns(BEGIN + 1000), {FIRST}),
        (ns(BEGIN + LENGTH - WINDOW) - 1, {FIRST}),
        (ns(BEGIN + LENGTH - WINDOW), {FIRST, FIRST + 1}),
        (ns(BEGIN + LENGTH) - 1, {FIRST, FIRST + 1}),
        (ns(BEGIN + LENGTH), {FIRST, FIRST + 1}),
        (ns(BEGIN + LENGTH + WINDOW), {FIRST, FIRST + 1}),
        (ns(BEGIN + LENGTH + WINDOW) + 1, {FIRST + 1}),
        (ns(BEGIN - WINDOW), {FIRST}),
        (ns(BEGIN - WINDOW) - 1, set()),
        (0, set()),
        (ns(-1000), set()),
        (ns(BEGIN + 500.5 * LENGTH), {FIRST + 500}),
        (ns((FIRST + MAX_STEPS + 1.5) * LENGTH), set()),
    ],
)
def test_an_epoch_is_live_from_a_window_before_it_to_a_window_after_it(unix_ns: int, live: set[int]) -> None:
    made = epochs()
    change = made.look(unix_ns, 0.0)
    assert made.live == {index: made.ratchet.public_keys(index, 1)[0] for index in live}
    assert change == LiveChange(tuple(sorted(live)), ())


def test_what_begins_and_what_ends_is_told_once() -> None:
    made = epochs()
    seen = [
        made.look(ns(BEGIN + seconds), seconds)
        for seconds in (0, 10, LENGTH - WINDOW, LENGTH, LENGTH + WINDOW, LENGTH + WINDOW + 1)
    ]
    assert seen == [
        LiveChange((FIRST,), ()),
        LiveChange((), ()),
        LiveChange((FIRST + 1,), ()),
        LiveChange((), ()),
        LiveChange((), ()),
        LiveChange((), (FIRST,)),
    ]


@pytest.mark.parametrize("window", [0, WINDOW, 3 * LENGTH])
def test_whoever_looks_when_it_says_sees_each_change_at_its_nanosecond(window: float) -> None:
    """Beside one who looks ten times as often, for some epochs."""
    often, seldom = epochs(window=window), epochs(window=window)
    now, at = ns(BEGIN), 0.0
    for _ in range(12):
        seldom.look(now, at)
        often.look(now, at)
        assert seldom.live == often.live
        following = seldom.next_at(now, at)
        span = round((following - at) * NS)
        assert span > 0
        for tenth in range(1, 10):
            often.look(now + span * tenth // 10, at + (following - at) * tenth / 10)
            assert often.live.keys() == seldom.live.keys(), "nothing changes before"
        now, at = now + span, following


def test_it_is_asked_again_when_a_process_has_run_for_a_whole_epoch() -> None:
    made = epochs()
    made.look(ns(BEGIN + 1.5 * LENGTH), 7.0)
    made.look(ns(BEGIN + 1.5 * LENGTH), 8.0)
    erasing = 7.0 + LENGTH
    assert made.first_to_keep(erasing - 0.001) is None
    assert made.first_to_keep(erasing) == FIRST + 1
    late = erasing - 1.0
    assert made.next_at(ns(BEGIN + 1.5 * LENGTH), late) == erasing
    made.advance_to(FIRST + 1)
    assert made.next_at(ns(BEGIN + 1.5 * LENGTH), late) > erasing


def test_a_clock_that_is_wrong_and_set_right_ends_nothing_for_good() -> None:
    made = epochs()
    made.look(ns(BEGIN), 0)
    assert made.look(ns(BEGIN + 52 * LENGTH + 100), 1) == LiveChange((FIRST + 52,), (FIRST,))
    assert made.look(ns(BEGIN + 100), 2) == LiveChange((FIRST,), (FIRST + 52,))
    assert made.first_to_keep(2) is None


@pytest.mark.parametrize("window", [60, 300])
def test_never_more_than_two_are_live(window: int) -> None:
    made = epochs(length=600, window=window)
    start = FIRST * 600
    for seconds in range(-600, 2400, 10):
        made.look(ns(start + seconds), seconds + 600)
        assert len(made.live) <= 2
        if seconds >= 0:
            assert (start + seconds) // 600 in made.live


def test_a_changed_window_holds_from_the_next_look() -> None:
    made = epochs()
    now = ns(BEGIN + LENGTH - 100)
    made.look(now, 0)
    made.follow(120, 53)
    assert made.look(now, 1) == LiveChange((FIRST + 1,), ())
    made.follow(60, 53)
    assert made.look(now, 2) == LiveChange((), (FIRST + 1,))


# -- what is erased: steps of (seconds on the clock since FIRST began, seconds of uptime, epoch knocked under, expected)

Step = tuple[float, float, int | None, int | None]
WEEK = LENGTH
OVER = WEEK + WINDOW + 1  # the first second in which FIRST is over by more than the window

CASES: dict[str, list[Step]] = {
    "nothing at start, however long it was off": [
        (40 * WEEK, 0, None, None),
        (40 * WEEK + 5, 5, None, None),
        (40 * WEEK + 3600, 3600, None, None),
    ],
    "a knock under a later epoch": [
        (10, 0, 0, None),
        (OVER, OVER - 10, None, None),
        (OVER + 5, OVER - 5, 1, 1),
    ],
    "a knock under the same epoch is none": [(10, 0, 0, None), (OVER, OVER, None, None), (OVER + 1, OVER + 1, 0, None)],
    "not before its window has passed": [
        (10, 0, None, None),
        (WEEK + 1, WEEK, 1, None),
        (WEEK + WINDOW, WEEK + WINDOW, None, None),
        (OVER, OVER, None, 1),
    ],
    "weeks off, then a knock: all that is over goes": [(5.5 * WEEK, 0, 5, 5)],
    "a knock early in the window before its epoch": [
        (WEEK - 30, 0, 1, None),
        (WEEK + 30, 60, None, None),
        (OVER, 200, None, 1),
    ],
    "one whole epoch of uptime": [
        (10, 0, None, None),
        (OVER, 100, None, None),
        (2 * WEEK + 50, 100 + WEEK - 1, None, None),
        (2 * WEEK + 51, 100 + WEEK, None, 1),
    ],
    "the uptime counts from when it was over, not from the start": [
        (0.5 * WEEK, 0, None, None),
        (OVER, 0.5 * WEEK, None, None),
        (1.5 * WEEK, WEEK, None, None),
        (2 * WEEK, 1.5 * WEEK, None, 1),
    ],
    "a forward step erases nothing by itself": [
        (10, 0, 0, None),
        (52.5 * WEEK, 1, None, None),
        (52.5 * WEEK + 3600, 3601, None, None),
        (20, 3700, 0, None),
        (3600, 7280, None, None),
    ],
    "a forward step and a knock that agrees": [(10, 0, 0, None), (3.5 * WEEK, 1, 3, 3)],
    "a set-back clock starts the uptime anew": [
        (10, 0, None, None),
        (3.5 * WEEK, 10, None, None),
        (20, 20, None, None),
        (3.5 * WEEK, WEEK + 15, None, None),
        (3.5 * WEEK, 2 * WEEK + 14, None, None),
        (3.5 * WEEK, 2 * WEEK + 15, None, 3),
    ],
    "what is over before and after the step back has been over all the time": [
        (1.5 * WEEK, 0, None, None),
        (9.5 * WEEK, 100, None, None),
        (2.5 * WEEK, 200, None, None),
        (2.5 * WEEK, WEEK - 1, None, None),
        (2.5 * WEEK, WEEK, None, 1),
        (2.5 * WEEK, WEEK + 100, None, 2),
    ],
    "the clock alone runs back and forth for weeks": [
        *((week % 2 * 20 * WEEK + 10, week * 3600, None, None) for week in range(160)),
    ],
    "an old knock is evidence only for what lay before it": [(7.5 * WEEK, 0, 3, 3)],
    "a clock before the first epoch": [(-30 * WEEK, 0, None, None), (-28 * WEEK, 2 * WEEK, None, None)],
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
def test_a_key_goes_when_there_is_evidence_that_its_time_is_over(steps: list[Step]) -> None:
    made = epochs()
    for number, (clock, uptime, knocked, expected) in enumerate(steps):
        made.look(ns(BEGIN + clock), uptime)
        if knocked is not None:
            made.accepted(FIRST + knocked)
        first = made.first_to_keep(uptime)
        assert first == (None if expected is None else FIRST + expected), f"step {number}"


def test_what_is_erased_is_gone_and_the_rest_is_as_it_was() -> None:
    made = epochs()
    keys = made.ratchet.public_keys(FIRST, 6)
    made.look(ns(BEGIN + 3.5 * LENGTH), 0)
    made.accepted(FIRST + 3)
    first = made.first_to_keep(0)
    assert first == FIRST + 3
    made.advance_to(first)
    assert made.first_to_keep(0) is None
    assert made.ratchet.public_keys(first, 3) == keys[3:]
    assert made.look(ns(BEGIN + 1), 1) == LiveChange((), (FIRST + 3,))
    assert made.live == {}
    assert made.look(ns(BEGIN + 3.5 * LENGTH), 2) == LiveChange((FIRST + 3,), ())


def test_an_epoch_that_is_erased_while_it_is_live_is_live_no_more() -> None:
    made = epochs()
    made.look(ns(BEGIN + LENGTH), 0)
    made.advance_to(FIRST + 1)
    assert set(made.live) == {FIRST + 1}


def test_years_of_steps_need_no_more_memory() -> None:
    made = epochs()
    for number in range(1000):
        made.look(ns(BEGIN + (number + 0.5) * LENGTH), number * LENGTH)
        if (first := made.first_to_keep(number * LENGTH)) is not None:
            made.advance_to(first)
    assert len(made._over) < 5
    assert made.ratchet.index > FIRST + 990


def test_a_clock_absurdly_far_ahead_erases_as_far_as_the_ratchet_reaches() -> None:
    made = epochs(length=120)
    far = ns(FIRST * 120 + (MAX_STEPS + 1000) * 120)
    made.look(far, 0)
    made.look(far, 120)
    first = made.first_to_keep(120)
    assert first == FIRST + MAX_STEPS
    assert made.ratchet.reaches(first)


# -- what receipts carry


@pytest.mark.parametrize("horizon", [1, 53])
def test_receipts_carry_the_keys_of_the_horizon_from_the_knocks_epoch_on(horizon: int) -> None:
    made = epochs(horizon=horizon)
    keys = made.keys_from(FIRST + 1)
    assert (keys.first, len(keys.keys)) == (FIRST + 1, horizon)
    assert keys.keys == made.ratchet.public_keys(FIRST + 1, horizon)
    assert made.keys_from(FIRST + 2).keys[:-1] == keys.keys[1:]
    made.follow(WINDOW, 3)
    assert len(made.keys_from(FIRST + 2).keys) == 3


def test_no_receipt_carries_an_erased_epochs_key() -> None:
    made = epochs()
    made.advance_to(FIRST + 2)
    with pytest.raises(ValueError, match="no key"):
        made.keys_from(FIRST + 1)
