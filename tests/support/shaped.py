"""Noise in version 1's shape, which anybody can make."""

import secrets

from openme.wire import v1


def shaped(beginning: bytes = b"\x01") -> bytes:
    """Random bytes that have all of the shape (wire/v1.py), as one in some thousands of random strings has it too."""
    made = bytearray(beginning + secrets.token_bytes(v1.PACKET_SIZE - len(beginning)))
    for offset, (least, most) in v1.SHAPE.items():
        made[offset] = least + made[offset] % (most - least + 1)
    return bytes(made)
