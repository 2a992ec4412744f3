"""An example of every message between listener and keeper, and of as many more of a kind as a test wants."""

from ipaddress import ip_address

from openme.reasons import Reason
from openme.seam.messages import (
    Delivered,
    Dropped,
    FamiliarAddress,
    ForgetEpochKey,
    ForgetReceipt,
    ForgetV1Key,
    Frame,
    KnockNotOpened,
    KnockOpened,
    LeaveHealthPort,
    LeftHealthPort,
    Message,
    Mistake,
    NoHealthPort,
    NoLandlock,
    NoSeccomp,
    NoSeccompLibrary,
    Order,
    OutOfMemory,
    Ready,
    ReceiptPart,
    ReceivingFailed,
    Serve,
    Serving,
    UseEpochKey,
    UseV1Key,
)

SECRET = b"SECRET-SECRET-SECRET-SECRET-SECR"
REPRESENTATIVE = bytes(range(1, 33))
LAST = 2**64 - 1


def secret() -> bytes:
    """The secret, each time in a place of its own: it is overwritten there."""
    return bytes(bytearray(SECRET))


def example(kind: type[Message]) -> Message:
    """One message of this type, whose fields are none of them zero."""
    return next(message for message in examples() if type(message) is kind)


def examples() -> list[Message]:
    """One message of each type."""
    return [
        Frame(1, ip_address("203.0.113.5"), 7, secret(), bytes(bytearray(b"n" * 12)), b"p" * 165),
        Dropped(Reason.COPY, 7, ip_address("192.0.2.7")),
        ReceivingFailed(5),
        NoSeccompLibrary(),
        NoSeccomp(22),
        NoLandlock(1),
        OutOfMemory(),
        Mistake(12_000_345),
        Delivered(REPRESENTATIVE[:16]),
        Ready(),
        NoHealthPort(98),
        Serving(),
        LeftHealthPort(),
        KnockOpened(REPRESENTATIVE, LAST, secret()),
        KnockNotOpened(REPRESENTATIVE),
        UseV1Key(LAST, secret()),
        ForgetV1Key(LAST),
        FamiliarAddress(ip_address("2001:db8::7")),
        UseEpochKey(LAST, secret()),
        ForgetEpochKey(LAST),
        ReceiptPart(REPRESENTATIVE, secret()),
        ForgetReceipt(REPRESENTATIVE),
        Serve(),
        LeaveHealthPort(),
    ]


def order(kind: type[Order]) -> Order:
    """An order of this type."""
    made = example(kind)
    assert isinstance(made, Order)
    return made
