"""Orders to a listener that is too busy: what may be lost, what never is, and what becomes of secrets."""

import socket
from collections.abc import Iterator

import pytest

from openme.seam.channel import ORDER_SIZES, ChannelClosedError, Outbox, channel, received
from openme.seam.messages import KEY_SIZE, Order, OrderKind, unpack_order

MUST_ARRIVE = [
    OrderKind.USE_V1_KEY,
    OrderKind.FORGET_V1_KEY,
    OrderKind.USE_EPOCH_KEY,
    OrderKind.FORGET_EPOCH_KEY,
    OrderKind.FORGET_RECEIPT,
    OrderKind.SERVE,
    OrderKind.LEAVE_HEALTH_PORT,
]
MAY_BE_LOST = [kind for kind in OrderKind if kind not in MUST_ARRIVE]


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


def key(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "big")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener, keeper = channel()
    with listener, keeper:
        yield listener, keeper


def test_what_is_put_arrives_in_its_order(ends: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(ends[1])
    for number in range(10):
        box.put([Order(OrderKind.ACCEPTED, number), Order(OrderKind.USE_V1_KEY, number)])
    told = [unpack_order(message) for message in received(ends[0], ORDER_SIZES, 100)]
    assert [order.number for order in told] == [number for number in range(10) for _ in range(2)]
    assert not box


def test_what_a_busy_listener_would_not_take_goes_in_its_turn() -> None:
    end = Busy(room=3)
    box = outbox(end)
    for number in range(10):
        box.put([Order(OrderKind.ACCEPTED, number)])
    assert box
    assert [order.number for order in end.taken] == [0, 1, 2]
    end.room = 100
    box.flush()
    assert [order.number for order in end.taken] == list(range(10))
    assert not box


@pytest.mark.parametrize("kind", MUST_ARRIVE)
def test_an_order_about_a_key_or_an_end_is_never_lost(kind: OrderKind) -> None:
    end = Busy()
    box = outbox(end)
    for number in range(5000):
        box.put([Order(OrderKind.ACCEPTED, number)])
    for number in range(50):
        box.put([Order(kind, number, key(number + 1))])
    end.room = 10_000
    box.flush()
    assert [order.number for order in end.taken if order.kind is kind] == list(range(50))


@pytest.mark.parametrize("kind", MAY_BE_LOST)
def test_verdicts_are_lost_rather_than_kept_without_bound(kind: OrderKind) -> None:
    end = Busy()
    box = outbox(end)
    for number in range(10_000):
        box.put([Order(kind, number)])
    end.room = 100_000
    box.flush()
    assert 1000 < len(end.taken) < 5000


def test_verdicts_that_come_together_with_an_order_that_must_arrive_do_not_take_it_along() -> None:
    end = Busy()
    box = outbox(end)
    box.put([Order(OrderKind.ACCEPTED, number) for number in range(5000)])
    box.put([Order(OrderKind.ACCEPTED), Order(OrderKind.FORGET_EPOCH_KEY, 7)])
    end.room = 10_000
    box.flush()
    assert end.taken[-1].kind is OrderKind.FORGET_EPOCH_KEY


def test_an_epochs_key_is_wiped_once_it_is_sent_and_not_before() -> None:
    end = Busy()
    box = outbox(end)
    secret = bytes(bytearray(b"\x07" * KEY_SIZE))
    box.put([Order(OrderKind.USE_EPOCH_KEY, 7, secret)])
    assert secret == b"\x07" * KEY_SIZE
    assert end.messages == [bytes(len(message)) for message in end.messages]  # what could not be sent is no copy of it
    end.room = 1
    box.flush()
    assert end.taken == [Order(OrderKind.USE_EPOCH_KEY, 7, b"\x07" * KEY_SIZE)]
    assert secret == bytes(KEY_SIZE)
    assert not any(any(message) for message in end.messages)


def test_the_end_of_the_listener_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(ends[1])
    ends[0].close()
    with pytest.raises(ChannelClosedError):
        box.put([Order(OrderKind.SERVE)])
