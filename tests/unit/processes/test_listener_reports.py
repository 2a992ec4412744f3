"""What the listener says is numbers, and few; what the keeper makes of them is bounded, whatever comes."""

import errno
import logging
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from math import inf
from pathlib import Path

import pytest

import openme
from openme.processes import listener_reports
from openme.processes.listener_reports import (
    MOST_DELIVERED,
    MOST_LINES,
    Reporter,
    Reports,
    last_words,
    tell,
    worded,
)
from openme.reasons import Reason
from openme.refusals import REPORT_INTERVAL
from openme.seam.channel import FRAME_SIZES, ChannelClosedError, channel, received
from openme.seam.messages import (
    MAX_NUMBER,
    REFUSALS,
    REPORT_SIZE,
    Delivered,
    Dropped,
    Mistake,
    NoHealthPort,
    NoLandlock,
    NoSeccomp,
    NoSeccompLibrary,
    OutOfMemory,
    ReceivingFailed,
    Report,
    Sender,
    types_from,
    unpack_report_untrusted,
)
from openme.wire.knock import BadPacket
from support.knocks import lines

HERE = ip_address("192.0.2.7")
SOURCE = Path(openme.__file__).parent


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener, keeper = channel()
    with listener, keeper:
        yield listener, keeper


def told(keeper: socket.socket) -> list[Report]:
    return [unpack_report_untrusted(raw) for raw in received(keeper, FRAME_SIZES, 10_000)]


def said(*reports: Report | bytes, level: int = logging.INFO, minutes: int = 1) -> list[str]:
    """The lines that the keeper writes for these."""
    keeper = Reports()
    with lines("openme.listener", level) as records:
        for report in reports:
            keeper.on_report_untrusted(report if isinstance(report, bytes) else report.pack(), 0.0)
        for half_second in range(minutes * 120):
            keeper.tick(half_second / 2)
    return [record.getMessage() for record in records]


# -- the listener's end


def test_refusals_are_told_as_sums_once_a_second(ends: tuple[socket.socket, socket.socket]) -> None:
    reporter = Reporter(ends[0], each=False)
    for tenth in range(30):
        reporter.refused(Reason.LENGTH, HERE)
        reporter.refused(Reason.BUSY)
        reporter.report(tenth / 10)
    before = reporter.next_at
    reporter.report(10.0)
    assert (before, reporter.next_at) == (3.0, inf), "a second after the last"
    reports = [report for report in told(ends[1]) if isinstance(report, Dropped)]
    assert len(reports) == 4 * 2
    assert sum(r.count for r in reports if r.reason == "length") == 30
    assert {r.source for r in reports} == {None}
    assert reporter.counts.total == {"length": 30, "busy": 30}


@pytest.mark.parametrize("each", [False, True])
def test_what_was_dropped_reaches_the_keeper_by_reason(
    ends: tuple[socket.socket, socket.socket], *, each: bool
) -> None:
    reporter, keeper = Reporter(ends[0], each=each), Reports()
    for number, reason in enumerate(REFUSALS, 1):
        for _ in range(number):
            reporter.refused(reason, HERE)
    reporter.report(0.0)
    for raw in received(ends[1], FRAME_SIZES, 10_000):
        keeper.on_report_untrusted(raw, 0.0)
    assert keeper.counts.total == reporter.counts.total == {reason: n for n, reason in enumerate(REFUSALS, 1)}


def test_on_level_debug_each_is_told_with_its_source_up_to_a_limit(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_reports, "MOST_LINES", 5)
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    reporter = Reporter(ends[0], each=True)
    for _ in range(8):
        reporter.refused(Reason.FILTER, HERE)
    reporter.refused(Reason.BUSY)
    reporter.report(7.0)
    one = Dropped(Reason.FILTER, 1, HERE)
    assert told(ends[1]) == [one] * 5 + [
        Dropped(Reason.FILTER, 3),
        Dropped(Reason.BUSY, 1),
    ]


def test_what_the_kernel_filter_drops_is_told_without_a_wait_for_the_next_knock(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """It is looked for once a second; whoever comes too early is to come again, and then need not."""
    dropped: list[dict[Reason, int]] = [{}, {Reason.FILTER: 7, Reason.COPY: 2}, {Reason.FILTER: 1}, {}]
    reporter = Reporter(ends[0], each=False, dropped=lambda: dropped.pop(0))
    woken = []
    for now in (0.0, 0.5, 1.0):
        reporter.report(now)
        woken.append(reporter.next_at)
    assert woken == [60.0, 1.0, 61.0]
    assert told(ends[1]) == [Dropped(Reason.FILTER, 7), Dropped(Reason.COPY, 2)]
    reporter.refused(Reason.FILTER)
    assert reporter.next_at == 2.0
    reporter.report(2.0)
    assert told(ends[1]) == [Dropped(Reason.FILTER, 2)]
    reporter.report(62.0)
    assert not dropped
    assert told(ends[1]) == []
    assert reporter.next_at == 122.0
    assert reporter.counts.total == {"filter": 9, "copy": 2}


def test_what_a_busy_keeper_does_not_take_is_told_later(ends: tuple[socket.socket, socket.socket]) -> None:
    reporter = Reporter(ends[0], each=True)
    filler = bytes(REPORT_SIZE)
    with suppress(BlockingIOError):
        while True:
            ends[0].send(filler)
    reporter.refused(Reason.COPY, HERE)
    reporter.report(0.0)
    while [raw for raw in received(ends[1], FRAME_SIZES, 10_000) if raw == filler]:
        pass
    reporter.report(1.0)
    assert told(ends[1]) == [Dropped(Reason.COPY, 1)]


def test_an_error_of_the_socket_is_told_once_a_second(ends: tuple[socket.socket, socket.socket]) -> None:
    reporter = Reporter(ends[0], each=False)
    for _ in range(1000):
        reporter.receiving_failed(OSError(errno.ENOBUFS, "x"))
        reporter.report(0.0)
    assert told(ends[1]) == [ReceivingFailed(errno.ENOBUFS)]


def test_last_words_reach_the_keeper_though_orders_lie_unread(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].send(b"an order that is never read")
    tell(ends[0], [last_words(MemoryError())])
    ends[0].close()
    arrivals = received(ends[1], FRAME_SIZES, 10)
    assert unpack_report_untrusted(next(arrivals)) == OutOfMemory()
    with pytest.raises(ChannelClosedError):
        next(arrivals)


def test_nobody_to_tell_is_no_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    tell(ends[0], [NoLandlock()] * 3)


def test_what_is_not_in_force_is_said_with_the_best_reason_known() -> None:
    line = "sandbox: Landlock is not in force ({}): files are protected by their modes alone"
    refused = NoLandlock(errno.EPERM)
    assert worded(refused) == line.format("Operation not permitted")
    assert worded(refused, "libc is not there") == line.format("libc is not there")
    assert worded(NoLandlock()) == line.format("not available here")


def test_a_mistake_is_told_by_its_place() -> None:
    with pytest.raises(BadPacket) as caught:
        unpack_report_untrusted(b"")
    (line,) = said(last_words(caught.value))
    assert line.startswith("the listener ends by an internal error, at seam/messages.py line ")
    assert said(Mistake(MAX_NUMBER)) == [
        "the listener ends by an internal error, at an unknown place: please report it"
    ]


# -- the keeper's end


def test_the_keeper_wakes_for_a_report_once_it_has_something_to_say_and_no_more() -> None:
    keeper = Reports()
    woken = [keeper.next_at]
    with lines("openme.listener", logging.INFO) as records:
        for report in (Dropped(Reason.LENGTH, 1), ReceivingFailed(errno.ENETDOWN), b"nonsense"):
            for now in (0.0, 10.0):
                raw = report if isinstance(report, bytes) else report.pack()
                keeper.on_report_untrusted(raw, now)
                keeper.tick(now)
                woken.append(keeper.next_at)
            keeper.tick(woken[-1])
            assert keeper.next_at == inf
            keeper = Reports()
    assert woken == [inf, *3 * [inf, REPORT_INTERVAL]]
    assert len(records) == 3 * 2


def test_counts_are_one_line_a_minute_and_lose_nothing() -> None:
    keeper = Reports()
    with lines("openme.listener", logging.INFO) as records:
        for second in range(180):
            keeper.on_report_untrusted(Dropped(Reason.LENGTH, 5).pack(), second)
            keeper.on_report_untrusted(Dropped(Reason.DECRYPT, 1, HERE).pack(), second)
            keeper.tick(second)
        keeper.tick(240)
    assert len(records) == 4
    assert records[0].getMessage() == "refused: 5 length, 1 decrypt"
    assert sum(vars(record)["facts"]["refused"]["length"] for record in records) == 900


def test_a_refusal_has_a_line_on_level_debug_alone_up_to_a_limit() -> None:
    report = Dropped(Reason.LENGTH, 1, HERE)
    assert said(report) == ["refused: 1 length"]
    assert said(report, level=logging.DEBUG)[0] == "refused: length (from 192.0.2.7)"
    flood = said(*[report] * (MOST_LINES * 3), level=logging.DEBUG)
    assert len(flood) == MOST_LINES + 1
    assert flood[-1] == f"refused: {MOST_LINES * 3} length"


def nonsense() -> list[bytes]:
    return [
        bytes([0, len(REFUSALS)]) + bytes(24),
        Dropped(Reason.LENGTH, 0).pack(),  # none refused
        b"\xfe" + bytes(25),
        bytes([6, 1]) + bytes(24),
        *(secrets.token_bytes(REPORT_SIZE) for _ in range(2000)),
    ]


def test_nonsense_is_a_few_lines_a_minute_and_says_what_it_may_mean() -> None:
    found = said(*nonsense(), level=logging.INFO)
    assert len(found) <= len(types_from(Sender.LISTENER)) + 2
    assert any("it may have been taken over" in line for line in found)
    assert all(line.isprintable() for line in found)
    keeper = Reports()
    with lines("openme.listener", logging.INFO) as records:
        for second in range(600):
            keeper.on_report_untrusted(b"\xff" * REPORT_SIZE, second)
            keeper.tick(second)
    assert len(records) == 10


def test_shortfalls_and_ends_are_said_once() -> None:
    with_number = (NoSeccomp, NoLandlock, NoHealthPort, Mistake)
    reports = [NoSeccompLibrary(), OutOfMemory(), *(kind(n) for kind in with_number for n in (0, 1, MAX_NUMBER))]
    assert len(said(*reports * 10)) == 6
    assert said(NoSeccomp(errno.EINVAL)) == ["sandbox: seccomp is not in force (Invalid argument)"]


def test_every_word_for_a_refusal_has_a_number() -> None:
    """A word of the wire formats or of the listener that is not in the list would end it by a mistake."""
    sources = [
        *(SOURCE / "listener").glob("*.py"),
        *(path for path in (SOURCE / "wire").glob("*.py") if path.name not in {"frame.py", "receipt.py"}),
        SOURCE / "processes/listener_process.py",
    ]
    names = {name for path in sources for name in re.findall(r"\bReason\.([A-Z_]+)", path.read_text())}
    assert names == {reason.name for reason in REFUSALS}


def test_what_was_fetched_is_bounded_between_two_looks() -> None:
    keeper = Reports()
    for number in range(MOST_DELIVERED + 5):
        keeper.on_report_untrusted(Delivered(number.to_bytes(16, "big")).pack(), 0.0)
    assert len(keeper.take_delivered()) == MOST_DELIVERED
