"""libsodium's functions on buffers of our own, which their owner wipes.

PyNaCl's bindings allocate what they return and free what they worked in, unwiped, and Python's `hmac` leaves digests on
the stack: whoever copies the process later finds shared secrets there. Here every secret goes into a `Secret`, whose
bytes stay in one place until they are wiped, and libsodium clears its own states (HMAC, Poly1305, ChaCha20) before it
returns. What X25519 leaves on the stack is overwritten by `wire.v2.overwrite_traces`.

The functions are those of PyNaCl's compiled module (its bindings offer no way to pass a buffer); tests/unit/keys
compares them with the bindings.
"""

from typing import Self

from nacl._sodium import ffi, lib

from openme.keys.erasing import wipe

KEY_SIZE = 32
HASH_SIZE = 32
TAG_SIZE = 16
_BLOCK_SIZE = 64  # of SHA-256 (FIPS 180-4), for HMAC (RFC 2104)
_INNER = bytes(0x36 ^ value for value in range(256))
_OUTER = bytes(0x5C ^ value for value in range(256))
_MOST_INFO = 256  # bytes of HKDF's info
# What one computation of HMAC works in: the key's inner block and the message, its outer block and the inner hash,
# the digest.
_OUTER_AT = _BLOCK_SIZE + HASH_SIZE + _MOST_INFO + 1  # 353
_OUTER_MESSAGE_AT = _OUTER_AT + _BLOCK_SIZE  # 417
_DIGEST_AT = _OUTER_MESSAGE_AT + HASH_SIZE  # 449
_HMAC_SIZE = _DIGEST_AT + HASH_SIZE  # 481

Readable = bytes | bytearray | memoryview


class Secret:
    """`size` bytes that stay where they are, until `wipe` or the end of a `with` overwrites them.

    `data` is written by slices: assigning to a slice of a bytearray would first make a copy of what is assigned, which
    nobody could wipe; a memoryview copies from place to place.
    """

    __slots__ = ("data", "pointer")

    def __init__(self, size: int) -> None:
        self.data = memoryview(bytearray(size))
        self.pointer = ffi.from_buffer(self.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Overwrite it with zeros."""
        lib.sodium_memzero(self.pointer, len(self.data))

    def part(self, first: int, end: int) -> bytes:
        """A copy of some bytes, made in one step: its owner wipes it."""
        return bytes(self.data[first:end])


def x25519(shared: Secret, private: Readable, public: Readable) -> bool:
    """RFC 7748: the shared secret, 32 bytes. False for an all-zero result (section 6.1), which is a low-order point."""
    return bool(lib.crypto_scalarmult(shared.pointer, ffi.from_buffer(private), ffi.from_buffer(public)) == 0)


def hkdf(output: Secret, key_material: Readable, info: Readable) -> None:
    """Fill `output`, at most 8160 bytes, by HKDF-SHA256 (RFC 5869) with an empty salt.

    `key_material` and `info` have at most 256 bytes. ValueError for more of anything.
    """
    if len(output.data) > 255 * HASH_SIZE or len(info) > _MOST_INFO or len(key_material) > _MOST_INFO:
        raise ValueError("too long for HKDF")
    # Of this call alone: libsodium is called without the interpreter's lock, and threads would mix their keys.
    with Secret(_HMAC_SIZE) as work:
        data = work.data
        # Section 2.2: an empty salt is HashLen zero bytes.
        data[:_BLOCK_SIZE], data[_OUTER_AT:_OUTER_MESSAGE_AT] = _INNER[:1] * _BLOCK_SIZE, _OUTER[:1] * _BLOCK_SIZE
        data[_BLOCK_SIZE : _BLOCK_SIZE + len(key_material)] = key_material
        _hmac(work, len(key_material))
        _set_key(data)
        length = 0  # of the block before: T(0) is empty
        for number, at in enumerate(range(0, len(output.data), HASH_SIZE), 1):
            data[_BLOCK_SIZE : _BLOCK_SIZE + length] = data[_DIGEST_AT : _DIGEST_AT + length]
            end = _BLOCK_SIZE + length + len(info)
            if number <= 2:  # later on it stands there
                data[_BLOCK_SIZE + length : end] = info
            data[end] = number
            _hmac(work, length + len(info) + 1)
            length = HASH_SIZE
            take = min(HASH_SIZE, len(output.data) - at)
            output.data[at : at + take] = data[_DIGEST_AT : _DIGEST_AT + take]


def _hmac(work: Secret, length: int) -> None:
    """HMAC-SHA256 (RFC 2104) over the `length` bytes behind the key's inner block, in `work`, which takes it last."""
    pointer = work.pointer
    lib.crypto_hash_sha256(pointer + _OUTER_MESSAGE_AT, pointer, _BLOCK_SIZE + length)
    lib.crypto_hash_sha256(pointer + _DIGEST_AT, pointer + _OUTER_AT, _BLOCK_SIZE + HASH_SIZE)


def _set_key(data: memoryview) -> None:
    """Take the digest for the next key: it is half a block, and the other halves are as for any key of this length."""
    key = bytearray(data[_DIGEST_AT:])
    inner, outer = key.translate(_INNER), key.translate(_OUTER)
    data[:HASH_SIZE], data[_OUTER_AT : _OUTER_AT + HASH_SIZE] = inner, outer
    wipe(key, inner, outer)


def open_aead(plaintext: Secret, ciphertext: Readable, additional: Readable, nonce: Readable, key: Readable) -> bool:
    """ChaCha20-Poly1305 (RFC 8439): fill `plaintext`, 16 bytes shorter than `ciphertext`. False: it does not fit."""
    if len(plaintext.data) != len(ciphertext) - TAG_SIZE:
        raise ValueError("a plaintext is 16 bytes shorter than its ciphertext")
    done = lib.crypto_aead_chacha20poly1305_ietf_decrypt(
        plaintext.pointer,
        ffi.NULL,
        ffi.NULL,
        ffi.from_buffer(ciphertext),
        len(ciphertext),
        ffi.from_buffer(additional),
        len(additional),
        ffi.from_buffer(nonce),
        ffi.from_buffer(key),
    )
    return bool(done == 0)


def seal_aead(plaintext: Secret, additional: Readable, nonce: Readable, key: Readable) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): the ciphertext, 16 bytes longer than `plaintext`."""
    ciphertext = bytearray(len(plaintext.data) + TAG_SIZE)
    lib.crypto_aead_chacha20poly1305_ietf_encrypt(
        ffi.from_buffer(ciphertext),
        ffi.NULL,
        plaintext.pointer,
        len(plaintext.data),
        ffi.from_buffer(additional),
        len(additional),
        ffi.NULL,
        ffi.from_buffer(nonce),
        ffi.from_buffer(key),
    )
    return bytes(ciphertext)


def signed(message: Secret, public: Readable) -> bool:
    """Whether `message`, an Ed25519 signature (64 bytes) and what is signed behind it, fits a public key (RFC 8032)."""
    # What is signed is known already: libsodium is given no place for a copy of it.
    opened = lib.crypto_sign_open(ffi.NULL, ffi.NULL, message.pointer, len(message.data), ffi.from_buffer(public))
    return bool(opened == 0)
