"""When a client fetches new epoch keys by itself, and when it warns."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from openme.client.addresses import Endpoint
from openme.client.blocking import Blocking, finish
from openme.client.known import PastKnock
from openme.client.renewal import epochs_left, fetch, is_due, last_moment
from openme.config.profile_model import EpochKeys
from openme.keys.ratchet import NS
from openme.wire.base import ReceiptKeys
from openme.wire.knock import unpack_address
from openme.wire.receipt import Receipt, receipt_text, seal_receipt
from support.driven import Driven

DAY = 86400
WEEK = 7 * DAY
FIRST = 2900
HERE = Endpoint(socket.AF_INET, "127.0.0.1")
PAST = PastKnock("127.0.0.1", None, FIRST * WEEK * NS, FIRST, ReceiptKeys(b"i" * 16, b"k" * 32, b"n" * 12))


def file(count: int = 53, length: int = WEEK) -> EpochKeys:
    return EpochKeys(float(length), FIRST, tuple(bytes([n]) * 32 for n in range(count)))


def at(epoch: float, length: int = WEEK) -> int:
    """Nanoseconds: the middle of second one of an epoch."""
    return round(epoch * length) * NS + NS


@pytest.mark.parametrize(("gone", "left"), [(0, 53), (1, 52), (52, 1), (53, 0), (60, -7)])
def test_the_current_epoch_counts_among_those_that_are_left(gone: int, left: int) -> None:
    keys = file()
    assert epochs_left(keys, keys.by_epoch(), at(FIRST + gone)) == left


@pytest.mark.parametrize(
    ("gone", "count", "due"),
    [
        *((0, 53, False), (26, 53, False), (27, 53, True), (52, 53, True), (2, 4, False), (3, 4, True)),
        # Where half is less than one epoch, the last one.
        *((0, 2, False), (1, 2, True), (0, 1, True)),
    ],
)
def test_new_keys_are_due_when_fewer_than_half_are_left(gone: int, count: int, due: bool) -> None:  # noqa: FBT001
    keys = file(count)
    assert is_due(keys, keys.by_epoch(), at(FIRST + gone), None) is due


def test_keys_that_last_for_hours_are_renewed_again_within_the_day() -> None:
    """One try a day would leave a client without keys that knocks all the time."""
    keys = file(53, 600)
    known = keys.by_epoch()
    tried: int | None = None
    for minute in range(2 * 24 * 60):
        now = FIRST * 600 * NS + minute * 60 * NS
        assert epochs_left(keys, known, now) > 0
        if is_due(keys, known, now, tried):
            tried = now // NS
            epoch = now // NS // 600
            known = {**known, **{epoch + n: bytes(32) for n in range(53)}}


def test_keys_that_came_since_put_it_off() -> None:
    keys = file()
    known = keys.by_epoch() | {FIRST + 53 + n: bytes(32) for n in range(30)}
    assert not is_due(keys, known, at(FIRST + 40), None)


@pytest.mark.parametrize(
    ("ago", "due"), [(0, False), (1, False), (DAY - 1, False), (DAY, True), (30 * DAY, True), (-1, True), (-DAY, True)]
)
def test_one_try_a_day_whichever_way_the_clock_was_turned(ago: int, due: bool) -> None:  # noqa: FBT001
    keys = file()
    now = at(FIRST + 50)
    assert is_due(keys, keys.by_epoch(), now, now // NS - ago) is due


@pytest.mark.parametrize(
    ("gone", "count", "length", "warns"),
    [
        (44.9, 53, WEEK, False),
        (45.1, 53, WEEK, True),
        (52, 53, WEEK, True),
        (60, 53, WEEK, True),
        # Files that carry less from the start are not warned about from the start.
        (0, 8, WEEK, False),
        (6.7, 8, WEEK, False),
        (6.9, 8, WEEK, True),
        (0, 53, 3600, False),
        (45.1, 53, 3600, True),
    ],
)
def test_it_warns_below_eight_weeks(gone: float, count: int, length: int, warns: bool) -> None:  # noqa: FBT001
    keys = file(count, length)
    moment = last_moment(keys, keys.by_epoch(), at(FIRST + gone, length))
    assert moment == ((FIRST + count) * length - 1 if warns else None)


class _Health:
    """A health port that gives each connection the next of these answers; what it was asked is kept."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(100))
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def sealed() -> bytes:
    text = receipt_text(Receipt("alice", unpack_address(b"\x20\x01" + bytes(13) + b"\1"), ("22/tcp",), 1.0, 2.0))
    return seal_receipt(text, PAST.receipt)


@pytest.fixture
def unused() -> Iterator[int]:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_receipt_is_asked_for_by_its_id_and_taken(sealed: bytes) -> None:
    # The first connection only looks whether the port is open.
    with closing(_Health(b"", sealed)) as health:
        proof = finish(fetch(Blocking(), [(HERE, PAST)], health.port, 30))
    assert proof is not None
    assert proof.receipt is not None
    assert proof.receipt.client == "alice"
    assert health.asked == [b"", PAST.receipt.id]


def test_it_is_tried_again_while_there_is_time(sealed: bytes) -> None:
    with closing(_Health(b"", b"", b"", b"nonsense", b"", sealed)) as health:
        assert finish(fetch(Blocking(), [(HERE, PAST)], health.port, 30)) is not None


def test_it_gives_up_when_the_time_is_over(unused: int) -> None:
    turns = iter(range(100))
    driver = Driven(monotonic=lambda: float(next(turns)))
    assert finish(fetch(driver, [(HERE, PAST)], unused, 3)) is None
    assert next(turns) < 10
