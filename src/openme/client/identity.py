"""Who signs a knock: the key in the profile, or something that signs elsewhere, such as an agent."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from openme.client.errors import SigningError
from openme.keys.ed25519 import ClientPublicKey, Signer

if TYPE_CHECKING:
    from openme.client.key_file import Passphrase

AGENT = "ssh-agent"
_IN_AGENT = f"{AGENT}:"
_IN_FILE = "file:"


class Identity(Signer, Protocol):
    """A client's key. `sign` may wait for somebody, and raises SigningError with reason and cure where it cannot."""


class Checked:
    """An identity each of whose signatures is checked: a server does not say that one is wrong.

    `interrupt` ends a `sign` that waits in another thread, where the identity can be interrupted.
    """

    def __init__(self, identity: Identity, interrupt: Callable[[], None] | None = None) -> None:
        self._identity = identity
        self.public = identity.public
        self.interrupt = interrupt

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


# ruff: noqa: PLC0415  # what a key elsewhere needs is loaded where there is one


def open_identity(
    where: str, known: ClientPublicKey | None, directory: Path, passphrase: "Passphrase | None"
) -> Checked:
    """Who signs, as a profile's `identity` says it; may wait for an agent, or for somebody who types a passphrase.

    `known`: the profile's public key. `directory`: that of its file. ProfileError, SigningError.
    """
    if where.startswith(_IN_AGENT):
        from openme.client.ssh_agent import AgentKey, agent_path, key_with

        path = agent_path()
        key = AgentKey(path, key_with(path, where.removeprefix(_IN_AGENT)) if known is None else known)
        return Checked(key, key.interrupt)
    from openme.client.key_file import load_key, place_of

    return Checked(load_key(place_of(where.removeprefix(_IN_FILE), directory), known, passphrase))


def public_key_of(where: str, directory: Path) -> ClientPublicKey:
    """The public key of what may stand as a profile's `identity`, for registering it. Nobody is asked for a passphrase.

    `ssh-agent` alone is the one Ed25519 key that the agent has. A relative `file:` begins at `directory`.
    ProfileError, SigningError.
    """
    if where == AGENT:
        from openme.client.ssh_agent import agent_path, only_key

        return only_key(agent_path())
    if where.startswith(_IN_AGENT):
        from openme.client.ssh_agent import agent_path, key_with

        return key_with(agent_path(), where.removeprefix(_IN_AGENT))
    from openme.client.key_file import place_of, public_half

    return public_half(place_of(where.removeprefix(_IN_FILE), directory))
