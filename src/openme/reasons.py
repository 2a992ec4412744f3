"""Why a knock opens nothing, and why a door ends: every word that the log has for it, in one place."""

from collections.abc import Iterator
from enum import Flag, StrEnum, auto
from itertools import groupby
from typing import Self

from openme.knock_size import KNOCK_SIZE


class Speaker(Flag):
    """Who refuses under a word."""

    LISTENER = auto()
    KEEPER = auto()
    CLIENT = auto()


_LISTENER, _KEEPER, _CLIENT = Speaker.LISTENER, Speaker.KEEPER, Speaker.CLIENT
_NOT_ONE_HOST = "the address to be opened is not that of a single host"


class Reason(StrEnum):
    """A refusal. The value is the word in the log, in JSON and in counts.

    `said_by`: whose refusal it is. `meaning`: the line of docs/operating.md, in Markdown; empty for what no log of the
    server's has.
    """

    said_by: Speaker
    meaning: str

    def __new__(cls, word: str, said_by: Speaker, meaning: str = "") -> Self:
        """A row of the table below."""
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.said_by = said_by
        reason.meaning = meaning
        return reason

    LENGTH = (
        "length",
        _LISTENER | _KEEPER,
        f"not {KNOCK_SIZE} bytes, so not a knock. Above 500 of them a second, the firewall drops the rest uncounted",
    )
    FILTER = (
        "filter",
        _LISTENER,
        (
            "not a version 2 knock for a live epoch of this server, and not shaped like version 1 (where that is"
            " accepted): noise, a scan, another server's client, or a client whose clock is in another week"
        ),
    )
    VERSION = "version", _LISTENER | _KEEPER, "it decrypts, but claims a version that does not exist"
    SIGNATURE = "signature", _KEEPER, "a version 2 knock with a client's key id, but not signed by that client"
    EPOCH = (
        "epoch",
        _KEEPER,
        (
            "a frame for an epoch that is not live: the epoch has just ended, or the process that reads the network"
            " sent nonsense"
        ),
    )
    LOW_ORDER = "low_order", _LISTENER, "a crafted key exchange"
    DECRYPT = (
        "decrypt",
        _LISTENER | _KEEPER,
        "it does not decrypt with this server's key: noise, damage, or a client with another server's key",
    )
    COPY = (
        "copy",
        _LISTENER,
        (
            "the same packet many times. The first copies are still judged, so that the log can report them: under"
            " version 2 two from one address and eight in all, under version 1 eight and sixty-four. Of more than 16 in"
            " a second, wherever they come from, the [kernel filter](#the-kernel-filter) drops the rest"
        ),
    )
    BUSY = "busy", _LISTENER | _KEEPER, "more knocks than the server could handle; the client should knock again"
    UNKNOWN_KEY = (
        "unknown_key",
        _KEEPER,
        (
            "it decrypts, but nobody in the config has signed it: a client that was never added, one that was removed"
            " by hand or, under version 1, a revoked one"
        ),
    )
    FRAME = (
        "frame",
        _KEEPER,
        "the process that reads the network sent nonsense; any count above zero means that something is badly wrong",
    )
    PROTOCOL = "protocol", _KEEPER, "this client may not use this wire version"
    DISABLED = (
        "disabled",
        _KEEPER,
        (
            "signed by a client whose entry has a fault or whose key is revoked (under version 2 also when the config"
            " no longer has it); the line says which"
        ),
    )
    EXPIRED = "expired", _KEEPER, "the client's `expires` has passed"
    TIME = (
        "time",
        _KEEPER,
        (
            "the client's clock and the server's differ by more than `replay_window`; the line says by how much, and"
            " which one is ahead ([the clock](clock.md))"
        ),
    )
    REPLAY = (
        "replay",
        _KEEPER,
        (
            "this very knock was accepted before. `first seen from ADDRESS: somebody is on the path` means that the"
            " copy came from another address"
        ),
    )
    STALE = (
        "stale",
        _KEEPER,
        (
            "signed too long before this client's newest knock, or before a start that could not trust its memory"
            " (see below). If the client's clock and the server's were once far ahead together, so was that newest"
            " knock: `openme reset NAME`"
        ),
    )
    TOO_MANY = "too_many", _KEEPER, "more than 256 knocks of one client within twice `replay_window`"
    TARGET_REQUIRED = (
        "target_required",
        _KEEPER,
        "the client has `require_target_ip`, and the knock names no address",
    )
    ALLOWED_FROM = (
        "allowed_from",
        _KEEPER,
        (
            "the address to be opened is outside the client's networks, or part of the"
            " [network around it](configuration.md#doors-for-a-network) is"
        ),
    )
    ALL_OF_IPV4 = (
        "all_of_ipv4",
        _KEEPER,
        (
            "the [network around the address](configuration.md#doors-for-a-network) would have hosts from all over"
            " IPv4, as behind NAT64: write `prefix_v6: 112`, or more, into this client's entry"
        ),
    )
    LOOPBACK = "loopback", _KEEPER, _NOT_ONE_HOST
    UNSPECIFIED = "unspecified", _KEEPER, _NOT_ONE_HOST
    MULTICAST = "multicast", _KEEPER, _NOT_ONE_HOST
    BROADCAST = "broadcast", _KEEPER, _NOT_ONE_HOST
    RESERVED = "reserved", _KEEPER, _NOT_ONE_HOST
    EMBEDDED = "embedded", _KEEPER, _NOT_ONE_HOST
    OWN_ADDRESS = "own_address", _KEEPER, "it is one of the server's own, or a broadcast address of its networks"
    UNCHECKED_ADDRESS = (
        "unchecked_address",
        _KEEPER,
        (
            "the kernel did not say whether it is one of the server's own, so no door opens. Knock again; if this goes"
            " on, the kernel's log may say why"
        ),
    )
    NO_PORTS = "no_ports", _KEEPER, "the client has no ports and no health port"
    UNAVAILABLE = (
        "unavailable",
        _KEEPER,
        (
            "what remembers knocks has not answered: whether this one is used up is not known; the client should knock"
            " again"
        ),
    )
    # Not of knocks, and so in no log under these words.
    REPORT = "report", _KEEPER
    FIREWALL = "firewall", _KEEPER  # it would not open; said where that happens
    RECEIPT = "receipt", _CLIENT


class End(StrEnum):
    """Why a door that was open is so no more; the value is what the log says."""

    TIME_OVER = "its time is over"
    CLOSED = "closed by the operator"
    REVOKED = "revoked"
    EXPIRED = "expired"
    ALLOWED_FROM = "allowed_from"
    ALL_OF_IPV4 = "all_of_ipv4"


def reasons_of(speaker: Speaker) -> tuple[Reason, ...]:
    """The refusals that this process speaks of, in the order of the table."""
    return tuple(reason for reason in Reason if speaker in reason.said_by)


def documented() -> Iterator[str]:
    """The rows of the table in docs/operating.md; reasons that mean the same stand together."""
    for meaning, reasons in groupby(Reason, lambda reason: reason.meaning):
        if meaning:
            yield f"| {', '.join(f'`{reason}`' for reason in reasons)} | {meaning} |"
