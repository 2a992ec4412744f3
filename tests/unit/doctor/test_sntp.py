"""An NTP server's answer: believed if it is one to our question, and else refused by one exception (RFC 5905)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openme.doctor.sntp import BadAnswerError, times_untrusted

COOKIE = b"\x01\x23\x45\x67\x89\xab\xcd\xef"
UNIX_2026 = 1_795_000_000
SECONDS_2026 = UNIX_2026 + 2_208_988_800


def answer(
    *,
    first: int = 0x24,
    stratum: int = 2,
    origin: bytes = COOKIE,
    received: tuple[int, int] = (SECONDS_2026, 1 << 31),
    sent: tuple[int, int] = (SECONDS_2026 + 1, 0),
) -> bytes:
    head = struct.pack("!BBbb4s4s4s8s", first, stratum, 6, -20, b"", b"", b"GPS", b"")
    return head + origin + struct.pack("!IIII", *received, *sent)


def test_the_times_of_an_answer_are_unix_seconds() -> None:
    assert times_untrusted(answer(), COOKIE) == (UNIX_2026 + 0.5, UNIX_2026 + 1)


def test_an_answer_with_extensions_is_one() -> None:
    assert times_untrusted(answer() + bytes(20), COOKIE) == (UNIX_2026 + 0.5, UNIX_2026 + 1)


def test_after_2036_the_count_begins_anew() -> None:
    received, _ = times_untrusted(answer(received=(0, 0)), COOKIE)
    assert received == 2_085_978_496  # 2036-02-07T06:28:16Z


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("short", answer()[:47]),
        ("empty", b""),
        ("a question", answer(first=0x23)),
        ("a broadcast", answer(first=0x25)),
        ("version 7", answer(first=0x3C)),
        ("to another question", answer(origin=COOKIE[::-1])),
        ("unsynchronised", answer(first=0xE4)),
        ("a kiss of death", answer(stratum=0)),
        ("stratum 16", answer(stratum=16)),
        ("without a time", answer(sent=(0, 0))),
    ],
)
def test_what_is_no_answer_of_one_who_knows_the_time_is_refused(what: str, raw: bytes) -> None:
    with pytest.raises(BadAnswerError):
        times_untrusted(raw, COOKIE)
    assert what


@given(st.binary(max_size=200), st.binary(min_size=8, max_size=8))
def test_whatever_comes_raises_nothing_else(raw: bytes, cookie: bytes) -> None:
    try:
        times_untrusted(raw, cookie)
    except BadAnswerError:
        return
    assert raw[24:32] == cookie
