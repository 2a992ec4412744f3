"""What listener and keeper say to each other: messages of fixed size, so that neither has anything to parse.

    frame, listener to keeper, 234 bytes            order, keeper to listener, 41 bytes
    offset  size  field                             offset  size  field
         0     1  wire version, 1 or 2                   0     1  kind, see OrderKind
         1    16  source address of the datagram,        1     8  number, unsigned
                  IPv4 as ::ffff:a.b.c.d                 9    32  key, or what else the kind asks for
        17     8  epoch index (version 1: zero)         41  4096  only in a message with text: the text of a receipt,
        25    32  AEAD key                                        or a part of it, zeros behind its end
        57    12  AEAD nonce
        69   165  the packet as it came

    report, listener to keeper, 26 bytes
    offset  size  field
         0     1  kind, see ReportKind
         1     1  reason: the place in REFUSALS, of a refusal; else zero
         2     8  number, unsigned
        10    16  source address of a refused datagram, IPv4 as ::ffff:a.b.c.d; zeros for none

All integers are big-endian. Everything in a frame is the listener's word, and whoever has taken the listener over may
say anything: the keeper opens the packet again and trusts nothing but the client's signature in it. A report decides
nothing at all. It is numbers, so that whatever is said by them in the log is said in the keeper's words.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from openme.keys.erasing import wipe
from openme.keys.sodium import Secret
from openme.wire.knock import BadPacket, IPAddress, pack_address, unpack_address

VERSION_SIZE = 1
SOURCE_SIZE = 16
EPOCH_SIZE = 8
AEAD_KEY_SIZE = 32
AEAD_NONCE_SIZE = 12
PACKET_SIZE = 165

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


class OrderKind(IntEnum):
    """What the keeper tells the listener: the verdict on a version 2 knock, or the fate of a key, address or receipt.

    A knock is named by its R, the first 32 bytes of its packet, which no other knock has.
    """

    ACCEPTED = (
        0  # key: R; number: monotonic nanoseconds at which the opening ends; text: the (last part of the) receipt
    )
    REFUSED = 1  # key: R; it opened nothing
    USE_V1_KEY = 3  # number: which of several; key: the private key
    FORGET_V1_KEY = 4  # number: which of several
    KNOWN_SOURCE = 5  # key: an address that a client has knocked from
    USE_EPOCH_KEY = 6  # number: the epoch; key: its private key
    FORGET_EPOCH_KEY = 7  # number: the epoch
    RECEIPT_PART = 8  # key: R; text: a part of the receipt, before the one that comes with ACCEPTED
    FORGET_RECEIPT = 9  # key: R; its opening has ended early
    SERVE = 10  # the firewall's rules are in force and the keys are told: let strangers in
    LEAVE_HEALTH_PORT = 11  # it is a service's from now on: listen there no more


@dataclass(frozen=True, slots=True)
class Order:
    """One message from the keeper to the listener. `text` is empty, or has at most 4096 bytes and no zero in it."""

    kind: OrderKind
    number: int = 0
    key: bytes = field(default=bytes(KEY_SIZE), repr=False)
    text: bytes = b""

    def pack(self) -> bytes:
        """The 41 or 4137 bytes; whoever sends them wipes them, as they may hold a key or what a knock said."""
        head = self.kind.to_bytes(KIND_SIZE, "big") + self.number.to_bytes(NUMBER_SIZE, "big")
        size = LONG_ORDER_SIZE if self.text else ORDER_SIZE
        return _joined(size, (head, self.key, self.text))

    def wipe(self) -> None:
        """Forget the key of an epoch, or the text of a receipt: both are this order's alone, and it is done with."""
        if self.kind is OrderKind.USE_EPOCH_KEY:
            wipe(self.key)
        wipe(self.text)


def known_source(address: IPAddress) -> Order:
    """Tells the listener of an address that a client has knocked from."""
    return Order(OrderKind.KNOWN_SOURCE, key=pack_address(address) + bytes(KEY_SIZE - SOURCE_SIZE))


def source_of(order: Order) -> IPAddress:
    """The address in a KNOWN_SOURCE."""
    return unpack_address(order.key[:SOURCE_SIZE])


def accepted(tag: bytes, ends_ns: int, text: bytes) -> list[Order]:
    """The orders that say that a knock opened, with its receipt, however long: the last one is ACCEPTED."""
    parts = [text[i : i + TEXT_SIZE] for i in range(0, len(text), TEXT_SIZE)] or [b""]
    orders = [Order(OrderKind.RECEIPT_PART, key=tag, text=part) for part in parts[:-1]]
    return [*orders, Order(OrderKind.ACCEPTED, ends_ns, tag, parts[-1])]


def unpack_order(raw: bytes) -> Order:
    """The order in exactly 41 or 4137 bytes; ValueError for anything else.

    The listener may trust the keeper: this guards against mistakes, not against strangers.
    """
    if len(raw) not in {ORDER_SIZE, LONG_ORDER_SIZE}:
        raise ValueError(f"an order has {ORDER_SIZE} or {LONG_ORDER_SIZE} bytes")
    end = raw.find(0, ORDER_SIZE)
    return Order(
        kind=OrderKind(raw[0]),
        number=int.from_bytes(raw[NUMBER_OFFSET:KEY_OFFSET], "big"),
        key=raw[KEY_OFFSET:ORDER_SIZE],
        text=raw[ORDER_SIZE : len(raw) if end < 0 else end],
    )


REASON_SIZE = 1
REASON_OFFSET = KIND_SIZE  # 1
REPORT_NUMBER_OFFSET = REASON_OFFSET + REASON_SIZE  # 2
REPORT_SOURCE_OFFSET = REPORT_NUMBER_OFFSET + NUMBER_SIZE  # 10
REPORT_SIZE = REPORT_SOURCE_OFFSET + SOURCE_SIZE  # 26
MAX_NUMBER = (1 << 8 * NUMBER_SIZE) - 1

REFUSALS = ("length", "filter", "low_order", "decrypt", "version", "copy", "busy")
"""Why the listener drops a datagram, in the order of the numbers that stand for it in a report."""


class ReportKind(IntEnum):
    """What the listener can say besides frames."""

    REFUSED = 0  # reason; number: how many datagrams; source: where from, if each one is told
    RECEIVING_FAILED = 1  # number: the errno
    NO_SECCOMP_LIBRARY = 2  # the host has no libseccomp
    NO_SECCOMP = 3  # number: the errno
    NO_LANDLOCK = 4  # number: the errno, zero if there was none
    OUT_OF_MEMORY = 5  # it ends
    MISTAKE = 6  # it ends, by an internal error; number: where, see server/listener_reports.py
    DELIVERED = 7  # a receipt was fetched to its end; source's place: the first 16 bytes of the knock's R
    READY = 8  # it is confined, and waits for its keys
    NO_HEALTH_PORT = 9  # somebody listens there since we have bound it; number: the errno
    SERVING = 10  # it has heard SERVE, and lets strangers in
    LEFT_HEALTH_PORT = 11  # it has heard LEAVE_HEALTH_PORT, and listens there no more


@dataclass(frozen=True, slots=True)
class Report:
    """What the listener has to say. `reason` is one of REFUSALS, or empty; `knock` has 16 bytes, or none."""

    kind: ReportKind
    number: int = 0
    reason: str = ""
    source: IPAddress | None = None
    knock: bytes = b""

    def pack(self) -> bytes:
        """The 26 bytes."""
        reason = REFUSALS.index(self.reason) if self.reason else 0
        source = self.knock or (bytes(SOURCE_SIZE) if self.source is None else pack_address(self.source))
        return bytes([self.kind, reason]) + min(self.number, MAX_NUMBER).to_bytes(NUMBER_SIZE, "big") + source


def unpack_report_untrusted(raw: bytes) -> Report:
    """The report in exactly 26 bytes. BadPacket: `report` for any other length, and for what no report says."""
    if len(raw) != REPORT_SIZE or raw[0] not in _REPORT_KINDS:
        raise BadPacket("report")
    kind, reason = ReportKind(raw[0]), raw[REASON_OFFSET]
    source = raw[REPORT_SOURCE_OFFSET:]
    if reason >= (len(REFUSALS) if kind is ReportKind.REFUSED else 1):
        raise BadPacket("report")
    if kind is ReportKind.DELIVERED:
        return Report(kind, knock=source)
    return Report(
        kind=kind,
        number=int.from_bytes(raw[REPORT_NUMBER_OFFSET:REPORT_SOURCE_OFFSET], "big"),
        reason=REFUSALS[reason] if kind is ReportKind.REFUSED else "",
        source=unpack_address(source) if any(source) else None,
    )


_REPORT_KINDS = frozenset(ReportKind)


@dataclass(frozen=True, slots=True)
class Frame:
    """One datagram on its way from the listener to the keeper."""

    version: int
    source: IPAddress
    epoch: int
    aead_key: bytes = field(repr=False)
    aead_nonce: bytes
    packet: bytes

    def pack(self) -> bytes:
        """The 234 bytes; whoever sends them wipes them."""
        return _joined(
            FRAME_SIZE,
            (
                self.version.to_bytes(VERSION_SIZE, "big"),
                pack_address(self.source),
                self.epoch.to_bytes(EPOCH_SIZE, "big"),
                self.aead_key,
                self.aead_nonce,
                self.packet,
            ),
        )


def _joined(size: int, parts: Iterable[bytes]) -> bytes:
    """The parts one behind the other, zeros behind the last; unlike `+` this leaves no shorter copies behind."""
    with Secret(size) as whole:
        at = 0
        for part in parts:
            whole.data[at : at + len(part)] = part
            at += len(part)
        return whole.part(0, size)


def unpack_frame_untrusted(raw: bytes) -> Frame:
    """The frame in exactly 234 bytes. BadPacket: `frame` for any other length."""
    if len(raw) != FRAME_SIZE:
        raise BadPacket("frame")
    return Frame(
        version=raw[0],
        source=unpack_address(raw[SOURCE_OFFSET:EPOCH_OFFSET]),
        epoch=int.from_bytes(raw[EPOCH_OFFSET:AEAD_KEY_OFFSET], "big"),
        aead_key=raw[AEAD_KEY_OFFSET:AEAD_NONCE_OFFSET],
        aead_nonce=raw[AEAD_NONCE_OFFSET:PACKET_OFFSET],
        packet=raw[PACKET_OFFSET:],
    )
