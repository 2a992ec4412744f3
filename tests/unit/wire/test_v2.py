"""Version 2: where every field lies, and that nothing but the packet as it was made opens."""

import hashlib
import hmac
from ipaddress import ip_address

import pytest
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign_open,
)

from openme.keys import sodium
from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v2
from openme.wire.knock import BadPacket, Knock
from support import independent_v2
from support.knocks import ALICE, BOB, EPOCH, START, nonce, packet_v2, ratchet

PRIVATE = ratchet().private_key(EPOCH)
PUBLIC = crypto_scalarmult_base(PRIVATE)
OTHER_PRIVATE = ratchet().private_key(EPOCH + 1)
OTHER_PUBLIC = crypto_scalarmult_base(OTHER_PRIVATE)
ORDER = 2**252 + 27742317777372353535851937790883648493
PACKET = packet_v2(target="2001:db8::7")


def with_right_mac(packet: bytes, epoch_public: bytes = PUBLIC) -> bytes:
    """What somebody who holds E_i makes of it, for M proves nothing."""
    return packet[:32] + independent_v2.filter_mac(epoch_public, packet) + packet[40:]


def outcome(packet: bytes, private: bytes = PRIVATE, client: ClientPrivateKey = ALICE) -> str:
    """How far a packet gets with the server that has this epoch key: the reason, or `signature`, or `opened`."""
    epoch_public = crypto_scalarmult_base(private)
    if not v2.passes_filter_untrusted(packet, v2.filter_key(epoch_public)):
        return "filter"
    try:
        schedule = v2.schedule_untrusted(packet, private, epoch_public)
        signed = v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
    except BadPacket as bad:
        return bad.reason
    return "opened" if v2.signed_by(packet, signed, epoch_public, client.public) else "signature"


def resealed(plaintext: bytes, pair: tuple[bytes, bytes] | None = None, epoch_public: bytes = PUBLIC) -> bytes:
    """A packet around any 109 bytes, as whoever holds E_i and no client key can make it."""
    representative, secret = independent_v2.ephemeral(b"resealed") if pair is None else pair
    schedule = v2.ephemeral_schedule(secret, epoch_public, representative)
    return v2.assemble(representative, schedule, epoch_public, plaintext)


def plaintext(
    epoch_public: bytes = PUBLIC, pair: tuple[bytes, bytes] | None = None, client: ClientPrivateKey = ALICE
) -> bytes:
    representative, _ = independent_v2.ephemeral(b"resealed") if pair is None else pair
    knock = Knock(START, nonce("a"), None)
    return v2.plaintext_of(knock, client, client.public, epoch_public, representative)


# -- layout


def test_the_sizes_are_those_of_the_spec() -> None:
    assert (v2.PLAINTEXT_SIZE, v2.CIPHERTEXT_SIZE, v2.PACKET_SIZE, v2.SCHEDULE_SIZE) == (109, 125, 165, 104)
    assert (v2.FILTER_MAC_OFFSET, v2.CIPHERTEXT_OFFSET) == (32, 40)
    offsets = (v2.TIMESTAMP_OFFSET, v2.RANDOM_NONCE_OFFSET, v2.TARGET_OFFSET, v2.KEY_ID_OFFSET, v2.SIGNATURE_OFFSET)
    assert offsets == (1, 9, 25, 41, 45)
    assert len(v2.transcript(PUBLIC, bytes(32), bytes(45))) == 125


@pytest.mark.parametrize(
    ("timestamp_ns", "target", "field"),
    [
        (START, None, bytes(16)),
        (-1, "203.0.113.5", bytes(10) + b"\xff\xff\xcb\x00\x71\x05"),
        (2**63 - 1, "2001:db8::7", ip_address("2001:db8::7").packed),
        (-(2**63), "::ffff:203.0.113.5", bytes(10) + b"\xff\xff\xcb\x00\x71\x05"),
    ],
)
def test_every_field_is_at_its_place(timestamp_ns: int, target: str | None, field: bytes) -> None:
    representative, secret = independent_v2.ephemeral(b"layout")
    knock = Knock(timestamp_ns, bytes(range(16)), None if target is None else ip_address(target))
    packet, receipt = v2.seal(PUBLIC, ALICE, knock, ephemeral=(representative, secret))
    point = independent_v2.elligator_map(representative).to_bytes(32, "little")
    shared = crypto_scalarmult(PRIVATE, point)
    raw = independent_v2.derived(shared, b"openme-v2\0" + PUBLIC + representative, 104)
    assert packet[:32] == representative
    assert packet[32:40] == independent_v2.filter_mac(PUBLIC, packet)
    inside = crypto_aead_chacha20poly1305_ietf_decrypt(packet[40:], representative, raw[32:44], raw[:32])
    assert len(packet) == 165
    assert inside[0] == 2
    assert inside[1:9] == timestamp_ns.to_bytes(8, "big", signed=True)
    assert inside[9:25] == bytes(range(16))
    assert inside[25:41] == field
    assert inside[41:45] == hashlib.sha256(b"openme-v2 key id" + ALICE.public.raw).digest()[:4]
    crypto_sign_open(inside[45:] + b"openme-v2 knock\0" + PUBLIC + representative + inside[:45], ALICE.public.raw)
    assert (receipt.id, receipt.key, receipt.nonce) == (raw[44:60], raw[60:92], raw[92:])


@pytest.mark.parametrize("field", [bytes(16), bytes(10) + b"\xff\xff" + bytes(4)])
def test_both_spellings_of_no_address_are_the_wildcard(field: bytes) -> None:
    made = plaintext()
    packet = resealed(made[:25] + field + made[41:])
    schedule = v2.schedule_untrusted(packet, PRIVATE, PUBLIC)
    assert v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce).knock.target is None


def test_siphash_agrees_with_its_authors_vector() -> None:
    """The paper's appendix A, for the copy that the tests measure with."""
    assert independent_v2.siphash(bytes(range(16)), bytes(range(15))).hex() == "e545be4961ca29a1"


def test_two_knocks_share_no_bytes_to_speak_of() -> None:
    knock = Knock(START, nonce("a"), None)
    one, two = (v2.seal(PUBLIC, ALICE, knock, ephemeral=v2.new_ephemeral())[0] for _ in range(2))
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 12


def test_no_repr_shows_a_key() -> None:
    schedule = v2.schedule_untrusted(PACKET, PRIVATE, PUBLIC)
    text = repr(schedule)
    for secret in (schedule.aead_key, schedule.aead_nonce, schedule.receipt.key, schedule.receipt.nonce):
        assert repr(secret) not in text
    key = v2.WIRE.key(EPOCH, PRIVATE)
    assert (repr(PRIVATE) in repr(key), repr(PUBLIC) in repr(key)) == (False, True)
    unsealed = v2.WIRE.unsealed_untrusted(PACKET, key)
    assert repr(unsealed.aead_key) not in repr(unsealed)


# -- nothing else opens


def test_the_packet_as_it_was_made_opens() -> None:
    assert outcome(PACKET) == "opened"
    assert outcome(with_right_mac(PACKET)) == "opened"
    assert outcome(resealed(plaintext())) == "opened"


def test_every_flipped_bit_is_stopped_by_the_filter() -> None:
    for bit in range(8 * len(PACKET)):
        flipped = bytearray(PACKET)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(bytes(flipped)) == "filter", bit


def test_every_flipped_bit_is_stopped_by_the_tag_where_somebody_makes_the_filter_right() -> None:
    for bit in [*range(256), *range(320, 8 * len(PACKET))]:
        flipped = bytearray(PACKET)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(with_right_mac(bytes(flipped))) == "decrypt", bit


@pytest.mark.parametrize("top", [0x40, 0x80, 0xC0])
def test_other_top_bits_are_the_same_point_and_another_packet(top: int) -> None:
    other = bytes([*PACKET[:31], PACKET[31] ^ top, *PACKET[32:]])
    assert independent_v2.elligator_map(other[:32]) == independent_v2.elligator_map(PACKET[:32])
    assert outcome(with_right_mac(other)) == "decrypt"


def test_the_other_representatives_of_a_point_and_its_low_order_shifts_open_nothing() -> None:
    """All have the same shared secret with the server; R as sent is in the key schedule and in the signature."""
    u = independent_v2.elligator_map(PACKET[:32])
    masked = int.from_bytes(PACKET[:32], "little") % 2**254
    others = {
        number for times in range(8) for number in independent_v2.representatives(independent_v2.shifted(u, times))
    }
    assert masked in others
    assert len(others) > 4
    for number in others - {masked}:
        for top in range(4):
            moved = (number | top << 254).to_bytes(32, "little") + PACKET[32:]
            assert outcome(with_right_mac(moved)) == "decrypt"
    negative = (independent_v2.P - masked) % 2**255
    for top in (0, 1):
        moved = (negative | top << 255).to_bytes(32, "little") + PACKET[32:]
        assert outcome(with_right_mac(moved)) == "decrypt"


def test_a_low_order_r_is_refused() -> None:
    low = [number for u in independent_v2.LOW_ORDER for number in independent_v2.representatives(u)]
    assert len(low) >= 2
    for number in low:
        for top in range(4):
            packet = (number | top << 254).to_bytes(32, "little") + PACKET[32:]
            assert outcome(with_right_mac(packet)) == "low_order"


@pytest.mark.parametrize("u", independent_v2.LOW_ORDER)
def test_a_client_uses_no_low_order_epoch_key(u: int) -> None:
    with pytest.raises(ValueError, match="low-order"):
        v2.seal(u.to_bytes(32, "little"), ALICE, Knock(START, nonce(1), None), ephemeral=v2.new_ephemeral())


@pytest.mark.parametrize("size", [0, 1, 39, 40, 164, 166, 200, 65507])
def test_any_other_length_is_refused_at_every_step(size: int) -> None:
    raw = (PACKET * 400)[:size]
    assert not v2.passes_filter_untrusted(raw, v2.filter_key(PUBLIC))
    with pytest.raises(BadPacket, match="length"):
        v2.schedule_untrusted(raw, PRIVATE, PUBLIC)
    with pytest.raises(BadPacket, match="length"):
        v2.open_untrusted(raw, bytes(32), bytes(12))


def test_a_filter_that_fits_a_shorter_or_longer_packet_does_not_let_it_through() -> None:
    for raw in (PACKET[:-1], PACKET + b"\0"):
        assert outcome(with_right_mac(raw)) == "filter"


def test_one_captured_rs_and_anothers_ciphertext_do_not_go_together() -> None:
    other = packet_v2(label="other")
    assert outcome(PACKET[:32] + other[32:]) == "filter"
    assert outcome(PACKET[:40] + other[40:]) == "filter"
    assert outcome(with_right_mac(PACKET[:32] + other[32:])) == "decrypt"
    assert outcome(with_right_mac(other[:32] + PACKET[32:])) == "decrypt"


def test_another_epoch_or_server_opens_nothing() -> None:
    assert outcome(PACKET, OTHER_PRIVATE) == "filter"
    assert outcome(with_right_mac(PACKET, OTHER_PUBLIC), OTHER_PRIVATE) == "decrypt"
    assert outcome(packet_v2(epoch=EPOCH + 1), OTHER_PRIVATE) == "opened"


def test_every_part_of_the_context_is_in_the_key_schedule() -> None:
    pair = independent_v2.ephemeral(b"parts")
    one = v2.ephemeral_schedule(pair[1], PUBLIC, pair[0])
    other_r = v2.ephemeral_schedule(pair[1], PUBLIC, bytes([*pair[0][:31], pair[0][31] ^ 0x80]))
    other_e = v2.ephemeral_schedule(pair[1], OTHER_PUBLIC, pair[0])
    for other in (other_r, other_e):
        assert one.aead_key != other.aead_key
        assert one.aead_nonce != other.aead_nonce
        assert one.receipt.id != other.receipt.id


@pytest.mark.parametrize("version", [0, 1, 3, 0x82, 255])
def test_another_version_inside_is_refused(version: int) -> None:
    assert outcome(resealed(bytes([version]) + plaintext()[1:])) == "version"


# -- the signature


def test_every_changed_field_breaks_the_signature() -> None:
    made = plaintext()
    for at in range(1, 109):
        changed = bytearray(made)
        changed[at] ^= 1
        assert outcome(resealed(bytes(changed))) == "signature", at


def test_a_signature_for_another_server_is_none() -> None:
    """A server that can read a knock cannot pass it on: the transcript names its key."""
    assert outcome(resealed(plaintext(epoch_public=OTHER_PUBLIC))) == "signature"


def test_a_signature_over_another_r_is_none() -> None:
    other = independent_v2.ephemeral(b"another")
    assert outcome(resealed(plaintext(pair=other))) == "signature"
    assert outcome(resealed(plaintext(pair=other), other)) == "opened"


def test_a_masked_r_is_not_what_is_signed() -> None:
    pair = independent_v2.ephemeral(b"masked")
    masked = bytes([*pair[0][:31], pair[0][31] & 0x3F])
    pair = (bytes([*masked[:31], masked[31] | 0xC0]), pair[1])
    assert outcome(resealed(plaintext(pair=(masked, pair[1])), pair)) == "signature"
    assert outcome(resealed(plaintext(pair=pair), pair)) == "opened"


def test_another_clients_signature_is_not_this_ones() -> None:
    assert outcome(packet_v2(BOB)) == "signature"
    assert outcome(packet_v2(BOB), client=BOB) == "opened"


def test_a_malleated_signature_is_refused() -> None:
    """S + L is the same signature to a verifier that does not check S < L (RFC 8032 section 5.1.7)."""
    made = plaintext()
    for times in range(1, 16):
        s = int.from_bytes(made[77:], "little") + times * ORDER
        if s >= 2**256:
            break
        assert outcome(resealed(made[:77] + s.to_bytes(32, "little"))) == "signature"


@pytest.mark.parametrize("signature", [bytes(64), b"\x01" + bytes(63), b"\xff" * 64])
def test_a_trivial_signature_is_refused(signature: bytes) -> None:
    assert outcome(resealed(plaintext()[:45] + signature)) == "signature"


def test_a_key_id_is_signed_and_said_and_nothing_else() -> None:
    """Who it names is for the registry; that it is changed is for the signature."""
    made = plaintext()
    packet = resealed(made[:41] + BOB.public.key_id + made[45:])
    schedule = v2.schedule_untrusted(packet, PRIVATE, PUBLIC)
    signed = v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
    assert signed.key_id == BOB.public.key_id
    assert not v2.signed_by(packet, signed, PUBLIC, ALICE.public)
    assert not v2.signed_by(packet, signed, PUBLIC, BOB.public)


def test_a_signed_knock_is_not_another_knock_of_the_same_client() -> None:
    one = resealed(plaintext())
    schedule = v2.schedule_untrusted(one, PRIVATE, PUBLIC)
    signed = v2.open_untrusted(one, schedule.aead_key, schedule.aead_nonce)
    assert v2.signed_by(one, signed, PUBLIC, ALICE.public)
    assert not v2.signed_by(packet_v2(), signed, PUBLIC, ALICE.public)
    assert not v2.signed_by(one, signed._replace(fields=bytes(45)), PUBLIC, ALICE.public)


# -- what is wiped


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[memoryview]:
    """The buffers in which secrets were computed."""
    buffers: list[memoryview] = []

    class Kept(sodium.Secret):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            buffers.append(self.data)

    monkeypatch.setattr(sodium, "Secret", Kept)
    return buffers


def test_nothing_is_left_of_what_the_schedule_was_made_from(made: list[memoryview]) -> None:
    schedule = v2.schedule_untrusted(PACKET, PRIVATE, PUBLIC)
    assert set(schedule.aead_key) != {0}
    assert {32, 104} <= {len(buffer) for buffer in made}
    assert not any(any(buffer) for buffer in made)
    kept = (schedule.aead_key, schedule.aead_nonce)
    schedule.wipe()
    assert kept == (bytes(32), bytes(12))
    schedule.receipt.wipe()
    assert (schedule.receipt.key, schedule.receipt.nonce) == (bytes(32), bytes(12))


def test_nothing_is_left_of_what_a_packet_said(made: list[memoryview]) -> None:
    schedule = v2.schedule_untrusted(PACKET, PRIVATE, PUBLIC)
    v2.check_opens_untrusted(PACKET, schedule.aead_key, schedule.aead_nonce)
    signed = v2.open_untrusted(PACKET, schedule.aead_key, schedule.aead_nonce)
    assert v2.signed_by(PACKET, signed, PUBLIC, ALICE.public)
    assert {bytes(buffer) for buffer in made} == {bytes(len(buffer)) for buffer in made}
    assert sorted(len(buffer) for buffer in made if len(buffer) in {104, 109, 189}) == [104, 109, 109, 189]
    signed.wipe()
    assert (signed.fields, signed.signature) == (bytes(45), bytes(64))


def test_the_filter_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert not v2.passes_filter_untrusted(PACKET, v2.filter_key(PUBLIC))
    assert seen == [(PACKET[32:40], PACKET[32:40])]


def test_the_generator_draws_all_four_top_bits() -> None:
    drawn = [v2.new_ephemeral()[0] for _ in range(64)]
    assert {raw[31] >> 6 for raw in drawn} == {0, 1, 2, 3}
    assert len(set(drawn)) == 64
