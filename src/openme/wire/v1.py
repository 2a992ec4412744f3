"""Wire format, version 1 (spec wire-v1.md).

    offset  size  field
         0     1  version, 0x01
         1    32  ephemeral X25519 public key
        33    12  AEAD nonce
        45    56  ChaCha20-Poly1305 of the 40-byte plaintext, tag at the end
       101    64  Ed25519 signature over bytes 0..100

    plaintext
         0     8  timestamp, signed, Unix time in nanoseconds
         8    16  random nonce
        24    16  target IP, all zero for the source address of the datagram

All integers are big-endian. The ephemeral key is a number below 2^255, little-endian (RFC 7748 section 5), and the
second half of the signature one below the group's order, just above 2^252 (RFC 8032 section 5.1.7): so the top bit of
byte 32 is zero, and byte 164 is at most 0x10. By these bits alone a packet may be told not to be one.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign_open,
)
from nacl.exceptions import CryptoError

from openme.keys.ed25519 import ClientPublicKey, Signer
from openme.keys.hkdf import hkdf
from openme.reasons import Reason
from openme.wire.base import Keys, ServerKey, Signed, Unsealed, Version
from openme.wire.knock import BadPacket, Knock, pack_target, unpack_target

VERSION = 0x01

VERSION_SIZE = 1
EPHEMERAL_SIZE = 32
AEAD_NONCE_SIZE = 12
TIMESTAMP_SIZE = 8
RANDOM_NONCE_SIZE = 16
TARGET_SIZE = 16
TAG_SIZE = 16
SIGNATURE_SIZE = 64
AEAD_KEY_SIZE = 32

PLAINTEXT_SIZE = TIMESTAMP_SIZE + RANDOM_NONCE_SIZE + TARGET_SIZE  # 40
CIPHERTEXT_SIZE = PLAINTEXT_SIZE + TAG_SIZE  # 56

EPHEMERAL_OFFSET = VERSION_SIZE  # 1
AEAD_NONCE_OFFSET = EPHEMERAL_OFFSET + EPHEMERAL_SIZE  # 33
CIPHERTEXT_OFFSET = AEAD_NONCE_OFFSET + AEAD_NONCE_SIZE  # 45
SIGNATURE_OFFSET = CIPHERTEXT_OFFSET + CIPHERTEXT_SIZE  # 101
PACKET_SIZE = SIGNATURE_OFFSET + SIGNATURE_SIZE

SHAPE = {
    0: (VERSION, VERSION),
    AEAD_NONCE_OFFSET - 1: (0x00, 0x7F),
    PACKET_SIZE - 1: (0x00, 0x10),
}
"""The bytes, by offset, that are between two values in every packet; see above. Noise has them once in 7,700 times."""

_KEY_INFO = b"openme-v1-chacha20poly1305"
_NO_AAD = b""


def _hkdf_32(shared_secret: bytes) -> bytes:
    return hkdf(shared_secret, _KEY_INFO, AEAD_KEY_SIZE)


def pack_plaintext(knock: Knock) -> bytes:
    """The 40-byte plaintext."""
    return (
        knock.timestamp_ns.to_bytes(TIMESTAMP_SIZE, "big", signed=True) + knock.random_nonce + pack_target(knock.target)
    )


def assemble(
    ephemeral_public: bytes,
    aead_key: bytes,
    aead_nonce: bytes,
    plaintext: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """The packet from its parts; `sign` returns the 64-byte signature over the first 101 bytes."""
    ciphertext = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, _NO_AAD, aead_nonce, aead_key)
    signed = bytes([VERSION]) + ephemeral_public + aead_nonce + ciphertext
    return signed + sign(signed)


def seal(
    server_public: bytes,
    client: Signer,
    knock: Knock,
    *,
    ephemeral_private: bytes,
    aead_nonce: bytes,
) -> bytes:
    """Build a knock: the packet.

    `ephemeral_private` (32 bytes) and `aead_nonce` (12 bytes) come from the caller's random generator, are fresh for
    every packet and are dropped after use; this module has no source of randomness, so that known answers fit.
    ValueError if `server_public` is a low-order point.
    """
    try:
        shared_secret = crypto_scalarmult(ephemeral_private, server_public)
    except CryptoError:
        raise ValueError("the server's public key is a low-order point") from None
    return assemble(
        crypto_scalarmult_base(ephemeral_private),
        _hkdf_32(shared_secret),
        aead_nonce,
        pack_plaintext(knock),
        client.sign,
    )


def aead_key_untrusted(packet: bytes, server_private: bytes) -> bytes:
    """The 32-byte AEAD key of a packet, by X25519 and HKDF. BadPacket: `length`, `version`, `low_order`."""
    if len(packet) != PACKET_SIZE:
        raise BadPacket(Reason.LENGTH)
    if packet[0] != VERSION:
        raise BadPacket(Reason.VERSION)
    try:
        # libsodium fails on an all-zero result, as the spec asks for (RFC 7748 section 6.1).
        shared_secret = crypto_scalarmult(server_private, packet[EPHEMERAL_OFFSET:AEAD_NONCE_OFFSET])
    except CryptoError:
        raise BadPacket(Reason.LOW_ORDER) from None
    return _hkdf_32(shared_secret)


def open_untrusted(packet: bytes, aead_key: bytes) -> Knock:
    """The knock inside a packet, given its AEAD key. BadPacket: `length`, `version`, `decrypt`.

    The nonce and the ciphertext are read from the packet, never from elsewhere: the client's signature covers both.
    """
    if len(packet) != PACKET_SIZE:
        raise BadPacket(Reason.LENGTH)
    if packet[0] != VERSION:
        raise BadPacket(Reason.VERSION)
    nonce = packet[AEAD_NONCE_OFFSET:CIPHERTEXT_OFFSET]
    ciphertext = packet[CIPHERTEXT_OFFSET:SIGNATURE_OFFSET]
    try:
        plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, _NO_AAD, nonce, aead_key)
    except CryptoError:
        raise BadPacket(Reason.DECRYPT) from None
    return Knock(
        timestamp_ns=int.from_bytes(plaintext[:TIMESTAMP_SIZE], "big", signed=True),
        random_nonce=plaintext[TIMESTAMP_SIZE : TIMESTAMP_SIZE + RANDOM_NONCE_SIZE],
        target=unpack_target(plaintext[TIMESTAMP_SIZE + RANDOM_NONCE_SIZE :]),
    )


def signed_by(packet: bytes, client: ClientPublicKey) -> bool:
    """Whether the signature over bytes 0..100 is this client's (RFC 8032 section 5.1.7; S below the group order)."""
    try:
        crypto_sign_open(packet[SIGNATURE_OFFSET:] + packet[:SIGNATURE_OFFSET], client.raw)
    except CryptoError:
        return False
    return True


def _admitted_untrusted(packet: bytes, keys: Mapping[int, ServerKey]) -> Sequence[ServerKey]:
    return tuple(keys.values()) if WIRE.has_shape_untrusted(packet) else ()


def _unsealed_untrusted(packet: bytes, key: ServerKey) -> Unsealed:
    aead_key = aead_key_untrusted(packet, key.private)
    open_untrusted(packet, aead_key)
    return Unsealed(aead_key, packet[AEAD_NONCE_OFFSET:CIPHERTEXT_OFFSET])


def _signed_untrusted(packet: bytes, aead_key: bytes, _aead_nonce: bytes, _public: bytes) -> Signed:
    knock = open_untrusted(packet, aead_key)
    return Signed(knock, None, lambda client: signed_by(packet, client), lambda: None)


def _seal_afresh(server_public: bytes, client: Signer, knock: Knock) -> tuple[bytes, None]:
    ephemeral_private, aead_nonce = secrets.token_bytes(EPHEMERAL_SIZE), secrets.token_bytes(AEAD_NONCE_SIZE)
    return seal(server_public, client, knock, ephemeral_private=ephemeral_private, aead_nonce=aead_nonce), None


WIRE = Version(
    name="v1",
    number=VERSION,
    size=PACKET_SIZE,
    keys=Keys.SERVER,
    filter_mac=None,
    shape=SHAPE,
    copy_prefix_size=PACKET_SIZE,
    representative_size=0,
    key=ServerKey,
    admitted_untrusted=_admitted_untrusted,
    unsealed_untrusted=_unsealed_untrusted,
    signed_untrusted=_signed_untrusted,
    seal=_seal_afresh,
    pause=0.02,  # an existing server loses one of two that come back to back
    names_own_address=False,
)
