"""The key in a file of OpenSSH's that a profile's `identity` names. Loaded only where one does."""

import os
from collections.abc import Callable
from pathlib import Path

from openme.client.errors import ProfileError, SigningError
from openme.config.faults import ConfigError
from openme.config.files import check_client_file, open_regular
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.keys.erasing import wipe
from openme.keys.openssh import (
    MOST_BYTES,
    KeyFile,
    extra_is_missing,
    key_file_untrusted,
    need_extra,
    private_key_untrusted,
)
from openme.keys.ssh_data import BadSshDataError

Passphrase = Callable[[Path], bytes | bytearray]
"""Asks for the passphrase of a file; whatever it raises ends the asking. A bytearray is wiped when it is done with."""

TRIES = 3


def place_of(written: str, directory: Path) -> Path:
    """The file that `file:` names: absolute, in a home directory, or as seen from the profiles' directory."""
    try:
        return directory / Path(written).expanduser()
    except RuntimeError:
        raise ProfileError(f"file:{written}: there is no such home directory", "write the whole path") from None


def public_half(path: Path) -> ClientPublicKey:
    """The public half, for which nobody is asked. ProfileError if it is no key that can sign a knock."""
    raw, head = _read(path)
    wipe(raw)
    return head.public


def load_key(path: Path, known: ClientPublicKey | None, passphrase: Passphrase | None) -> ClientPrivateKey:
    """The key in a file, opened by what `passphrase` gives for it where it is sealed, at the third try at last.

    `known`: the public half that it must have. ProfileError for what cannot be the key, SigningError where it stays
    sealed.
    """
    raw, (public, is_sealed) = _read(path)
    try:
        if known not in {None, public}:
            raise ProfileError(
                f"{path} holds another key than the profile's public_key",
                f"the file's is {public}: register that one, or name another file",
            )
        need_extra()
        for _ in range(TRIES if is_sealed else 1):
            key = _opened(path, raw, _asked(path, passphrase) if is_sealed else None)
            if key is not None:
                return key
    except ImportError as error:
        raise ProfileError(*extra_is_missing(error)) from None
    finally:
        wipe(raw)
    raise SigningError(
        f"{path} stays sealed: wrong passphrase", "ssh-keygen -y -f FILE tries one, ssh-keygen -p -f FILE changes it"
    )


def _asked(path: Path, passphrase: Passphrase | None) -> bytes:
    """What somebody says when they are asked, in bytes that nobody else holds."""
    if passphrase is None:
        raise SigningError(
            f"{path} is sealed with a passphrase, and there is nobody to ask for it",
            "ssh-add it and name it as ssh-agent:SHA256:…, or give the session a way to ask",
        )
    given = passphrase(path)
    taken = bytes(memoryview(given))
    if isinstance(given, bytearray):
        wipe(given)
    return taken


def _opened(path: Path, raw: bytearray, passphrase: bytes | None) -> ClientPrivateKey | None:
    try:
        return private_key_untrusted(raw, passphrase)
    except BadSshDataError as error:
        raise ProfileError(f"{path}: {error}") from None
    finally:
        if passphrase is not None:
            wipe(passphrase)


def _read(path: Path) -> tuple[bytearray, KeyFile]:
    """A key file, in a buffer that whoever gets it wipes, and what it says in the clear. ProfileError."""
    raw = bytearray()
    try:
        descriptor = open_regular(path, "name a key's file, or make one: openme keygen --file PATH")
        try:
            status = os.fstat(descriptor)
            raw = bytearray(min(status.st_size, MOST_BYTES))
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                file.readinto(raw)
        finally:
            os.close(descriptor)
        head = key_file_untrusted(raw)
        if os.name == "posix":  # elsewhere the mode says nothing about who may read
            check_client_file(status, path, private_key=True, commands=False)
    except ConfigError as error:
        wipe(raw)
        raise ProfileError(error.message, error.hint) from None
    except BadSshDataError as error:
        wipe(raw)
        raise ProfileError(f"{path}: {error}") from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {(error.strerror or 'failed').lower()}") from None
    return raw, head
