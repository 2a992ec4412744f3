"""Receipts: made once, the same for every asker, there as long as the opening, and never too many."""

from collections.abc import Sequence

import pytest

from openme.listener import receipts
from openme.listener.receipts import PENDING_SECONDS, Receipts
from openme.seam.messages import (
    ForgetReceipt,
    KnockNotOpened,
    KnockOpened,
    Order,
    ReceiptPart,
    opening_orders,
    unpack_order,
)
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import seal_receipt

TEXT = b'{"client": "alice"}'


def representative(number: int = 1) -> bytes:
    return number.to_bytes(32, "big")


def keys(number: int = 1) -> ReceiptKeys:
    return ReceiptKeys(number.to_bytes(16, "big"), number.to_bytes(32, "big"), number.to_bytes(12, "big"))


def take(made: Receipts, order: Order, now: float) -> bytes | None:
    """The id of a receipt that is there now."""
    if isinstance(order, KnockOpened):
        return made.opened(order, now)
    if isinstance(order, ReceiptPart):
        made.part(order)
    elif isinstance(order, KnockNotOpened):
        made.not_opened(order)
    else:
        assert isinstance(order, ForgetReceipt)
        made.forget(order)
    return None


def obey(made: Receipts, orders: Sequence[Order], now: float = 0.0) -> list[bytes | None]:
    # The text of an order is overwritten once it is used: each gets one of its own, as from the channel.
    return [take(made, unpack_order(order.pack()), now) for order in orders]


def with_one(number: int = 1, ends: float = 30.0) -> Receipts:
    made = Receipts()
    made.expect(representative(number), keys(number), 0.0)
    assert obey(made, opening_orders(representative(number), round(ends * 10**9), TEXT)) == [keys(number).id]
    return made


# -- made once


def test_it_is_made_when_the_verdict_comes_and_every_asker_gets_the_same_bytes() -> None:
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    assert made.answer(keys().id, 0.1) is None
    assert obey(made, opening_orders(representative(), 30 * 10**9, TEXT), 0.2) == [keys().id]
    first = made.answer(keys().id, 0.3)
    assert first == seal_receipt(TEXT, keys())
    assert all(made.answer(keys().id, now) is first for now in (0.3, 5.0, 29.9))


def test_a_second_verdict_makes_no_second_text_under_the_same_key() -> None:
    made = with_one()
    first = made.answer(keys().id, 1.0)
    assert obey(made, opening_orders(representative(), 60 * 10**9, b'{"other": 1}')) == [None]
    assert obey(made, [KnockNotOpened(knock=representative())]) == [None]
    assert made.answer(keys().id, 1.0) is first


def test_what_a_receipt_says_is_forgotten_also_where_the_verdict_comes_too_late() -> None:
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    made.forget_overdue(PENDING_SECONDS + 1)
    orders = opening_orders(representative(), 30 * 10**9, b"x" * 5000)
    assert len(orders) == 2
    assert [take(made, order, PENDING_SECONDS + 2) for order in orders] == [None, None]
    assert [order.text for order in orders] == [bytes(4096), bytes(904)]


def test_a_refused_copy_leaves_the_originals_receipt() -> None:
    """A copy of a knock passes the listener too, and the keeper's word on it is `refused`."""
    made = with_one()
    made.expect(representative(), keys(), 1.0)
    obey(made, [KnockNotOpened(knock=representative())], 1.1)
    assert made.answer(keys().id, 1.2) == seal_receipt(TEXT, keys())
    obey(made, opening_orders(representative(), 60 * 10**9, b"{}"), 1.3)
    assert made.answer(keys().id, 1.4) == seal_receipt(TEXT, keys())


def test_parts_are_put_together_in_their_order() -> None:
    text = bytes(range(1, 250)) * 40
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    orders = opening_orders(representative(), 30 * 10**9, text)
    assert [type(order) for order in orders] == [*[ReceiptPart] * 2, KnockOpened]
    assert obey(made, orders) == [None, None, keys().id]
    assert made.answer(keys().id, 1.0) == seal_receipt(text, keys())


def test_a_copy_that_comes_between_two_parts_costs_nothing() -> None:
    text = b"x" * 5000
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    part, last = opening_orders(representative(), 30 * 10**9, text)
    take(made, part, 0.1)
    made.expect(representative(), keys(), 0.1)
    assert take(made, last, 0.2) == keys().id
    assert made.answer(keys().id, 1.0) == seal_receipt(text, keys())


def test_two_receipts_under_way_at_once_are_not_mixed() -> None:
    made = Receipts()
    texts = {number: bytes([number]) * 5000 for number in (1, 2)}
    for number in texts:
        made.expect(representative(number), keys(number), 0.0)
    one, two = (opening_orders(representative(number), 30 * 10**9, text) for number, text in texts.items())
    obey(made, [one[0], two[0], two[1], one[1]])
    for number, text in texts.items():
        assert made.answer(keys(number).id, 1.0) == seal_receipt(text, keys(number))


# -- when there is none


def test_an_unknown_id_gets_nothing() -> None:
    made = with_one()
    assert [made.answer(asked, 1.0) for asked in (keys(2).id, bytes(16), b"", representative())] == [None] * 4


@pytest.mark.parametrize("now", [30.0, 31.0, 1e9])
def test_it_ends_with_the_opening(now: float) -> None:
    made = with_one(ends=30.0)
    assert made.answer(keys().id, 29.999) is not None
    assert made.answer(keys().id, now) is None
    assert made.answer(keys().id, 0.0) is None
    assert (made._made, made._ids) == ({}, {})


def test_an_opening_that_ends_early_takes_its_receipt_along() -> None:
    made = with_one()
    obey(made, [ForgetReceipt(knock=representative(2))])
    assert made.answer(keys().id, 1.0) is not None
    obey(made, [ForgetReceipt(knock=representative())])
    assert made.answer(keys().id, 1.0) is None
    assert (made._made, made._ids) == ({}, {})


def test_forgetting_comes_before_the_verdict_as_well() -> None:
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    obey(made, [ForgetReceipt(knock=representative()), *opening_orders(representative(), 30 * 10**9, TEXT)])
    assert made.answer(keys().id, 1.0) is None


def test_a_refused_knock_has_none() -> None:
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    assert obey(
        made, [KnockNotOpened(knock=representative()), *opening_orders(representative(), 30 * 10**9, TEXT)]
    ) == [
        None,
        None,
    ]
    assert made.answer(keys().id, 1.0) is None


def test_an_opening_without_a_text_has_none() -> None:
    """As for a client that is not let to the health port."""
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    assert obey(made, opening_orders(representative(), 30 * 10**9, b"")) == [None]
    assert made.answer(keys().id, 1.0) is None
    assert made._pending == {}


def test_a_knock_that_nobody_expects_has_none() -> None:
    made = Receipts()
    assert obey(made, opening_orders(representative(), 30 * 10**9, b"x" * 5000)) == [None, None]
    assert (made._pending, made._made, made._ids) == ({}, {}, {})


def test_a_receipt_that_no_client_would_read_is_not_made() -> None:
    made = Receipts()
    made.expect(representative(), keys(), 0.0)
    assert obey(made, opening_orders(representative(), 30 * 10**9, b"x" * 70_000))[-1] is None
    assert (made._pending, made._made, made._ids) == ({}, {}, {})


# -- bounds


def test_knocks_that_wait_for_their_verdict_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_PENDING", 5)
    made = Receipts()
    for number in range(12):
        made.expect(representative(number), keys(number), 0.0)
    assert list(made._pending) == [representative(number) for number in range(7, 12)]
    assert obey(made, opening_orders(representative(0), 30 * 10**9, TEXT)) == [None]
    assert obey(made, opening_orders(representative(11), 30 * 10**9, TEXT)) == [keys(11).id]


def test_a_verdict_that_does_not_come_is_not_waited_for() -> None:
    made = Receipts()
    for number in range(4):
        made.expect(representative(number), keys(number), float(number))
    assert made.next_at == PENDING_SECONDS
    made.expect(representative(9), keys(9), 1.0 + PENDING_SECONDS)
    assert made.next_at == 2.0 + PENDING_SECONDS
    assert list(made._pending) == [representative(2), representative(3), representative(9)]


def test_receipts_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_RECEIPTS", 5)
    made = Receipts()
    for number in range(12):
        made.expect(representative(number), keys(number), 0.0)
        obey(made, opening_orders(representative(number), 30 * 10**9, TEXT))
    assert list(made._made) == [keys(number).id for number in range(7, 12)]
    assert set(made._ids) == {representative(number) for number in range(7, 12)}
    assert made.answer(keys(6).id, 1.0) is None
    assert made.answer(keys(7).id, 1.0) is not None


def test_ended_receipts_make_room_first() -> None:
    made = with_one(1, ends=10.0)
    made.expect(representative(2), keys(2), 11.0)
    obey(made, opening_orders(representative(2), 40 * 10**9, TEXT), 11.0)
    assert list(made._made) == [keys(2).id]


# -- what is wiped


def test_what_opens_a_receipt_and_what_it_says_are_wiped_when_it_is_made() -> None:
    made, one = Receipts(), keys()
    made.expect(representative(), one, 0.0)
    texts = [bytes(bytearray(b"said %d" % number)) for number in (1, 2)]
    take(made, ReceiptPart(knock=representative(), text=texts[0]), 0.1)
    assert take(made, KnockOpened(representative(), 30 * 10**9, texts[1]), 0.1) == one.id
    assert made.answer(one.id, 0.2) == seal_receipt(b"said 1said 2", keys())
    assert (one.key, one.nonce) == (bytes(32), bytes(12))
    assert texts == [bytes(6)] * 2


@pytest.mark.parametrize("end", ["refused", "no verdict", "without text", "too many", "a copy", "the opening ended"])
def test_what_opens_a_receipt_that_is_never_made_is_wiped(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, one = Receipts(), keys()
    if end == "a copy":
        made.expect(representative(), keys(), 0.0)
    made.expect(representative(), one, 0.0)
    if end == "refused":
        take(made, KnockNotOpened(knock=representative()), 0.1)
    elif end == "no verdict":
        made.forget_overdue(PENDING_SECONDS - 0.1)
        assert one.key != bytes(32)
        made.forget_overdue(PENDING_SECONDS)
    elif end == "without text":
        take(made, KnockOpened(representative(), 30 * 10**9), 0.1)
    elif end == "too many":
        monkeypatch.setattr(receipts, "MAX_PENDING", 1)
        made.expect(representative(2), keys(2), 0.1)
    elif end == "the opening ended":
        take(made, ForgetReceipt(knock=representative()), 0.1)
    assert (one.key, one.nonce) == (bytes(32), bytes(12))
