"""Orders to a listener that is too busy: what may be lost, what never is, and what becomes of secrets."""

import socket
from collections.abc import Iterator

import pytest

from openme.seam.channel import ORDER_SIZES, ChannelClosedError, Outbox, channel, received
from openme.seam.messages import (
    KEY_SIZE,
    MESSAGES,
    ForgetEpochKey,
    ForgetV1Key,
    KnockOpened,
    Order,
    Sender,
    Serve,
    UseEpochKey,
    unpack_order,
)
from support.messages import order

ORDERS = [row for row in MESSAGES if row.sender is Sender.KEEPER]
MUST_ARRIVE = [row.type for row in ORDERS if not row.may_be_lost]
MAY_BE_LOST = [row.type for row in ORDERS if row.may_be_lost]


class Busy:
    """The keeper's end of a channel whose other side takes so many messages and no more; it keeps what it was given."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.taken: list[Order] = []
        self.messages: list[bytes] = []

    def send(self, message: bytes) -> int:
        self.messages.append(message)
        if not self.room:
            raise BlockingIOError
        self.room -= 1
        self.taken.append(unpack_order(bytes(bytearray(message))))
        return len(message)


def outbox(end: Busy) -> Outbox:
    return Outbox(end)  # type: ignore[arg-type]  # all that it does with its end


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener, keeper = channel()
    with listener, keeper:
        yield listener, keeper


def test_what_is_put_arrives_in_its_order(ends: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(ends[1])
    for number in range(10):
        box.put([KnockOpened(ends_ns=number), ForgetV1Key(number)])
    told = [unpack_order(message) for message in received(ends[0], ORDER_SIZES, 100)]
    assert told == [one for number in range(10) for one in (KnockOpened(ends_ns=number), ForgetV1Key(number))]
    assert not box


def test_what_a_busy_listener_would_not_take_goes_in_its_turn() -> None:
    end = Busy(room=3)
    box = outbox(end)
    for number in range(10):
        box.put([KnockOpened(ends_ns=number)])
    assert box
    assert end.taken == [KnockOpened(ends_ns=number) for number in range(3)]
    end.room = 100
    box.flush()
    assert end.taken == [KnockOpened(ends_ns=number) for number in range(10)]
    assert not box


@pytest.mark.parametrize("kind", MUST_ARRIVE)
def test_an_order_about_a_key_or_an_end_is_never_lost(kind: type[Order]) -> None:
    end = Busy()
    box = outbox(end)
    for number in range(5000):
        box.put([KnockOpened(ends_ns=number)])
    for _ in range(50):
        box.put([order(kind)])
    end.room = 10_000
    box.flush()
    assert [one for one in end.taken if isinstance(one, kind)] == [order(kind)] * 50


@pytest.mark.parametrize("kind", MAY_BE_LOST)
def test_verdicts_are_lost_rather_than_kept_without_bound(kind: type[Order]) -> None:
    end = Busy()
    box = outbox(end)
    for _ in range(10_000):
        box.put([order(kind)])
    end.room = 100_000
    box.flush()
    assert 1000 < len(end.taken) < 5000


def test_verdicts_that_come_together_with_an_order_that_must_arrive_do_not_take_it_along() -> None:
    end = Busy()
    box = outbox(end)
    box.put([KnockOpened(ends_ns=number) for number in range(5000)])
    box.put([KnockOpened(), ForgetEpochKey(7)])
    end.room = 10_000
    box.flush()
    assert end.taken[-1] == ForgetEpochKey(7)


def test_an_epochs_key_is_wiped_once_it_is_sent_and_not_before() -> None:
    end = Busy()
    box = outbox(end)
    secret = bytes(bytearray(b"\x07" * KEY_SIZE))
    box.put([UseEpochKey(7, secret)])
    assert secret == b"\x07" * KEY_SIZE
    assert end.messages == [bytes(len(message)) for message in end.messages]  # what could not be sent is no copy of it
    end.room = 1
    box.flush()
    assert end.taken == [UseEpochKey(7, b"\x07" * KEY_SIZE)]
    assert secret == bytes(KEY_SIZE)
    assert not any(any(message) for message in end.messages)


def test_the_end_of_the_listener_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(ends[1])
    ends[0].close()
    with pytest.raises(ChannelClosedError):
        box.put([Serve()])
