"""Wire version 1 beyond the known answers: what is refused and under which name; the primitives' own vectors."""

import hashlib
import hmac
from ipaddress import ip_address

import pytest
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)

from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.wire import v1
from openme.wire.knock import BadPacket, Knock, pack_target, unpack_address, unpack_target
from support.knocks import ALICE, BOB, SERVER, START, nonce, packet

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
# The u-coordinates of small order, in every encoding that X25519 reads as one of them (RFC 7748 section 6.1).
LOW_ORDER = [
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
    )
]
LOW_ORDER += [(int.from_bytes(raw, "little") | 1 << 255).to_bytes(32, "little") for raw in LOW_ORDER]


def refused(datagram: bytes) -> str:
    with pytest.raises(BadPacket) as caught:
        v1.open_untrusted(datagram, v1.aead_key_untrusted(datagram, SERVER.raw))
    return caught.value.reason


@pytest.mark.parametrize("length", [0, 1, 164, 166, 330, 65507])
def test_another_length_is_refused_by_name(length: int) -> None:
    datagram = (packet() * 400)[:length]
    assert refused(datagram) == "length"
    with pytest.raises(BadPacket, match=r"^length$"):
        v1.open_untrusted(datagram, bytes(32))


@pytest.mark.parametrize("version", [0, 2, 3, 0x81, 255])
def test_another_version_is_refused_by_name(version: int) -> None:
    datagram = bytes([version]) + packet()[1:]
    assert refused(datagram) == "version"
    with pytest.raises(BadPacket, match=r"^version$"):
        v1.open_untrusted(datagram, bytes(32))


@pytest.mark.parametrize("ephemeral", LOW_ORDER, ids=lambda raw: raw.hex()[:8] + raw.hex()[-4:])
def test_a_low_order_ephemeral_key_is_refused_by_name(ephemeral: bytes) -> None:
    assert refused(b"\x01" + ephemeral + packet()[33:]) == "low_order"


@pytest.mark.parametrize("server_public", LOW_ORDER, ids=lambda raw: raw.hex()[:8] + raw.hex()[-4:])
def test_nothing_is_sealed_for_a_low_order_server_key(server_public: bytes) -> None:
    with pytest.raises(ValueError, match="low-order"):
        packet(server_public=server_public)


def test_garbage_that_begins_right_does_not_decrypt() -> None:
    for number in range(50):
        garbage = b"\x01" + b"".join(hashlib.sha256(bytes([number, i])).digest() for i in range(6))[:164]
        assert refused(garbage) == "decrypt"


def test_associated_data_makes_another_packet() -> None:
    good = packet()
    key = v1.aead_key_untrusted(good, SERVER.raw)
    plaintext = v1.pack_plaintext(v1.open_untrusted(good, key))
    other = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, b"x", good[33:45], key)
    assert other[:40] == good[45:85]
    assert refused(good[:45] + other + good[101:]) == "decrypt"


def test_a_malleated_signature_is_nobodys() -> None:
    good = packet()
    scalar = int.from_bytes(good[133:], "little") + ORDER
    assert v1.signed_by(good, ALICE.public)
    assert not v1.signed_by(good[:133] + scalar.to_bytes(32, "little"), ALICE.public)


def test_a_signature_covers_exactly_the_first_101_bytes() -> None:
    good = packet()
    assert v1.signed_by(good[:101] + ALICE.sign(good[:101]), ALICE.public)
    for covered in (good[:100], good[1:101], good[:45], good[45:101]):
        assert not v1.signed_by(good[:101] + ALICE.sign(covered), ALICE.public)
    assert not v1.signed_by(good[:101] + BOB.sign(good[:101]), ALICE.public)


@pytest.mark.parametrize("raw", [bytes(16), bytes(10) + b"\xff\xff" + bytes(4)], ids=["zero", "mapped-zero"])
def test_both_spellings_of_my_source_address_are_the_wildcard(raw: bytes) -> None:
    assert unpack_target(raw) is None


def test_the_wildcard_is_written_as_zeros() -> None:
    assert pack_target(None) == bytes(16)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("203.0.113.5", "00000000000000000000ffffcb007105"),
        ("2001:db8::7", "20010db8000000000000000000000007"),
        ("::1", "00000000000000000000000000000001"),
    ],
)
def test_a_target_is_sixteen_bytes_and_comes_back(text: str, field: str) -> None:
    assert pack_target(ip_address(text)).hex() == field
    assert unpack_target(bytes.fromhex(field)) == ip_address(text)


def test_a_mapped_address_becomes_ipv4() -> None:
    assert unpack_address(ip_address("::ffff:192.0.2.9").packed) == ip_address("192.0.2.9")


def test_a_compatible_address_stays_ipv6() -> None:
    assert unpack_target(ip_address("::192.0.2.9").packed) == ip_address("::c000:209")


@pytest.mark.parametrize("timestamp", [-(2**63), -1, 0, 1, START, 2**63 - 1])
def test_timestamps_are_signed_64_bit(timestamp: int) -> None:
    sealed = packet(timestamp_ns=timestamp)
    assert v1.open_untrusted(sealed, v1.aead_key_untrusted(sealed, SERVER.raw)).timestamp_ns == timestamp
    assert v1.pack_plaintext(Knock(timestamp, nonce(1), None))[:8] == timestamp.to_bytes(8, "big", signed=True)


def test_a_bad_packets_text_is_its_reason_alone() -> None:
    with pytest.raises(BadPacket) as caught:
        v1.open_untrusted(packet(), bytes(32))
    assert str(caught.value) == caught.value.reason == "decrypt"


def rfc5869(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    block, result, counter = b"", b"", 1
    while len(result) < length:
        block = hmac.new(extracted, block + info + bytes([counter]), hashlib.sha256).digest()
        result += block
        counter += 1
    return result[:length]


def test_the_reference_hkdf_gives_the_rfcs_answers() -> None:
    # RFC 5869 appendix A.1 and A.3
    first = rfc5869(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert first.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    third = rfc5869(b"\x0b" * 22, b"", b"", 42)
    assert third.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"


@pytest.mark.parametrize("secret", [bytes(32), b"\x0b" * 32, bytes(range(32))])
def test_the_key_derivation_is_hkdf(secret: bytes) -> None:
    assert v1._hkdf_32(secret) == rfc5869(secret, b"", b"openme-v1-chacha20poly1305", 32)


def test_x25519_is_that_of_rfc_7748() -> None:
    # section 5.2, first vector
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert crypto_scalarmult(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    base = (9).to_bytes(32, "little")
    assert crypto_scalarmult(base, base).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert crypto_scalarmult_base(scalar) == crypto_scalarmult(scalar, base)


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (  # RFC 8032 section 7.1, tests 1 and 2
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = ClientPrivateKey(bytes.fromhex(seed))
    assert key.public == ClientPublicKey(bytes.fromhex(public))
    assert key.sign(bytes.fromhex(message)).hex() == signature
