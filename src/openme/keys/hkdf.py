"""HKDF-SHA256 (RFC 5869) with an empty salt, which is all that both wire formats use."""

import hmac

from openme.keys.erasing import wipe

HASH_SIZE = 32
_NO_SALT = bytes(HASH_SIZE)  # RFC 5869 section 2.2: an empty salt is HashLen zero bytes


def hkdf(key_material: bytes, info: bytes, length: int) -> bytes:
    """`length` bytes, at most 8160, from `key_material`; what was computed on the way is wiped."""
    pseudorandom_key = hmac.digest(_NO_SALT, key_material, "sha256")
    blocks = -(-length // HASH_SIZE)
    output = bytearray(blocks * HASH_SIZE)  # of its final size from the start: a growing one would leave copies behind
    block = b""
    for counter in range(1, blocks + 1):
        message = block + info + bytes([counter])
        wipe(block)
        block = hmac.digest(pseudorandom_key, message, "sha256")
        wipe(message)
        output[(counter - 1) * HASH_SIZE : counter * HASH_SIZE] = block
    result = bytes(memoryview(output)[:length])
    wipe(pseudorandom_key, block, output)
    return result
