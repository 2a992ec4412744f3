"""What listener and keeper say to each other: a type a message, and `MESSAGES`, the table of what holds for each.

Every message has a fixed size, so that neither side has anything to parse:

    frame, listener to keeper, 234 bytes            order, keeper to listener, 41 bytes
    offset  size  field                             offset  size  field
         0     1  wire version, 1 or 2                   0     1  which order
         1    16  source address of the datagram,        1     8  number, unsigned
                  IPv4 as ::ffff:a.b.c.d                 9    32  key, or what else the order has in its place
        17     8  epoch index (version 1: zero)         41  4096  only in a message with text: the text of a receipt,
        25    32  AEAD key                                        or a part of it, zeros behind its end
        57    12  AEAD nonce
        69  rest  the packet as it came, of KNOCK_SIZE bytes

    report, listener to keeper, 26 bytes
    offset  size  field
         0     1  which report
         1     1  reason: the place in REFUSALS; else zero
         2     8  number, unsigned
        10    16  source address of a dropped datagram, IPv4 as ::ffff:a.b.c.d, zeros for none; or the beginning of R

All integers are big-endian; what a message has no field for is zero. A knock is named by its R, the first 32 bytes of
its packet, which no other knock has.

Everything in a frame is the listener's word, and whoever has taken the listener over may say anything: the keeper opens
the packet again and trusts nothing but the client's signature in it. A report decides nothing but what stands in
docs/privilege-separation.md. It is numbers, so that whatever is said by them in the log is said in the keeper's words.

A new message is a type and a row. Whoever receives it must have a handler for it (`seam.handlers`).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple, cast

from openme.keys.erasing import wipe
from openme.knock_size import KNOCK_SIZE
from openme.reasons import Reason, Speaker, reasons_of
from openme.wire.knock import BadPacket, IPAddress, pack_address, unpack_address

VERSION_SIZE = 1
SOURCE_SIZE = 16
EPOCH_SIZE = 8
AEAD_KEY_SIZE = 32
AEAD_NONCE_SIZE = 12
PACKET_SIZE = KNOCK_SIZE

SOURCE_OFFSET = VERSION_SIZE  # 1
EPOCH_OFFSET = SOURCE_OFFSET + SOURCE_SIZE  # 17
AEAD_KEY_OFFSET = EPOCH_OFFSET + EPOCH_SIZE  # 25
AEAD_NONCE_OFFSET = AEAD_KEY_OFFSET + AEAD_KEY_SIZE  # 57
PACKET_OFFSET = AEAD_NONCE_OFFSET + AEAD_NONCE_SIZE  # 69
FRAME_SIZE = PACKET_OFFSET + PACKET_SIZE  # 234

KIND_SIZE = 1
NUMBER_SIZE = 8
KEY_SIZE = 32
NUMBER_OFFSET = KIND_SIZE  # 1
KEY_OFFSET = NUMBER_OFFSET + NUMBER_SIZE  # 9
ORDER_SIZE = KEY_OFFSET + KEY_SIZE  # 41
TEXT_SIZE = 4096
LONG_ORDER_SIZE = ORDER_SIZE + TEXT_SIZE  # 4137

REASON_SIZE = 1
REASON_OFFSET = KIND_SIZE  # 1
REPORT_NUMBER_OFFSET = REASON_OFFSET + REASON_SIZE  # 2
REPORT_SOURCE_OFFSET = REPORT_NUMBER_OFFSET + NUMBER_SIZE  # 10
REPORT_SIZE = REPORT_SOURCE_OFFSET + SOURCE_SIZE  # 26
MAX_NUMBER = (1 << 8 * NUMBER_SIZE) - 1

MAX_RECEIPTS = 1024
"""That the listener keeps, and the keeper may have it forget: the latest ones."""

MAX_FAMILIAR_ADDRESSES = 4096
"""That the listener keeps of those it is told: the latest ones."""

REFUSALS = reasons_of(Speaker.LISTENER)
"""Why the listener drops a datagram, in the order of the numbers that stand for it in a report."""


class Sender(Enum):
    """Who may say a message; the other side receives it."""

    LISTENER = "listener"
    KEEPER = "keeper"


class Message:
    """What every type in the table can do."""

    __slots__ = ()

    def pack(self) -> bytes:
        """The message as it is sent; whoever sends one that holds what is wiped wipes these bytes as well."""
        return row_of(type(self)).pack(self)

    def wipe(self) -> None:
        """Forget the secrets that this message alone holds, now that it is done with."""
        wipe(*(getattr(self, name) for name in row_of(type(self)).wiped))


# -- from the listener


@dataclass(frozen=True, slots=True)
class Frame(Message):
    """One datagram on its way to the keeper."""

    version: int
    source: IPAddress
    epoch: int
    aead_key: bytes = field(repr=False)
    aead_nonce: bytes
    packet: bytes


class Report(Message):
    """What the listener says besides frames."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Dropped(Report):
    """So many datagrams were dropped, for one of REFUSALS; with a source where each one is told."""

    reason: Reason
    count: int = 1
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class ReceivingFailed(Report):
    """The knock socket has an error and no datagram."""

    errno: int


@dataclass(frozen=True, slots=True)
class NoSeccompLibrary(Report):
    """The host has no libseccomp."""


@dataclass(frozen=True, slots=True)
class NoSeccomp(Report):
    """The kernel does not take the filter."""

    errno: int


@dataclass(frozen=True, slots=True)
class NoLandlock(Report):
    """The kernel has no Landlock, or does not take the rules; `errno` is zero if it gave none."""

    errno: int = 0


@dataclass(frozen=True, slots=True)
class OutOfMemory(Report):
    """The listener ends, as it has reached its limit."""


@dataclass(frozen=True, slots=True)
class Mistake(Report):
    """The listener ends by an internal error; `place` is where, see processes/listener_reports.py."""

    place: int


@dataclass(frozen=True, slots=True)
class Delivered(Report):
    """A receipt was fetched to its end; `knock` are the first 16 bytes of R."""

    knock: bytes


@dataclass(frozen=True, slots=True)
class Ready(Report):
    """The listener is confined, and waits for its keys."""


@dataclass(frozen=True, slots=True)
class NoHealthPort(Report):
    """Somebody listens there since we have bound it."""

    errno: int


@dataclass(frozen=True, slots=True)
class Serving(Report):
    """The listener has heard `Serve`, and lets strangers in."""


@dataclass(frozen=True, slots=True)
class LeftHealthPort(Report):
    """The listener has heard `LeaveHealthPort`, and listens there no more."""


Shortfall = NoSeccompLibrary | NoSeccomp | NoLandlock
"""What of the sandbox is not in force here."""


# -- from the keeper


class Order(Message):
    """What the keeper says: the verdict on a version 2 knock, or the fate of a key, an address or a receipt."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class KnockOpened(Order):
    """The knock with this R has opened, until `ends_ns` (monotonic nanoseconds); `text`: (the end of) its receipt.

    `text` is empty, or has at most 4096 bytes and no zero in it.
    """

    knock: bytes = bytes(KEY_SIZE)
    ends_ns: int = 0
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class KnockNotOpened(Order):
    """The knock with this R has opened nothing."""

    knock: bytes = bytes(KEY_SIZE)


@dataclass(frozen=True, slots=True)
class UseV1Key(Order):
    """Decrypt with this private key of version 1, which is the one of several that has this number."""

    number: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForgetV1Key(Order):
    """Forget the private key of version 1 that has this number."""

    number: int


@dataclass(frozen=True, slots=True)
class FamiliarAddress(Order):
    """An address that a client has knocked from."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class UseEpochKey(Order):
    """Decrypt with the private key of this epoch."""

    epoch: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForgetEpochKey(Order):
    """Wipe the private key of this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReceiptPart(Order):
    """A part of the receipt of the knock with this R, before the one that comes with `KnockOpened`."""

    knock: bytes
    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForgetReceipt(Order):
    """The opening of the knock with this R has ended early."""

    knock: bytes


@dataclass(frozen=True, slots=True)
class Serve(Order):
    """The firewall's rules are in force and the keys are told: let strangers in."""


@dataclass(frozen=True, slots=True)
class LeaveHealthPort(Order):
    """The health port is a service's from now on: listen there no more."""


def opening_orders(knock: bytes, ends_ns: int, text: bytes) -> list[KnockOpened | ReceiptPart]:
    """The orders that say that a knock opened, with its receipt, however long: the last one is `KnockOpened`."""
    parts = [text[i : i + TEXT_SIZE] for i in range(0, len(text), TEXT_SIZE)] or [b""]
    return [*(ReceiptPart(knock, part) for part in parts[:-1]), KnockOpened(knock, ends_ns, parts[-1])]


# -- where a field lies


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lies in a message, and its form: `read` raises ValueError for what is none."""

    offset: int
    size: int
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


def _same(raw: bytes) -> bytes:
    return raw


def _number(offset: int, size: int = NUMBER_SIZE) -> Place:
    return Place(offset, size, lambda value: value.to_bytes(size, "big"), lambda raw: int.from_bytes(raw, "big"))


def _at_most(offset: int) -> Place:
    """A number of the listener's, of which one that is too large is the largest."""
    return Place(
        offset,
        NUMBER_SIZE,
        lambda value: min(value, MAX_NUMBER).to_bytes(NUMBER_SIZE, "big"),
        lambda raw: int.from_bytes(raw, "big"),
    )


def _raw(offset: int, size: int) -> Place:
    return Place(offset, size, _same, _same)


def _read_text(raw: bytes) -> bytes:
    end = raw.find(0)
    return raw if end < 0 else raw[:end]


def _read_reason(raw: bytes) -> Reason:
    if raw[0] >= len(REFUSALS):
        raise ValueError(raw[0])
    return REFUSALS[raw[0]]


_NUMBER = _number(NUMBER_OFFSET)
_KEY = _raw(KEY_OFFSET, KEY_SIZE)
_KEY_ADDRESS = Place(KEY_OFFSET, SOURCE_SIZE, pack_address, unpack_address)
_TEXT = Place(ORDER_SIZE, TEXT_SIZE, _same, _read_text)
_REPORT_NUMBER = _at_most(REPORT_NUMBER_OFFSET)
_REASON = Place(REASON_OFFSET, REASON_SIZE, lambda reason: bytes([REFUSALS.index(reason)]), _read_reason)
_REPORT_SOURCE = Place(
    REPORT_SOURCE_OFFSET,
    SOURCE_SIZE,
    lambda source: bytes(SOURCE_SIZE) if source is None else pack_address(source),
    lambda raw: unpack_address(raw) if any(raw) else None,
)
_REPORT_KNOCK = _raw(REPORT_SOURCE_OFFSET, SOURCE_SIZE)

# -- the table


@dataclass(frozen=True)
class Row:
    """What holds for one type of message.

    `number`: its first byte, or None where the size alone says which it is. `size`: in bytes; one with a text is
    `TEXT_SIZE` longer. `may_be_lost`: whether a receiver who is too busy may never get it, instead of in its turn.
    `wiped`: the fields that are secrets of this message alone, overwritten as soon as it is sent, and by the receiver
    in the bytes that it got (of frames under version 2 only, whose knocks nobody is to open later).
    """

    type: type[Message]
    sender: Sender
    number: int | None
    size: int
    places: dict[str, Place]
    may_be_lost: bool
    wiped: tuple[str, ...] = ()

    def pack(self, message: Message) -> bytes:
        """The bytes of a message of this type, made in one step: no shorter copies are left behind."""
        layout = self._long if getattr(message, "text", b"") else self._short
        values = [place.write(getattr(message, name)) for name, place in layout.places]
        return layout.form.pack(*values) if self.number is None else layout.form.pack(self.number, *values)

    def unpack(self, raw: bytes) -> Message:
        """The message in bytes of the right size; ValueError for what is none."""
        layout = self._short if len(raw) == self.size else self._long
        values = layout.form.unpack(raw) if self.number is None else layout.form.unpack(raw)[1:]
        return self.type(
            **{name: place.read(value) for (name, place), value in zip(layout.places, values, strict=True)}
        )

    @cached_property
    def _short(self) -> "_Layout":
        return _layout(self, self.size)

    @cached_property
    def _long(self) -> "_Layout":
        return _layout(self, self.size + TEXT_SIZE)


class _Layout(NamedTuple):
    """The form of a message's number, if it has one, and of its fields, named in the order of their places."""

    form: struct.Struct
    places: tuple[tuple[str, Place], ...]


def _layout(row: Row, size: int) -> _Layout:
    """Of a message of so many bytes; a text is empty where there is no room for one."""
    places = sorted(row.places.items(), key=lambda item: item[1].offset)
    form, at = (">", 0) if row.number is None else (">B", KIND_SIZE)
    for _, place in places:
        length = min(place.size, size - place.offset)
        form += f"{place.offset - at}x{length}s"
        at = place.offset + length
    return _Layout(struct.Struct(f"{form}{size - at}x"), tuple(places))


def _frame() -> Row:
    places = {
        "version": _number(0, VERSION_SIZE),
        "source": Place(SOURCE_OFFSET, SOURCE_SIZE, pack_address, unpack_address),
        "epoch": _number(EPOCH_OFFSET, EPOCH_SIZE),
        "aead_key": _raw(AEAD_KEY_OFFSET, AEAD_KEY_SIZE),
        "aead_nonce": _raw(AEAD_NONCE_OFFSET, AEAD_NONCE_SIZE),
        "packet": _raw(PACKET_OFFSET, PACKET_SIZE),
    }
    return Row(Frame, Sender.LISTENER, None, FRAME_SIZE, places, may_be_lost=True, wiped=("aead_key", "aead_nonce"))


def _report(number: int, kind: type[Report], /, *, may_be_lost: bool, **places: Place) -> Row:
    return Row(kind, Sender.LISTENER, number, REPORT_SIZE, places, may_be_lost)


def _order(
    number: int, kind: type[Order], /, *, may_be_lost: bool, wiped: tuple[str, ...] = (), **places: Place
) -> Row:
    return Row(kind, Sender.KEEPER, number, ORDER_SIZE, places, may_be_lost, wiped)


MESSAGES = (
    _frame(),
    _report(0, Dropped, may_be_lost=False, reason=_REASON, count=_REPORT_NUMBER, source=_REPORT_SOURCE),
    _report(1, ReceivingFailed, may_be_lost=False, errno=_REPORT_NUMBER),
    _report(2, NoSeccompLibrary, may_be_lost=True),
    _report(3, NoSeccomp, may_be_lost=True, errno=_REPORT_NUMBER),
    _report(4, NoLandlock, may_be_lost=True, errno=_REPORT_NUMBER),
    _report(5, OutOfMemory, may_be_lost=True),
    _report(6, Mistake, may_be_lost=True, place=_REPORT_NUMBER),
    _report(7, Delivered, may_be_lost=True, knock=_REPORT_KNOCK),
    _report(8, Ready, may_be_lost=True),
    _report(9, NoHealthPort, may_be_lost=True, errno=_REPORT_NUMBER),
    _report(10, Serving, may_be_lost=True),
    _report(11, LeftHealthPort, may_be_lost=True),
    _order(0, KnockOpened, may_be_lost=True, wiped=("text",), knock=_KEY, ends_ns=_NUMBER, text=_TEXT),
    _order(1, KnockNotOpened, may_be_lost=True, knock=_KEY),
    _order(3, UseV1Key, may_be_lost=False, number=_NUMBER, key=_KEY),  # the key is the config's, which has it for long
    _order(4, ForgetV1Key, may_be_lost=False, number=_NUMBER),
    _order(5, FamiliarAddress, may_be_lost=True, address=_KEY_ADDRESS),
    _order(6, UseEpochKey, may_be_lost=False, wiped=("key",), epoch=_NUMBER, key=_KEY),
    _order(7, ForgetEpochKey, may_be_lost=False, epoch=_NUMBER),
    _order(8, ReceiptPart, may_be_lost=True, wiped=("text",), knock=_KEY, text=_TEXT),
    _order(9, ForgetReceipt, may_be_lost=False, knock=_KEY),
    _order(10, Serve, may_be_lost=False),
    _order(11, LeaveHealthPort, may_be_lost=False),
)

_BY_TYPE = {row.type: row for row in MESSAGES}
_REPORTS = {row.number: row for row in MESSAGES if issubclass(row.type, Report)}
_ORDERS = {row.number: row for row in MESSAGES if issubclass(row.type, Order)}


def row_of(kind: type[Message]) -> Row:
    """The row of a type of message."""
    return _BY_TYPE[kind]


def types_from(sender: Sender) -> frozenset[type[Message]]:
    """What this side may say."""
    return frozenset(row.type for row in MESSAGES if row.sender is sender)


def sizes_from(sender: Sender) -> frozenset[int]:
    """The sizes that a message of this side may have."""
    rows = [row for row in MESSAGES if row.sender is sender]
    return frozenset(row.size for row in rows) | {row.size + TEXT_SIZE for row in rows if "text" in row.places}


def unpack_frame_untrusted(raw: bytes) -> Frame:
    """The frame in exactly 234 bytes. BadPacket: `frame` for any other length."""
    if len(raw) != FRAME_SIZE:
        raise BadPacket(Reason.FRAME)
    return cast("Frame", _BY_TYPE[Frame].unpack(raw))


def unpack_report_untrusted(raw: bytes) -> Report:
    """The report in exactly 26 bytes. BadPacket: `report` for any other length, and for what no report says."""
    row = _REPORTS.get(raw[0]) if len(raw) == REPORT_SIZE else None
    if row is None:
        raise BadPacket(Reason.REPORT)
    try:
        report = cast("Report", row.unpack(raw))
    except ValueError:
        raise BadPacket(Reason.REPORT) from None
    if report.pack() != raw:  # what it has no field for is zero
        raise BadPacket(Reason.REPORT)
    return report


def unpack_order(raw: bytes) -> Order:
    """The order in exactly 41 or 4137 bytes; ValueError for anything else.

    The listener may trust the keeper: this guards against mistakes, not against strangers.
    """
    if len(raw) not in {ORDER_SIZE, LONG_ORDER_SIZE}:
        raise ValueError(f"an order has {ORDER_SIZE} or {LONG_ORDER_SIZE} bytes")
    row = _ORDERS.get(raw[0])
    if row is None:
        raise ValueError(f"no order has the number {raw[0]}")
    return cast("Order", row.unpack(raw))
