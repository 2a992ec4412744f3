"""Wire version 2 written a second time, from the spec alone and without openme: integers, HMAC and PyNaCl's primitives.

Slow and plain on purpose. What it makes the product must open, and the other way round.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.signing import SigningKey, VerifyKey

P = 2**255 - 19
A = 486662
_SQRT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
# The u of the order-8 points (RFC 7748's curve; the same list as in every library that refuses them).
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = (0, 1, *_ORDER_8)
"""u of every low-order point on the curve; the map reaches none on the twist."""


def _is_square(value: int) -> bool:
    return value % P == 0 or pow(value, (P - 1) // 2, P) == 1


def _root(value: int) -> int:
    root = pow(value, (P + 3) // 8, P)
    return root if (root * root - value) % P == 0 else root * _SQRT_OF_MINUS_1 % P


def elligator_map(representative: bytes) -> int:
    """The u that 32 bytes stand for."""
    r = int.from_bytes(representative, "little") % 2**254
    w = -A * pow(1 + 2 * r * r, -1, P) % P
    return w if _is_square(w**3 + A * w**2 + w) else (-w - A) % P


def representatives(u: int) -> list[int]:
    """The numbers below 2^254 that the map takes to `u`: none, one or two."""
    found = []
    for above, below in ((-(u + A), 2 * u), (-u, 2 * (u + A))):
        if below % P == 0:
            continue
        square = above * pow(below, -1, P) % P
        if _is_square(square):
            root = _root(square)
            smaller = min(root, P - root)
            if elligator_map(smaller.to_bytes(32, "little")) == u % P:
                found.append(smaller)
    return found


Point = tuple[int, int] | None


def _add(one: Point, other: Point) -> Point:
    """The sum of two points of the Montgomery curve, None being infinity."""
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    above, below = (3 * x1 * x1 + 2 * A * x1 + 1, 2 * y1) if x1 == x2 else (y2 - y1, x2 - x1)
    slope = above * pow(below, -1, P) % P
    x3 = (slope * slope - A - x1 - x2) % P
    return x3, (slope * (x1 - x3) - y1) % P


def lifted(u: int) -> Point:
    """A point of the curve with this u."""
    return u, _root((u**3 + A * u**2 + u) % P)


def shifted(u: int, times: int) -> int:
    """The u of a point with this u plus `times` a point of order 8: X25519 sees no difference, an observer would."""
    total = lifted(u)
    for _ in range(times):
        total = _add(total, lifted(_ORDER_8[0]))
    assert total is not None
    return total[0]


def siphash(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4."""
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turned(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turned(v[1], 13) ^ v[0]
            v[0] = turned(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turned(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turned(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turned(v[1], 17) ^ v[2]
            v[2] = turned(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])


def derived(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 with an empty salt."""
    key, block, output = hmac.digest(bytes(32), secret, "sha256"), b"", b""
    for number in range(1, 256):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
        if len(output) >= length:
            return output[:length]
    raise AssertionError(length)


@dataclass(frozen=True)
class Opened:
    """A packet's plaintext and what opens its receipt."""

    plaintext: bytes
    receipt: tuple[bytes, bytes, bytes]


def keys_of(shared: bytes, epoch_public: bytes, representative: bytes) -> list[bytes]:
    """AEAD key and nonce, then the receipt's id, key and nonce."""
    raw = derived(shared, b"openme-v2\0" + epoch_public + representative, 104)
    return [raw[:32], raw[32:44], raw[44:60], raw[60:92], raw[92:]]


def filter_mac(epoch_public: bytes, packet: bytes) -> bytes:
    """M, for a packet whose own is ignored."""
    key = hashlib.sha256(b"openme-v2 filter\0" + epoch_public).digest()[:16]
    return siphash(key, packet[:32] + packet[40:])


def ephemeral(seed: bytes) -> tuple[bytes, bytes]:
    """(R, secret) from a seed, over the whole curve."""
    for attempt in range(200):
        stream = hashlib.sha512(seed + bytes([attempt])).digest()
        secret = stream[:32]
        u = shifted(int.from_bytes(crypto_scalarmult_base(secret), "little"), stream[32] % 8)
        if found := representatives(u):
            number = found[stream[33] % len(found)] | (stream[34] % 4) << 254
            return number.to_bytes(32, "little"), secret
    raise AssertionError(seed)


def sealed(
    epoch_public: bytes, client_seed: bytes, fields: bytes, pair: tuple[bytes, bytes]
) -> tuple[bytes, tuple[bytes, bytes, bytes]]:
    """The packet around the 41 bytes of version, timestamp, nonce and target; and its receipt's id, key, nonce."""
    representative, secret = pair
    signer = SigningKey(client_seed)
    fields += hashlib.sha256(b"openme-v2 key id" + bytes(signer.verify_key)).digest()[:4]
    signature = signer.sign(b"openme-v2 knock\0" + epoch_public + representative + fields).signature
    key, nonce, *receipt = keys_of(crypto_scalarmult(secret, epoch_public), epoch_public, representative)
    content = crypto_aead_chacha20poly1305_ietf_encrypt(fields + signature, representative, nonce, key)
    mac = filter_mac(epoch_public, representative + bytes(8) + content)
    return representative + mac + content, (receipt[0], receipt[1], receipt[2])


def opened(packet: bytes, epoch_private: bytes, client_public: bytes) -> Opened:
    """What a packet says; AssertionError or an error of PyNaCl's if it is not this client's for this server."""
    epoch_public, representative = crypto_scalarmult_base(epoch_private), packet[:32]
    assert packet[32:40] == filter_mac(epoch_public, packet)
    point = elligator_map(representative).to_bytes(32, "little")
    key, nonce, *receipt = keys_of(crypto_scalarmult(epoch_private, point), epoch_public, representative)
    plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(packet[40:], representative, nonce, key)
    transcript = b"openme-v2 knock\0" + epoch_public + representative + plaintext[:45]
    VerifyKey(client_public).verify(transcript, plaintext[45:])
    assert plaintext[41:45] == hashlib.sha256(b"openme-v2 key id" + client_public).digest()[:4]
    return Opened(plaintext, (receipt[0], receipt[1], receipt[2]))
