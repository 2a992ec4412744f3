"""Only what was fetched counts, once, and never more is remembered than the listener keeps."""

from openme.keeper.deliveries import KNOCK_SIZE, MOST, Deliveries, Offer

ALICE = Offer(b"a" * 32, 3020)


def representative(number: int) -> bytes:
    return number.to_bytes(KNOCK_SIZE, "big") + bytes(16)


def test_what_was_offered_and_fetched_is_told_once() -> None:
    made = Deliveries()
    made.offer(representative(1), ALICE)
    assert made.fetched(representative(1)[:KNOCK_SIZE]) == ALICE
    assert made.fetched(representative(1)[:KNOCK_SIZE]) is None


def test_what_nobody_was_offered_was_not_fetched() -> None:
    made = Deliveries()
    made.offer(representative(1), ALICE)
    assert made.fetched(representative(2)[:KNOCK_SIZE]) is None
    made.forget()
    assert made.fetched(representative(1)[:KNOCK_SIZE]) is None


def test_the_oldest_go_first() -> None:
    made = Deliveries()
    for number in range(MOST + 1):
        made.offer(representative(number), ALICE)
    assert made.fetched(representative(0)[:KNOCK_SIZE]) is None
    assert made.fetched(representative(1)[:KNOCK_SIZE]) == ALICE
