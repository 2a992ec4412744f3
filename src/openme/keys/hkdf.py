"""HKDF-SHA256 (RFC 5869) with an empty salt, which is all that both wire formats use."""

from openme.keys import sodium


def hkdf(key_material: bytes, info: bytes, length: int) -> bytes:
    """`length` bytes, at most 8160, from `key_material`; what was computed on the way is wiped.

    `key_material` and `info` have at most 256 bytes. ValueError for more of anything.
    """
    with sodium.Secret(length) as output:
        sodium.hkdf(output, key_material, info)
        return output.part(0, length)
