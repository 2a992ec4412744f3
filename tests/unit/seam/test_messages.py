"""Frames and orders: fixed sizes, every field at its place, secrets out of every repr."""

from ipaddress import ip_address

import pytest

from openme.seam.messages import (
    FRAME_SIZE,
    MAX_NUMBER,
    ORDER_SIZE,
    REFUSALS,
    REPORT_SIZE,
    Frame,
    Order,
    OrderKind,
    Report,
    ReportKind,
    unpack_frame_untrusted,
    unpack_order,
    unpack_report_untrusted,
)
from openme.wire.knock import BadPacket

SECRET = b"SECRET-SECRET-SECRET-SECRET-SECR"
FRAME = Frame(1, ip_address("203.0.113.5"), 7, SECRET, b"n" * 12, b"p" * 165)


def test_a_frame_has_every_field_at_its_place() -> None:
    raw = FRAME.pack()
    assert len(raw) == FRAME_SIZE == 234
    assert raw[0] == 1
    assert raw[1:17] == ip_address("::ffff:203.0.113.5").packed
    assert raw[17:25] == (7).to_bytes(8, "big")
    assert (raw[25:57], raw[57:69], raw[69:]) == (SECRET, b"n" * 12, b"p" * 165)
    assert unpack_frame_untrusted(raw) == FRAME


@pytest.mark.parametrize("length", [0, 1, 233, 235, 468])
def test_a_frame_of_another_length_is_refused_by_name(length: int) -> None:
    with pytest.raises(BadPacket, match=r"^frame$"):
        unpack_frame_untrusted((FRAME.pack() * 3)[:length])


@pytest.mark.parametrize("kind", OrderKind)
def test_an_order_comes_back(kind: OrderKind) -> None:
    order = Order(kind, 2**64 - 1, SECRET)
    assert len(order.pack()) == ORDER_SIZE == 41
    assert unpack_order(order.pack()) == order


@pytest.mark.parametrize("raw", [b"", bytes(40), bytes(42), b"\xff" + bytes(40)])
def test_what_is_no_order_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"41 or 4137 bytes|OrderKind"):
        unpack_order(raw)


def test_no_repr_shows_a_key() -> None:
    shown = repr(FRAME) + repr(Order(OrderKind.USE_V1_KEY, key=SECRET))
    assert "SECRET" not in shown
    assert SECRET.hex() not in shown


REPORTS = [
    Report(ReportKind.REFUSED, 7, "copy", ip_address("192.0.2.7")),
    Report(ReportKind.REFUSED, MAX_NUMBER, "length"),
    Report(ReportKind.MISTAKE, 12_000_345),
]


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_comes_back(report: Report) -> None:
    assert len(report.pack()) == REPORT_SIZE
    assert unpack_report_untrusted(report.pack()) == report


def test_a_report_has_every_field_at_its_place() -> None:
    source = bytes(10) + b"\xff\xff\xc0\x00\x02\x07"
    assert REPORTS[0].pack() == b"\x00\x05" + (7).to_bytes(8, "big") + source


def test_a_number_that_is_too_large_is_the_largest() -> None:
    assert unpack_report_untrusted(Report(ReportKind.REFUSED, MAX_NUMBER + 1, "length").pack()).number == MAX_NUMBER


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(REPORT_SIZE - 1),
        bytes(REPORT_SIZE + 1),
        bytes([max(ReportKind) + 1]) + bytes(25),
        bytes([ReportKind.REFUSED, len(REFUSALS)]) + bytes(24),
        bytes([ReportKind.NO_LANDLOCK, 1]) + bytes(24),
    ],
)
def test_what_is_no_report_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(BadPacket, match="report"):
        unpack_report_untrusted(raw)
