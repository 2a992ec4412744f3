"""Who signs a knock: the key in the profile, or something that signs elsewhere, such as an agent."""

from typing import Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from openme.client.errors import SigningError
from openme.keys.ed25519 import ClientPublicKey


class Identity(Protocol):
    """A client's key. `sign` may wait for somebody, and raises SigningError with reason and cure where it cannot."""

    @property
    def public(self) -> ClientPublicKey:
        """The public half, which the server knows."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message` (RFC 8032)."""


class Checked:
    """An identity of the caller's, each of whose signatures is checked: a server does not say that one is wrong."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.public = identity.public

    def sign(self, message: bytes) -> bytes:
        """The signature; SigningError if it is none of this key's."""
        signature = self._identity.sign(message)
        try:
            crypto_sign_open(signature + message, self.public.raw)
        except (CryptoError, TypeError):
            raise SigningError(
                f"the identity {self.public.fingerprint} gave no signature of its key's", "see what it is that signs"
            ) from None
        return signature
