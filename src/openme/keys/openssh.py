"""A client's key in a file of OpenSSH's, sealed with a passphrase or not (OpenSSH's PROTOCOL.key).

What it says in the clear is read here: its type, its public half, how it is sealed. What is sealed is left to
`cryptography`, which is an extra and takes 60 ms to load; no knock loads it whose key is elsewhere.
"""

import base64
import binascii
import sys
from typing import NamedTuple

from openme.keys.ed25519 import KEY_SIZE, ClientPrivateKey, ClientPublicKey, KeyTextError
from openme.keys.erasing import wipe
from openme.keys.ssh_data import ED25519, BadSshDataError, Reader, called, kind_untrusted

MOST_BYTES = 65536
"""Of a file, beyond which none is read: one with an RSA key of 16,384 bits has 13,000."""
MOST_ROUNDS = 10_000
"""Of bcrypt_pbkdf: about a minute and a half. ssh-keygen makes 24 unless it is told otherwise."""
ROUNDS = 64
"""Of the files that are made here: most of a second for each guess."""

_BEGIN, _END = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
_FIRST_LINE = 200  # bytes, in which one of another kind says what it is
_MAGIC = b"openssh-key-v1\0"
_NONE = b"none"
_BCRYPT = b"bcrypt"


class KeyFile(NamedTuple):
    """What a key file says in the clear, unproven: whose it is, and whether a passphrase opens it."""

    public: ClientPublicKey
    is_sealed: bool


def key_file_untrusted(raw: bytes | bytearray) -> KeyFile:
    """The head of an OpenSSH private key file. BadSshDataError, with words for the user, for whatever else it is."""
    start, end = raw.find(_BEGIN), raw.find(_END)
    if start < 0:
        raise BadSshDataError(_what_it_is(bytes(raw[:_FIRST_LINE])))
    if end < start:
        raise BadSshDataError("it is cut off: its last line is missing")
    lines = bytes(memoryview(raw)[start + len(_BEGIN) : end])
    body = lines.translate(None, b"\r\n")
    try:
        binary = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise BadSshDataError("it is damaged: between its first and last line is no base64") from None
    finally:
        wipe(lines, body)
    try:
        return _head_untrusted(binary)
    finally:
        wipe(binary)


def _head_untrusted(binary: bytes) -> KeyFile:
    reader = Reader(binary)
    if reader.bytes_untrusted(len(_MAGIC)) != _MAGIC:
        raise BadSshDataError("it is damaged: it does not begin as such a key does")
    cipher, derivation, options = (reader.string_untrusted() for _ in range(3))
    if reader.number_untrusted() != 1:
        raise BadSshDataError("it does not hold one key")
    blob = reader.string_untrusted()
    if (kind := kind_untrusted(blob)) != ED25519:
        raise BadSshDataError(f"it is {called(kind)}, and knocks are signed by Ed25519 keys")
    fields = Reader(blob)
    fields.string_untrusted()
    raw = fields.string_untrusted()
    fields.end_untrusted()
    is_sealed = cipher != _NONE
    if is_sealed:
        _check_rounds_untrusted(derivation, options)
    try:
        return KeyFile(ClientPublicKey(raw), is_sealed)
    except KeyTextError as error:
        raise BadSshDataError(str(error)) from None


def _check_rounds_untrusted(derivation: bytes, options: bytes) -> None:
    """Nothing that would keep us for hours, whoever wrote the file."""
    if derivation != _BCRYPT:
        raise BadSshDataError("it is sealed in a way that is not known")
    reader = Reader(options)
    reader.string_untrusted()
    if not 1 <= reader.number_untrusted() <= MOST_ROUNDS:
        raise BadSshDataError(f"it is sealed with more than {MOST_ROUNDS} rounds (ssh-keygen -p -a 64 makes it fewer)")


def _what_it_is(beginning: bytes) -> str:
    expected = "expected an OpenSSH private key (-----BEGIN OPENSSH PRIVATE KEY-----)"
    if beginning.lstrip().startswith((b"ssh-", b"ecdsa-", b"sk-")):
        return f"{expected}, found a public key: name the file without .pub"
    if b"PuTTY" in beginning:
        return f"{expected}, found one of PuTTY's: puttygen -O private-openssh-new converts it"
    if b"PRIVATE KEY-----" in beginning:
        return f"{expected}, found another kind of private key"
    return expected


# ruff: noqa: PLC0415  # the extra is loaded where a file is opened or made, and nowhere else


def need_extra() -> None:
    """ImportError, with the library's name, unless the extra `key-files` is there: both libraries of it."""
    import bcrypt  # noqa: F401  # without it cryptography says of a sealed key that its algorithm is not supported
    import cryptography  # noqa: F401


def extra_is_missing(error: ImportError) -> tuple[str, str]:
    """What to say, and the cure, where a library is missing that reads and makes key files."""
    message = f"key files need the Python library {error.name or 'cryptography'}, which is not there"
    command = f"{sys.executable or 'python3'} -m pip install 'cryptography[ssh]'"
    return message, f"{command}, or ssh-add the key and name it as ssh-agent:SHA256:…"


def private_key_untrusted(raw: bytes | bytearray, passphrase: bytes | None) -> ClientPrivateKey | None:
    """The key in a file; None where the passphrase is not the one, or what it seals is damaged: nobody can tell.

    `passphrase`: None for a file that is not sealed. BadSshDataError for whatever is no such file. ImportError without
    the extra.
    """
    head = key_file_untrusted(raw)
    if head.is_sealed and not passphrase:  # which seals nothing
        return None
    need_extra()
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    whole = bytes(raw)
    try:
        found = load_ssh_private_key(whole, passphrase if head.is_sealed else None)
    except (ValueError, InvalidTag):
        if head.is_sealed:
            return None
        raise BadSshDataError("it is damaged") from None
    except UnsupportedAlgorithm:
        raise BadSshDataError(
            "it is sealed with a cipher that is not known here (ssh-keygen -p -Z aes256-ctr changes it)"
        ) from None
    finally:
        if whole is not raw:
            wipe(whole)
    if not isinstance(found, Ed25519PrivateKey):
        raise BadSshDataError("it is not an Ed25519 key")
    key = ClientPrivateKey(found.private_bytes_raw())
    if key.public != head.public:
        raise BadSshDataError("it is damaged: its two halves do not belong together")
    return key


def key_file(key: ClientPrivateKey, passphrase: bytes) -> bytes:
    """An OpenSSH private key file, sealed unless the passphrase is empty. ImportError without the extra."""
    need_extra()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    sealing: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        builder = serialization.PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(ROUNDS)
        sealing = builder.build(passphrase)
    return Ed25519PrivateKey.from_private_bytes(key.seed[:KEY_SIZE]).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, sealing
    )
