"""Messages of the seam: every type a row, fixed sizes, every field at its place, secrets out of every repr."""

from dataclasses import fields, is_dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from openme.reasons import Reason
from openme.seam import messages
from openme.seam.messages import (
    FRAME_SIZE,
    LONG_ORDER_SIZE,
    MAX_NUMBER,
    MESSAGES,
    ORDER_SIZE,
    REFUSALS,
    REPORT_SIZE,
    Dropped,
    Frame,
    KnockOpened,
    Message,
    Order,
    Report,
    Row,
    Sender,
    UseV1Key,
    row_of,
    sizes_from,
    unpack_frame_untrusted,
    unpack_order,
    unpack_report_untrusted,
)
from openme.wire.knock import BadPacket
from support.messages import LAST, REPRESENTATIVE, SECRET, example, examples

FRAME = Frame(1, ip_address("203.0.113.5"), 7, SECRET, b"n" * 12, b"p" * 165)
MOST = LAST.to_bytes(8, "big")
TEXT = SECRET + bytes(4096 - len(SECRET))
HERE = bytes(10) + b"\xff\xff\xc0\x00\x02\x07"
# To the byte, so that a change of the table is seen as what it is.
BYTES = {
    "Frame": b"\x01" + bytes(10) + b"\xff\xff\xcb\x00\x71\x05" + bytes(7) + b"\x07" + SECRET + b"n" * 12 + b"p" * 165,
    "Dropped": b"\x00\x05" + bytes(7) + b"\x07" + HERE,
    "ReceivingFailed": b"\x01\x00" + bytes(7) + b"\x05" + bytes(16),
    "NoSeccompLibrary": b"\x02" + bytes(25),
    "NoSeccomp": b"\x03\x00" + bytes(7) + b"\x16" + bytes(16),
    "NoLandlock": b"\x04\x00" + bytes(7) + b"\x01" + bytes(16),
    "OutOfMemory": b"\x05" + bytes(25),
    "Mistake": b"\x06\x00" + (12_000_345).to_bytes(8, "big") + bytes(16),
    "Delivered": b"\x07" + bytes(9) + REPRESENTATIVE[:16],
    "Ready": b"\x08" + bytes(25),
    "NoHealthPort": b"\x09\x00" + bytes(7) + b"\x62" + bytes(16),
    "Serving": b"\x0a" + bytes(25),
    "LeftHealthPort": b"\x0b" + bytes(25),
    "KnockOpened": b"\x00" + MOST + REPRESENTATIVE + TEXT,
    "KnockNotOpened": b"\x01" + bytes(8) + REPRESENTATIVE,
    "UseV1Key": b"\x03" + MOST + SECRET,
    "ForgetV1Key": b"\x04" + MOST + bytes(32),
    "FamiliarAddress": b"\x05" + bytes(8) + ip_address("2001:db8::7").packed + bytes(16),
    "UseEpochKey": b"\x06" + MOST + SECRET,
    "ForgetEpochKey": b"\x07" + MOST + bytes(32),
    "ReceiptPart": b"\x08" + bytes(8) + REPRESENTATIVE + TEXT,
    "ForgetReceipt": b"\x09" + bytes(8) + REPRESENTATIVE,
    "Serve": b"\x0a" + bytes(40),
    "LeaveHealthPort": b"\x0b" + bytes(40),
}


def unpacked(raw: bytes, row: Row) -> Message:
    if row.type is Frame:
        return unpack_frame_untrusted(raw)
    return unpack_order(raw) if row.sender is Sender.KEEPER else unpack_report_untrusted(raw)


def name(row: Row) -> str:
    return row.type.__name__


def test_every_type_of_message_has_a_row_and_no_number_stands_twice() -> None:
    types = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)}
    assert types - {Message, Order, Report} == {row.type for row in MESSAGES}
    assert len({(row.sender, row.size, row.number) for row in MESSAGES}) == len(MESSAGES)
    assert {name(row) for row in MESSAGES} == BYTES.keys()


@pytest.mark.parametrize("row", MESSAGES, ids=name)
def test_a_row_fits_its_type(row: Row) -> None:
    kind: Any = row.type
    assert is_dataclass(kind)
    assert [field.name for field in fields(kind)] == list(row.places)
    assert set(row.wiped) <= set(row.places)
    assert issubclass(row.type, Order) == (row.sender is Sender.KEEPER)
    taken = [offset for place in row.places.values() for offset in range(place.offset, place.offset + place.size)]
    assert len(taken) == len(set(taken))
    assert row.number is None or 0 not in taken


@pytest.mark.parametrize("row", MESSAGES, ids=name)
def test_a_message_has_these_bytes_and_comes_back(row: Row) -> None:
    message = example(row.type)
    raw = message.pack()
    assert raw == BYTES[name(row)]
    assert len(raw) in sizes_from(row.sender)
    assert unpacked(raw, row) == message


def test_the_sizes_are_those_of_the_two_directions() -> None:
    assert sizes_from(Sender.LISTENER) == {FRAME_SIZE, REPORT_SIZE} == {234, 26}
    assert sizes_from(Sender.KEEPER) == {ORDER_SIZE, LONG_ORDER_SIZE} == {41, 4137}


@pytest.mark.parametrize("row", MESSAGES, ids=name)
def test_what_the_table_says_is_wiped_and_nothing_else(row: Row) -> None:
    message, before = example(row.type), example(row.type)
    message.wipe()
    for field in row.places:
        value, was = getattr(message, field), getattr(before, field)
        assert value == (bytes(len(was)) if field in row.wiped else was)


@pytest.mark.parametrize("length", [0, 1, 233, 235, 468])
def test_a_frame_of_another_length_is_refused_by_name(length: int) -> None:
    with pytest.raises(BadPacket, match=r"^frame$"):
        unpack_frame_untrusted((FRAME.pack() * 3)[:length])


def test_an_order_without_a_text_is_short() -> None:
    assert len(KnockOpened(REPRESENTATIVE, LAST).pack()) == ORDER_SIZE


@pytest.mark.parametrize("raw", [b"", bytes(40), bytes(42), b"\xff" + bytes(40), b"\x02" + bytes(40)])
def test_what_is_no_order_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"41 or 4137 bytes|no order has the number"):
        unpack_order(raw)


def test_no_repr_shows_a_key_or_a_text() -> None:
    shown = "".join(map(repr, examples()))
    assert "SECRET" not in shown
    assert SECRET.hex() not in shown
    assert "UseV1Key" in shown


def test_a_number_that_is_too_large_is_the_largest() -> None:
    assert unpack_report_untrusted(Dropped(Reason.LENGTH, MAX_NUMBER + 1).pack()) == Dropped(Reason.LENGTH, MAX_NUMBER)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(REPORT_SIZE - 1),
        bytes(REPORT_SIZE + 1),
        bytes([1 + max(row.number or 0 for row in MESSAGES if row.sender is Sender.LISTENER)]) + bytes(25),
        bytes([0, len(REFUSALS)]) + bytes(24),
        bytes([4, 1]) + bytes(24),  # a reason where the message has none
        bytes([8]) + bytes(8) + b"\x01" + bytes(16),  # a number
        bytes([8]) + bytes(24) + b"\x01",  # an address
    ],
)
def test_what_is_no_report_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(BadPacket, match="report"):
        unpack_report_untrusted(raw)


def test_a_key_that_the_config_holds_is_not_wiped_with_its_order() -> None:
    key = bytes(bytearray(SECRET))
    UseV1Key(0, key).wipe()
    assert key == SECRET
    assert row_of(UseV1Key).wiped == ()
