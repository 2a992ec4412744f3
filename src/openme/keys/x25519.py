"""A server's version 1 key: X25519 (RFC 7748), in base64."""

from typing import NamedTuple

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from openme.keys.ed25519 import KEY_SIZE, KeyTextError, decode_base64_key, encode_base64


def public_key_of(private_key: bytes) -> bytes:
    """The 32-byte public key of a 32-byte private key (RFC 7748 section 6.1)."""
    return crypto_scalarmult_base(private_key)


def is_usable(public_key: bytes) -> bool:
    """Whether something can be kept secret with it: a point of low order gives everybody the same (RFC 7748, 6.1)."""
    try:
        crypto_scalarmult(bytes(KEY_SIZE), public_key)
    except CryptoError:
        return False
    return True


class ServerPrivateKey(NamedTuple):
    """32 bytes, clamped by X25519 itself when used. They never appear in a repr."""

    raw: bytes

    def __repr__(self) -> str:
        return "ServerPrivateKey()"

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return public_key_of(self.raw)

    def to_base64(self) -> str:
        """The form that stands in the server's file."""
        return encode_base64(self.raw)


def parse_server_private_key(text: str) -> ServerPrivateKey:
    """A server's private key, 32 bytes in base64; KeyTextError otherwise."""
    return ServerPrivateKey(decode_base64_key(text))


def parse_server_public_key(text: str) -> bytes:
    """A server's public key, 32 bytes in base64; KeyTextError otherwise."""
    return decode_base64_key(text)


__all__ = ["KEY_SIZE", "KeyTextError", "ServerPrivateKey", "parse_server_private_key", "parse_server_public_key"]
