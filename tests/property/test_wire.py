"""For any knock: what is built opens again as it was, and not a bit of it can change."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openme.durations import format_duration, parse_duration
from openme.firewall.base import PortList
from openme.keys.ed25519 import ClientPrivateKey, parse_private_key, parse_public_key
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import PROTOCOLS, PortRange, merged, parse_port_spec
from openme.seam.messages import (
    Frame,
    KnockOpened,
    ReceiptPart,
    UseEpochKey,
    UseV1Key,
    unpack_frame_untrusted,
    unpack_order,
)
from openme.wire import v1
from openme.wire.knock import BadPacket, Knock, pack_target, unpack_target
from support.knocks import HOME, NOW, judged, keeper, listener, packet
from support.messages import REPRESENTATIVE

KEYS = st.binary(min_size=32, max_size=32)
TIMES = st.integers(-(2**63), 2**63 - 1)
UNMAPPED = st.ip_addresses(v=6).filter(lambda a: isinstance(a, IPv6Address) and a.ipv4_mapped is None)
ADDRESSES = (st.ip_addresses(v=4) | UNMAPPED).filter(lambda a: not a.is_unspecified)
KNOCKS = st.builds(Knock, TIMES, st.binary(min_size=16, max_size=16), st.none() | ADDRESSES)
RANGES = st.builds(
    lambda proto, ends: PortRange(proto, min(ends), max(ends)),
    st.sampled_from(PROTOCOLS),
    st.tuples(st.integers(1, 60), st.integers(1, 60)) | st.tuples(st.integers(65500, 65535), st.integers(65500, 65535)),
)


@given(KEYS, KEYS, KEYS, st.binary(min_size=12, max_size=12), KNOCKS)
def test_a_sealed_knock_opens_as_it_was(server: bytes, seed: bytes, private: bytes, nonce: bytes, knock: Knock) -> None:
    client = ClientPrivateKey(seed)
    sealed = v1.seal(ServerPrivateKey(server).public, client, knock, ephemeral_private=private, aead_nonce=nonce)
    assert len(sealed) == 165
    assert v1.open_untrusted(sealed, v1.aead_key_untrusted(sealed, server)) == knock
    assert v1.signed_by(sealed, client.public)


@pytest.mark.parametrize("byte", range(165))
def test_not_a_single_bit_of_a_knock_can_change(byte: int) -> None:
    judge, ears, good = keeper(), listener(), packet()
    for bit in range(8):
        changed = bytearray(good)
        changed[byte] ^= 1 << bit
        try:
            frame, _ = ears.frame_untrusted(bytes(changed), HOME)
        except BadPacket as bad:
            assert bad.reason in {"filter", "low_order", "decrypt"}  # noqa: PT017  # either way out is right
        else:
            assert judge.judge_untrusted(frame.pack(), NOW).reason == "unknown_key"
    assert judged(judge, good).reason == "accepted"


@given(st.integers(0, 200).filter(lambda n: n != 165), st.data())
def test_a_knock_cut_or_lengthened_is_no_knock(length: int, data: st.DataObject) -> None:
    tail = data.draw(st.binary(min_size=40, max_size=40))
    with pytest.raises(BadPacket, match=r"^length$"):
        listener().frame_untrusted((packet() + tail)[:length], HOME)


@given(st.none() | ADDRESSES)
def test_a_target_comes_back(target: IPv4Address | IPv6Address | None) -> None:
    assert unpack_target(pack_target(target)) == target


@given(st.binary(min_size=16, max_size=16))
def test_any_sixteen_bytes_are_a_target_that_is_written_the_same(raw: bytes) -> None:
    target = unpack_target(raw)
    assert unpack_target(pack_target(target)) == target
    assert target is None or not target.is_unspecified


@given(
    st.builds(
        Frame,
        st.integers(0, 255),
        st.ip_addresses(v=4) | UNMAPPED,
        st.integers(0, 2**64 - 1),
        KEYS,
        st.binary(min_size=12, max_size=12),
        st.binary(min_size=165, max_size=165),
    )
)
def test_a_frame_comes_back(frame: Frame) -> None:
    assert unpack_frame_untrusted(frame.pack()) == frame


@given(st.binary(min_size=234, max_size=234))
def test_any_234_bytes_are_a_frame(raw: bytes) -> None:
    frame = unpack_frame_untrusted(raw)
    assert unpack_frame_untrusted(frame.pack()) == frame


@given(st.sampled_from([UseV1Key, UseEpochKey]), st.integers(0, 2**64 - 1), KEYS)
def test_an_order_comes_back(kind: type[UseV1Key | UseEpochKey], number: int, key: bytes) -> None:
    assert unpack_order(kind(number, key).pack()) == kind(number, key)


@given(st.sampled_from([KnockOpened(REPRESENTATIVE), ReceiptPart(REPRESENTATIVE, b"")]), st.binary(max_size=4096))
def test_a_text_comes_back_up_to_its_first_zero(order: KnockOpened | ReceiptPart, text: bytes) -> None:
    assert unpack_order(replace(order, text=text).pack()) == replace(order, text=text.partition(b"\0")[0])


@given(KEYS)
def test_keys_come_back_from_their_text(seed: bytes) -> None:
    key = ClientPrivateKey(seed)
    assert parse_private_key(key.to_base64()) == key
    assert parse_public_key(str(key.public)) == key.public


def covered(ranges: list[PortRange] | tuple[PortRange, ...]) -> set[tuple[str, int]]:
    return {(r.proto, number) for r in ranges for number in range(r.first, r.last + 1)}


@given(st.lists(RANGES, max_size=12))
def test_merged_ports_are_exactly_the_same_ports(ranges: list[PortRange]) -> None:
    result = merged(ranges)
    assert covered(result) == covered(ranges)
    assert list(result) == sorted(result)
    for one, other in pairwise(result):
        assert one.proto != other.proto or one.last + 1 < other.first


@given(st.lists(RANGES, max_size=8), st.randoms())
def test_the_same_ports_have_one_canonical_form(ranges: list[PortRange], chance: object) -> None:
    split = [PortRange(r.proto, n, n) for r in ranges for n in range(r.first, r.last + 1)]
    chance.shuffle(split)  # type: ignore[attr-defined]  # a random.Random
    assert PortList(merged(split)) == PortList(merged(ranges))


@given(RANGES)
def test_a_written_range_is_read_again(ports: PortRange) -> None:
    assert parse_port_spec(str(ports)) == (ports,)


@given(st.integers(1, 10**12))
def test_a_written_duration_is_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-6)


@given(st.text("0123456789.dhms ", max_size=12))
def test_what_reads_as_a_duration_is_above_zero(text: str) -> None:
    try:
        assert parse_duration(text) > 0
    except ValueError as error:
        assert "expected a duration" in str(error)  # noqa: PT017  # either way out is right


@given(TIMES)
@settings(max_examples=200)
def test_no_signed_time_is_too_strange_to_judge(timestamp: int) -> None:
    outcome = judged(keeper(), packet(timestamp_ns=timestamp))
    assert outcome.reason == ("accepted" if abs(timestamp - NOW.unix_ns) <= 60 * 10**9 else "time")
