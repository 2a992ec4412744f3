"""Only what was fetched counts, once; what ends is forgotten with all its receipts; both up to a bound."""

import pytest

from openme.keeper import deliveries
from openme.keeper.deliveries import KNOCK_SIZE, MOST, Deliveries, Offer, OpenReceipts
from openme.seam.messages import MAX_RECEIPTS
from support.knocks import ELSEWHERE, HOME

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


HERE, THERE = (b"a" * 32, HOME), (b"a" * 32, ELSEWHERE)


def test_more_is_remembered_than_the_listener_keeps() -> None:
    assert MOST > MAX_RECEIPTS


def test_the_receipts_of_a_grant_are_taken_once_in_the_order_of_the_knocks() -> None:
    receipts = OpenReceipts()
    for number, grant in enumerate((HERE, THERE, HERE)):
        receipts.add(representative(number), grant)
    assert receipts.take(HERE) == [representative(0), representative(2)]
    assert receipts.take(HERE) == []
    receipts.add(representative(3), HERE)
    assert receipts.take(HERE) == [representative(3)]
    assert receipts.take(THERE) == [representative(1)]


def test_receipts_go_with_a_grant_that_goes_on_as_another() -> None:
    receipts = OpenReceipts()
    for number, grant in enumerate((THERE, HERE, HERE)):
        receipts.add(representative(number), grant)
    receipts.move(HERE, THERE)
    receipts.move(THERE, THERE)
    assert receipts.take(HERE) == []
    assert receipts.take(THERE) == [representative(1), representative(2), representative(0)]
    receipts.move(HERE, THERE)
    assert receipts.take(THERE) == []


def test_the_oldest_receipts_are_forgotten_wherever_they_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MOST", 3)
    receipts = OpenReceipts()
    for number in range(3):
        receipts.add(representative(number), HERE)
    receipts.move(HERE, THERE)
    for number in range(3, 5):
        receipts.add(representative(number), HERE)
    assert receipts.take(THERE) == [representative(2)]
    assert receipts.take(HERE) == [representative(3), representative(4)]
    for number in range(5, 9):
        receipts.add(representative(number), THERE if number == 5 else HERE)
    assert receipts.take(THERE) == []
    assert (len(receipts._whose), len(receipts._of)) == (3, 1)


def test_a_receipt_is_that_of_the_last_who_was_let_in_by_it() -> None:
    receipts = OpenReceipts()
    receipts.add(representative(1), HERE)
    receipts.add(representative(1), THERE)
    assert receipts.take(HERE) == []
    assert receipts.take(THERE) == [representative(1)]
