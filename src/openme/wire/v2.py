"""Wire format, version 2: bytes that look random (spec wire-v2.md).

    offset  size  name
         0    32  R, Elligator 2 representative of the ephemeral X25519 public key, two top bits random
        32     8  M, filter MAC: SipHash-2-4 over R ‖ C
        40   125  C, ChaCha20-Poly1305 of the 109-byte plaintext, tag at the end; R is the additional data

    plaintext
         0     1  version, 0x02
         1     8  timestamp, signed, Unix time in nanoseconds
         9    16  random nonce
        25    16  target IP, all zero for the source address of the datagram
        41     4  key id
        45    64  Ed25519 signature over "openme-v2 knock" ‖ 0x00 ‖ E_i ‖ R ‖ plaintext[0:45]

Integers are big-endian; curve and field elements and M little-endian. E_i is the server's public key of epoch i. R
always means the 32 bytes as sent, top bits included: only the Elligator map ignores those two, so that a copy with
other top bits has another key schedule and opens nothing.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import monocypher
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult_base,
    crypto_shorthash_siphash24,
)

from openme.keys import sodium
from openme.keys.ed25519 import KEY_ID_SIZE, ClientPrivateKey, ClientPublicKey, Signer
from openme.keys.erasing import wipe
from openme.keys.x25519 import public_key_of
from openme.reasons import Reason
from openme.wire.base import (
    RECEIPT_ID_SIZE,
    RECEIPT_KEY_SIZE,
    RECEIPT_NONCE_SIZE,
    Keys,
    ReceiptKeys,
    ServerKey,
    Signed,
    Unsealed,
    Version,
)
from openme.wire.knock import BadPacket, Knock, pack_target, unpack_target

VERSION = 0x02

REPRESENTATIVE_SIZE = 32
FILTER_MAC_SIZE = 8
TAG_SIZE = 16

VERSION_SIZE = 1
TIMESTAMP_SIZE = 8
RANDOM_NONCE_SIZE = 16
TARGET_SIZE = 16
SIGNATURE_SIZE = 64

TIMESTAMP_OFFSET = VERSION_SIZE  # 1
RANDOM_NONCE_OFFSET = TIMESTAMP_OFFSET + TIMESTAMP_SIZE  # 9
TARGET_OFFSET = RANDOM_NONCE_OFFSET + RANDOM_NONCE_SIZE  # 25
KEY_ID_OFFSET = TARGET_OFFSET + TARGET_SIZE  # 41
SIGNATURE_OFFSET = KEY_ID_OFFSET + KEY_ID_SIZE  # 45
PLAINTEXT_SIZE = SIGNATURE_OFFSET + SIGNATURE_SIZE  # 109

FILTER_MAC_OFFSET = REPRESENTATIVE_SIZE  # 32
CIPHERTEXT_OFFSET = FILTER_MAC_OFFSET + FILTER_MAC_SIZE  # 40
CIPHERTEXT_SIZE = PLAINTEXT_SIZE + TAG_SIZE  # 125
PACKET_SIZE = CIPHERTEXT_OFFSET + CIPHERTEXT_SIZE

AEAD_KEY_SIZE = 32
AEAD_NONCE_SIZE = 12
AEAD_NONCE_AT = AEAD_KEY_SIZE  # 32
RECEIPT_ID_AT = AEAD_NONCE_AT + AEAD_NONCE_SIZE  # 44
RECEIPT_KEY_AT = RECEIPT_ID_AT + RECEIPT_ID_SIZE  # 60
RECEIPT_NONCE_AT = RECEIPT_KEY_AT + RECEIPT_KEY_SIZE  # 92
SCHEDULE_SIZE = RECEIPT_NONCE_AT + RECEIPT_NONCE_SIZE  # 104

FILTER_KEY_SIZE = 16
SHARED_SECRET_SIZE = 32

_TRANSCRIPT_CONTEXT = b"openme-v2 knock\x00"
_TRANSCRIPT_SIZE = len(_TRANSCRIPT_CONTEXT) + 32 + REPRESENTATIVE_SIZE + SIGNATURE_OFFSET  # 125
_SCHEDULE_CONTEXT = b"openme-v2\x00"
_FILTER_CONTEXT = b"openme-v2 filter\x00"
_NOBODY = ClientPrivateKey(bytes(32)).public  # whose signature `overwrite_traces` looks for in vain


class Schedule(NamedTuple):
    """What follows from a shared secret: AEAD key (32 bytes) and nonce (12) of the knock, and its receipt's keys."""

    aead_key: bytes
    aead_nonce: bytes
    receipt: ReceiptKeys

    def __repr__(self) -> str:
        return f"Schedule(receipt={self.receipt!r})"

    def wipe(self) -> None:
        """Forget the knock's own keys; its receipt's live on."""
        wipe(self.aead_key, self.aead_nonce)


class SignedKnock(NamedTuple):
    """A packet's content: the knock, who says to have signed it, and the signature, which is still to be checked.

    `fields` are the 45 bytes of the plaintext that are signed.
    """

    knock: Knock
    key_id: bytes
    fields: bytes
    signature: bytes

    def wipe(self) -> None:
        """Forget what was signed, once the signature is checked. The knock itself stays."""
        wipe(self.fields, self.signature)


def filter_key(epoch_public: bytes) -> bytes:
    """K_i, 16 bytes, from E_i."""
    return hashlib.sha256(_FILTER_CONTEXT + epoch_public).digest()[:FILTER_KEY_SIZE]


def passes_filter_untrusted(packet: bytes, key: bytes) -> bool:
    """Whether M fits under K_i. It tells noise from what may be a knock and proves nothing: any client can make it."""
    if len(packet) != PACKET_SIZE:
        return False
    mac = crypto_shorthash_siphash24(packet[:FILTER_MAC_OFFSET] + packet[CIPHERTEXT_OFFSET:], key)
    return hmac.compare_digest(mac, packet[FILTER_MAC_OFFSET:CIPHERTEXT_OFFSET])


def schedule_untrusted(packet: bytes, epoch_private: bytes, epoch_public: bytes) -> Schedule:
    """The keys of a packet, by Elligator 2, X25519 and HKDF. BadPacket: `length`, `low_order`."""
    if len(packet) != PACKET_SIZE:
        raise BadPacket(Reason.LENGTH)
    representative = packet[:REPRESENTATIVE_SIZE]
    schedule = _agreed(epoch_private, monocypher.elligator_map(representative), epoch_public, representative)
    if schedule is None:
        raise BadPacket(Reason.LOW_ORDER)
    return schedule


def _agreed(private: bytes, public: bytes, epoch_public: bytes, representative: bytes) -> Schedule | None:
    """The key schedule from our private and the other side's public key; None for a low-order point (RFC 7748 6.1).

    Nothing but the schedule's own keys, each made in one piece, is left behind; its owner wipes them.
    """
    with sodium.Secret(SHARED_SECRET_SIZE) as shared:
        if not sodium.x25519(shared, private, public):
            return None
        return _schedule(shared.data, epoch_public, representative)


def _schedule(shared_secret: sodium.Readable, epoch_public: bytes, representative: bytes) -> Schedule:
    with sodium.Secret(SCHEDULE_SIZE) as raw:
        sodium.hkdf(raw, shared_secret, _SCHEDULE_CONTEXT + epoch_public + representative)
        return Schedule(
            aead_key=raw.part(0, AEAD_NONCE_AT),
            aead_nonce=raw.part(AEAD_NONCE_AT, RECEIPT_ID_AT),
            receipt=ReceiptKeys(
                id=raw.part(RECEIPT_ID_AT, RECEIPT_KEY_AT),
                key=raw.part(RECEIPT_KEY_AT, RECEIPT_NONCE_AT),
                nonce=raw.part(RECEIPT_NONCE_AT, SCHEDULE_SIZE),
            ),
        )


def open_untrusted(packet: bytes, aead_key: bytes, aead_nonce: bytes) -> SignedKnock:
    """What a packet says. BadPacket: `length`, `decrypt`, `version` (inside the ciphertext)."""
    with sodium.Secret(PLAINTEXT_SIZE) as plaintext:
        _decrypt_untrusted(plaintext, packet, aead_key, aead_nonce)
        return SignedKnock(
            knock=Knock(
                timestamp_ns=int.from_bytes(plaintext.data[TIMESTAMP_OFFSET:RANDOM_NONCE_OFFSET], "big", signed=True),
                random_nonce=plaintext.part(RANDOM_NONCE_OFFSET, TARGET_OFFSET),
                target=unpack_target(plaintext.part(TARGET_OFFSET, KEY_ID_OFFSET)),
            ),
            key_id=plaintext.part(KEY_ID_OFFSET, SIGNATURE_OFFSET),
            fields=plaintext.part(0, SIGNATURE_OFFSET),
            signature=plaintext.part(SIGNATURE_OFFSET, PLAINTEXT_SIZE),
        )


def check_opens_untrusted(packet: bytes, aead_key: bytes, aead_nonce: bytes) -> None:
    """See that a packet opens, and keep nothing of what it says. BadPacket: as for `open_untrusted`."""
    with sodium.Secret(PLAINTEXT_SIZE) as plaintext:
        _decrypt_untrusted(plaintext, packet, aead_key, aead_nonce)


def _decrypt_untrusted(plaintext: sodium.Secret, packet: bytes, aead_key: bytes, aead_nonce: bytes) -> None:
    if len(packet) != PACKET_SIZE:
        raise BadPacket(Reason.LENGTH)
    if not sodium.open_aead(plaintext, packet[CIPHERTEXT_OFFSET:], packet[:REPRESENTATIVE_SIZE], aead_nonce, aead_key):
        raise BadPacket(Reason.DECRYPT)
    if plaintext.data[0] != VERSION:
        raise BadPacket(Reason.VERSION)


def overwrite_traces() -> None:
    """Go the way of a knock with one that is made up.

    The functions that a real one went through leave numbers on the stack from which its secrets follow; this puts
    others in their place. For when an epoch's keys are forgotten and no knock may come for a long time.
    """
    private = secrets.token_bytes(SHARED_SECRET_SIZE)
    public = crypto_scalarmult_base(private)
    representative, secret = new_ephemeral()
    with sodium.Secret(PLAINTEXT_SIZE) as plaintext:
        plaintext.data[0] = VERSION
        sent = ephemeral_schedule(secret, public, representative)
        packet = representative + bytes(FILTER_MAC_SIZE)
        packet += sodium.seal_aead(plaintext, representative, sent.aead_nonce, sent.aead_key)
        received = schedule_untrusted(packet, private, public)
        signed_by(packet, open_untrusted(packet, received.aead_key, received.aead_nonce), public, _NOBODY)


def transcript(epoch_public: bytes, representative: bytes, fields: bytes) -> bytes:
    """The 125 bytes that a client signs. They name the server's key: no server can pass a knock on to another."""
    return _TRANSCRIPT_CONTEXT + epoch_public + representative + fields


def signed_by(packet: bytes, signed: SignedKnock, epoch_public: bytes, client: ClientPublicKey) -> bool:
    """Whether the signature is this client's, for this packet's R and this epoch (RFC 8032 section 5.1.7)."""
    with sodium.Secret(SIGNATURE_SIZE + _TRANSCRIPT_SIZE) as message:
        at = 0
        for part in (
            signed.signature,
            _TRANSCRIPT_CONTEXT,
            epoch_public,
            packet[:REPRESENTATIVE_SIZE],
            signed.fields,
        ):
            message.data[at : at + len(part)] = part
            at += len(part)
        return at == len(message.data) and sodium.signed(message, client.raw)


def plaintext_of(
    knock: Knock, client: Signer, public: ClientPublicKey, epoch_public: bytes, representative: bytes
) -> bytes:
    """The 109 bytes before encryption, signed."""
    fields = (
        bytes([VERSION])
        + knock.timestamp_ns.to_bytes(TIMESTAMP_SIZE, "big", signed=True)
        + knock.random_nonce
        + pack_target(knock.target)
        + public.key_id
    )
    return fields + client.sign(transcript(epoch_public, representative, fields))


def assemble(representative: bytes, schedule: Schedule, epoch_public: bytes, plaintext: bytes) -> bytes:
    """The packet from its parts."""
    ciphertext = crypto_aead_chacha20poly1305_ietf_encrypt(
        plaintext, representative, schedule.aead_nonce, schedule.aead_key
    )
    mac = crypto_shorthash_siphash24(representative + ciphertext, filter_key(epoch_public))
    return representative + mac + ciphertext


def ephemeral_schedule(ephemeral_secret: bytes, epoch_public: bytes, representative: bytes) -> Schedule:
    """A client's side of the key schedule. ValueError if `epoch_public` is a low-order point."""
    schedule = _agreed(ephemeral_secret, epoch_public, epoch_public, representative)
    if schedule is None:
        raise ValueError("the server's epoch key is a low-order point")
    return schedule


def seal(
    epoch_public: bytes,
    client: Signer,
    knock: Knock,
    *,
    ephemeral: tuple[bytes, bytes],
) -> tuple[bytes, ReceiptKeys]:
    """Build a knock: the packet, and the keys of the receipt that the server will make for it.

    `ephemeral` is (R, secret), 32 bytes each, from `new_ephemeral`, fresh for every packet and every server, and
    dropped after use: one R never carries two plaintexts. ValueError if `epoch_public` is a low-order point.
    """
    representative, secret = ephemeral
    schedule = ephemeral_schedule(secret, epoch_public, representative)
    plaintext = plaintext_of(knock, client, client.public, epoch_public, representative)
    return assemble(representative, schedule, epoch_public, plaintext), schedule.receipt


def new_ephemeral() -> tuple[bytes, bytes]:
    """A fresh (R, secret), with R uniform over all strings of 32 bytes.

    Monocypher's generator draws points from the whole curve, low-order components included, and fills the two top bits
    by chance. An ordinary X25519 key mapped back would be told from noise by the order of its point.
    """
    representative, secret = monocypher.elligator_key_pair()
    return bytes(representative), bytes(secret)


def _server_key(epoch: int, private: bytes) -> ServerKey:
    public = public_key_of(private)
    return ServerKey(epoch, private, public, filter_key(public))


def _admitted_untrusted(packet: bytes, keys: Mapping[int, ServerKey]) -> Sequence[ServerKey]:
    """The key of the epoch whose filter MAC a packet has.

    It decides, not the first byte: one packet in 256 begins like one of version 1 (spec wire-v2.md "Both versions on
    one port").
    """
    for key in keys.values():
        if passes_filter_untrusted(packet, key.filter):
            return (key,)
    return ()


def _unsealed_untrusted(packet: bytes, key: ServerKey) -> Unsealed:
    schedule = schedule_untrusted(packet, key.private, key.public)
    try:
        check_opens_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
    except BadPacket:
        schedule.wipe()
        schedule.receipt.wipe()
        raise
    return Unsealed(schedule.aead_key, schedule.aead_nonce, schedule.receipt)


def _signed_untrusted(packet: bytes, aead_key: bytes, aead_nonce: bytes, epoch_public: bytes) -> Signed:
    signed = open_untrusted(packet, aead_key, aead_nonce)
    return Signed(
        signed.knock, signed.key_id, lambda client: signed_by(packet, signed, epoch_public, client), signed.wipe
    )


def _seal_afresh(epoch_public: bytes, client: Signer, knock: Knock) -> tuple[bytes, ReceiptKeys]:
    return seal(epoch_public, client, knock, ephemeral=new_ephemeral())


WIRE = Version(
    name="v2",
    number=VERSION,
    size=PACKET_SIZE,
    keys=Keys.EPOCH,
    filter_mac=slice(FILTER_MAC_OFFSET, CIPHERTEXT_OFFSET),
    shape={},
    copy_prefix_size=CIPHERTEXT_OFFSET,
    representative_size=REPRESENTATIVE_SIZE,
    key=_server_key,
    admitted_untrusted=_admitted_untrusted,
    unsealed_untrusted=_unsealed_untrusted,
    signed_untrusted=_signed_untrusted,
    seal=_seal_afresh,
    pause=0.0,
    names_own_address=True,
    overwrite_traces=overwrite_traces,
)
