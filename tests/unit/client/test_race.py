"""When which address is tried, by a clock of the test's own."""

import socket
from itertools import pairwise

import pytest

from openme.client.addresses import Endpoint
from openme.client.race import ATTEMPT_DELAY, FIRST_PAUSE, GIVEN_UP, LONGEST_PAUSE, SPACING, Race, interleaved

SIX, FOUR = (Endpoint(family, host) for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")))
SIXES = [Endpoint(socket.AF_INET6, f"2001:db8::{number}") for number in range(1, 5)]
FOURS = [Endpoint(socket.AF_INET, f"192.0.2.{number}") for number in range(1, 5)]
START = 1000.0


def tried(race: Race, until: float, failing: tuple[Endpoint, ...] = ()) -> list[tuple[float, str]]:
    """The attempts up to a moment, by their seconds since the start: none but at the moments that the race names."""
    found: list[tuple[float, str]] = []
    now = START
    while (now := max(now, race.wake())) <= START + until:
        endpoint = race.begin(now)
        assert endpoint is not None, "it said that there was something to do"
        found.append((round(now - START, 3), str(endpoint)))
        if endpoint in failing:
            race.failed(now)
    return found


def test_families_take_turns_beginning_with_the_first_address_of_the_resolver() -> None:
    assert interleaved([SIXES[0], SIXES[1], SIXES[2], FOURS[0]]) == [SIXES[0], FOURS[0], SIXES[1], SIXES[2]]
    assert interleaved([FOURS[0], FOURS[1], SIXES[0]]) == [FOURS[0], SIXES[0], FOURS[1]]
    assert interleaved([FOUR, FOUR]) == [FOUR]
    assert interleaved([]) == []


def test_the_timing_is_that_of_the_rfc() -> None:
    """RFC 8305, sections 5 and 8: 100 ms at least are recommended between two addresses, 10 ms required."""
    assert ATTEMPT_DELAY >= 0.1
    assert SPACING >= 0.01
    times = [at for at, _ in tried(Race([*SIXES, *FOURS], START), 30)]
    assert min(later - earlier for earlier, later in pairwise(times)) >= SPACING - 1e-9


def test_the_second_family_begins_while_the_first_is_still_silent() -> None:
    first = tried(Race([SIX, FOUR], START), 0.11)
    assert (0.0, "::1") in first
    assert any(name == "127.0.0.1" and ATTEMPT_DELAY <= at <= ATTEMPT_DELAY + SPACING for at, name in first)


def test_a_silent_address_is_tried_afresh_less_and_less_often() -> None:
    assert [at for at, _ in tried(Race([FOUR], START), 6)] == [0.0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert FIRST_PAUSE < LONGEST_PAUSE


def test_an_address_that_fails_lets_the_next_one_begin_at_once() -> None:
    order = tried(Race([SIXES[0], SIXES[1], FOURS[0]], START), 0.3, failing=(SIXES[0],))
    assert order[0] == (0.0, "2001:db8::1")
    assert order[1] == (SPACING, "192.0.2.1"), "not after the delay"
    assert next(at for at, name in order if name == "2001:db8::2") <= ATTEMPT_DELAY + 2 * SPACING, "nor those after it"


def test_it_is_tried_again_all_the_same_since_a_door_may_open() -> None:
    assert [at for at, _ in tried(Race([FOUR], START), 1, failing=(FOUR,))] == [0.0, 0.1, 0.3, 0.7]


def test_it_knows_when_each_has_had_its_turn() -> None:
    race = Race([SIX, FOUR], START)
    assert not race.all_begun
    assert race.begin(START) == SIX
    assert race.begin(START) is None
    assert not race.all_begun
    assert race.begin(START + 0.05) is None
    assert {race.begin(START + 0.2), race.begin(START + 0.2 + SPACING)} == {SIX, FOUR}
    assert race.all_begun


@pytest.mark.parametrize("count", [1, 2, 8])
def test_an_attempt_is_let_go_between_two_syns_of_its_own(count: int) -> None:
    """TCP sends one at 0, 1, 3 and 7 s: none leaves shortly before the end, and the last had time for its answer."""
    syns = [0.0, 1.0, 3.0, 7.0]
    last = max(at for at in syns if at < GIVEN_UP)
    assert GIVEN_UP - last > 1.5
    assert not any(0 <= GIVEN_UP - at < 1.5 for at in syns)
    live = [at for at, _ in tried(Race(FOURS[: min(count, 4)] + SIXES[: max(0, count - 4)], START), 10)]
    assert max(sum(1 for at in live if 0 <= now - at <= GIVEN_UP) for now in live) <= 7 * count
