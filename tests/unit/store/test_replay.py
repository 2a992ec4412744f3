"""Replay memory as tables: (what is done, at which signed time, what comes of it), read from top to bottom."""

from ipaddress import IPv4Address

import pytest

from openme.reasons import Reason
from openme.store.base import AlreadyUsed, ClaimRefusal, Reset
from openme.store.replay import MAX_NONCES, MAX_RUNS, Remembered, ReplayMemory
from openme.wire.knock import Knock
from support.knocks import ELSEWHERE, HOME, nonce

KEY, OTHER = b"K" * 32, b"O" * 32
W = 60  # the window; times below are seconds
S = 10**9
T = 1_000_000  # a time far from zero


def knock(memory: ReplayMemory, seconds: float, label: object, key: bytes = KEY, source: IPv4Address = HOME) -> str:
    outcome = memory.accept(key, Knock(round(seconds * S), nonce(label), None), source)
    return outcome.reason if isinstance(outcome, ClaimRefusal) else "accepted"


# A row is (label of the nonce, signed time relative to T, expected), or ("window", new window, "").
TABLES: dict[str, list[tuple[str, float, str]]] = {
    "one knock opens once": [("a", 0, "accepted"), ("a", 0, "replay"), ("a", 0, "replay")],
    "the same nonce under another time is a replay": [("a", 0, "accepted"), ("a", 5, "replay"), ("a", -5, "replay")],
    "two knocks of one moment are two": [("a", 0, "accepted"), ("b", 0, "accepted"), ("a", 0, "replay")],
    "older ones within twice the window still open": [
        ("a", 0, "accepted"),
        ("b", -2 * W, "accepted"),
        ("b", -2 * W, "replay"),
        ("c", -2 * W - 1, "stale"),
    ],
    "a later knock moves the edge and what is below never opens again": [
        ("a", 0, "accepted"),
        ("b", 2 * W, "accepted"),
        ("a", 0, "replay"),
        ("c", 2 * W + 1, "accepted"),
        ("a", 0, "stale"),
        ("d", 0, "stale"),
        ("d", 1, "accepted"),
    ],
    "a knock from far ahead shuts out what lies behind it": [
        ("a", 0, "accepted"),
        ("b", 10**6, "accepted"),
        ("c", 1, "stale"),
        ("a", 0, "stale"),
        ("d", 10**6 - 2 * W, "accepted"),
    ],
    "a refused knock moves nothing": [
        ("a", 0, "accepted"),
        ("a", 1000, "replay"),
        ("b", -2 * W, "accepted"),
    ],
    "a longer window brings nothing back": [
        ("a", 0, "accepted"),
        ("b", 3 * W, "accepted"),
        ("window", 10 * W, ""),
        ("a", 0, "stale"),
        ("c", W - 1, "stale"),
        ("c", W, "accepted"),
        ("d", 3 * W + 1, "accepted"),
        ("a", 0, "stale"),
        ("b", 3 * W, "replay"),
    ],
    "a longer window keeps more from then on": [
        ("a", 0, "accepted"),
        ("window", 10 * W, ""),
        ("b", 15 * W, "accepted"),
        ("a", 0, "replay"),
        ("c", 1, "accepted"),
    ],
    "a shorter window reopens nothing": [
        ("a", 0, "accepted"),
        ("b", -2 * W, "accepted"),
        ("window", 1, ""),
        ("b", -2 * W, "replay"),
        ("c", 1, "accepted"),
        ("b", -2 * W, "stale"),
        ("a", 0, "replay"),
        ("d", 3, "accepted"),
        ("a", 0, "stale"),
    ],
    "shorter, then longer, reopens nothing": [
        ("a", 0, "accepted"),
        ("window", 1, ""),
        ("b", 10, "accepted"),
        ("window", 100 * W, ""),
        ("a", 0, "stale"),
        ("c", 7, "stale"),
        ("c", 8, "accepted"),
        ("b", 10, "replay"),
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_table(name: str) -> None:
    memory = ReplayMemory(W * S)
    for step, (label, seconds, expected) in enumerate(TABLES[name]):
        if label == "window":
            memory.set_window(round(seconds * S))
        else:
            assert knock(memory, T + seconds, label) == expected, f"step {step}: {label} at {seconds}"


def test_clients_have_memories_of_their_own() -> None:
    memory = ReplayMemory(W * S)
    assert knock(memory, T + 10**6, "a") == "accepted"
    assert knock(memory, T, "a", OTHER) == "accepted"
    assert knock(memory, T, "a", OTHER) == "replay"


def test_a_replay_tells_where_the_first_one_came_from() -> None:
    memory = ReplayMemory(W * S)
    knock(memory, T, "a", source=HOME)
    assert memory.accept(KEY, Knock(T * S, nonce("a"), None), ELSEWHERE) == AlreadyUsed(Reason.REPLAY, HOME)


def test_256_knocks_within_twice_the_window_are_the_most() -> None:
    memory = ReplayMemory(W * S)
    for number in range(MAX_NONCES):
        assert knock(memory, T + number / 10, number) == "accepted"
    assert knock(memory, T + 30, "one more") == "too_many"
    assert knock(memory, T, 0) == "replay"
    assert knock(memory, T, 0, OTHER) == "accepted"


def test_after_too_many_a_later_knock_opens_again_and_no_early_one() -> None:
    memory = ReplayMemory(W * S)
    for number in range(MAX_NONCES):
        knock(memory, T + number / 10, number)
    assert knock(memory, T + 2 * W + 0.05, "later") == "accepted"
    assert knock(memory, T, 0) == "stale"
    assert knock(memory, T + 0.1, 1) == "replay"


def test_too_many_is_decided_after_old_ones_were_let_go_and_moves_nothing() -> None:
    memory = ReplayMemory(W * S)
    for number in range(MAX_NONCES):
        knock(memory, T, number)
    assert knock(memory, T + 2 * W, "edge") == "too_many"
    assert knock(memory, T - 2 * W, "old but within") == "too_many"
    assert knock(memory, T + 2 * W + 1, "beyond") == "accepted"


def test_nothing_signed_before_the_floor_opens() -> None:
    memory = ReplayMemory(W * S, floor_ns=T * S)
    assert knock(memory, T - 1 / S, "a") == "stale"
    assert memory.accept(KEY, Knock(T * S - 1, nonce("b"), None), HOME) == AlreadyUsed(Reason.STALE)
    assert knock(memory, T, "a") == "accepted"
    assert knock(memory, T - 1, "c") == "stale"


def test_what_is_returned_is_what_must_be_stored() -> None:
    memory = ReplayMemory(W * S)
    knock(memory, T, "a")
    outcome = memory.accept(KEY, Knock((T + 500) * S, nonce("b"), None), ELSEWHERE)
    runs = ((T * S, T * S), ((T + 500) * S, (T + 500) * S))
    assert outcome == Remembered(KEY, (T + 500) * S, nonce("b"), ELSEWHERE, (T + 500 - 2 * W) * S, runs)


def test_loading_what_was_stored_refuses_the_same() -> None:
    memory = ReplayMemory(W * S)
    memory.load([(KEY, (T + 100) * S, T * S, (), ())], [(KEY, (T + 100) * S, nonce("a"), HOME)])
    assert knock(memory, T + 100, "a") == "replay"
    assert knock(memory, T - 1, "b") == "stale"
    assert knock(memory, T, "b") == "accepted"


def test_nonces_without_a_mark_still_refuse() -> None:
    memory = ReplayMemory(W * S)
    memory.load([], [(KEY, T * S, nonce("a"), HOME), (KEY, (T + 9) * S, nonce("b"), HOME)])
    assert knock(memory, T, "a") == "replay"
    assert knock(memory, T + 9, "b") == "replay"


def test_extreme_timestamps_are_numbers_like_others() -> None:
    memory = ReplayMemory(W * S)
    for number, timestamp in enumerate((-(2**63), 0, 2**63 - 1)):
        outcome = memory.accept(KEY, Knock(timestamp, nonce(number), None), HOME)
        assert isinstance(outcome, Remembered)
    assert knock(memory, T, "a") == "stale"


# -- reset


def test_reset_shuts_the_runs_in_which_the_time_ahead_lies_and_nothing_else() -> None:
    memory = ReplayMemory(W * S)
    for seconds in (0, 1000, 1000 + W, 1000 + 2 * W, 5000):
        assert knock(memory, T + seconds, seconds) == "accepted"
    shut = (((T + 1000) * S, (T + 1000 + 2 * W) * S), ((T + 5000) * S, (T + 5000) * S))
    assert memory.reset(KEY, T * S + 1) == Reset(KEY, T * S + 1, ((T * S, T * S),), shut)
    assert knock(memory, T, 0) == "stale"
    for seconds, expected in (
        (10, "accepted"),
        (999, "accepted"),
        (1000, "stale"),
        (1119, "stale"),
        (1121, "accepted"),
    ):
        assert knock(memory, T + seconds, f"new {seconds}") == expected
    assert knock(memory, T + 5000, "same moment") == "stale"
    assert knock(memory, T + 5001, "later") == "accepted"


def test_a_second_reset_forgets_nothing_of_the_first() -> None:
    memory = ReplayMemory(W * S)
    for ahead in (10**6, 10**5):
        assert knock(memory, T + ahead, ahead) == "accepted"
        assert memory.reset(KEY, T * S) is not None
    for ahead in (10**5, 10**6):
        assert knock(memory, T + ahead, ahead) == "stale"


def test_only_a_time_that_is_ahead_is_reset() -> None:
    memory = ReplayMemory(W * S)
    knock(memory, T, "a")
    assert memory.reset(KEY, T * S) is None
    assert memory.reset(OTHER, 0) is None
    assert knock(memory, T, "a") == "replay"


def test_many_runs_become_fewer_and_leave_no_accepted_time_out() -> None:
    memory = ReplayMemory(W * S)
    times = [T + 10_000 * n + n * n * 1000 for n in range(1, 30)]
    for seconds in times:
        assert knock(memory, seconds, seconds) == "accepted"
    done = memory.reset(KEY, T * S)
    assert done is not None
    assert len(done.shut) <= MAX_RUNS
    assert all(any(first <= seconds * S <= last for first, last in done.shut) for seconds in times)
    assert knock(memory, T + 1, "honest") == "accepted", "the furthest gaps stay open"


def test_reset_all_lowers_a_floor_to_what_may_have_been_dated_ahead_and_never_raises_it() -> None:
    memory = ReplayMemory(W * S, floor_ns=(T + 10**6) * S)
    assert memory.reset_all(T * S) == []
    assert memory.floor_ns == (T + W) * S
    memory.reset_all((T + 10**5) * S)
    assert memory.floor_ns == (T + W) * S


def test_a_mark_from_before_there_were_runs_is_one_run() -> None:
    memory = ReplayMemory(W * S)
    memory.load([(KEY, (T + 100) * S, T * S, (), ())], [])
    done = memory.reset(KEY, (T - 5) * S)
    assert done == Reset(KEY, (T - 5) * S, (), ((T * S, (T + 100) * S),))


def test_resets_under_clocks_that_fall_and_windows_that_shrink_let_nothing_in_twice() -> None:
    memory = ReplayMemory(W * S)
    assert knock(memory, T + 4, "first") == "accepted"
    memory.reset(KEY, T * S)
    assert knock(memory, T + 59, "second") == "accepted"
    memory.set_window(5 * S)
    assert knock(memory, T + 60, "third") == "accepted"  # what was shut lies behind the low time now
    for now in (T + 30, T, T - 100):
        memory.reset(KEY, now * S)
        for seconds, label in ((4, "first"), (59, "second"), (60, "third")):
            assert knock(memory, T + seconds, label) == "stale", (now, label)
