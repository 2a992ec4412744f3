"""A client's key: Ed25519 (RFC 8032), as base64 or as an OpenSSH line."""

import base64
import binascii
import hashlib
from typing import Final, NamedTuple, Protocol

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign, crypto_sign_seed_keypair

KEY_SIZE = 32
SIGNATURE_SIZE = 64
KEY_ID_SIZE = 4
_KEY_ID_CONTEXT = b"openme-v2 key id"
_SSH_TYPE = "ssh-ed25519"
# RFC 8709 section 4: string "ssh-ed25519", string key; each string is preceded by its length as uint32.
_SSH_PREFIX = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"


class KeyTextError(ValueError):
    """A key that cannot be loaded; the message says what was expected and never contains the key."""


class WeakKeyError(KeyTextError):
    """A well-formed public key that must not be used: small order, mixed order, or not canonically encoded."""


def decode_base64_key(text: str, size: tuple[int, ...] = (KEY_SIZE,)) -> bytes:
    """The bytes of a key in standard base64, of one of the sizes given; KeyTextError otherwise."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise KeyTextError(f"expected a key of {_either(size)} bytes in base64") from None
    if len(raw) not in size:
        raise KeyTextError(f"expected a key of {_either(size)} bytes in base64, got {len(raw)} bytes")
    return raw


def _either(sizes: tuple[int, ...]) -> str:
    return " or ".join(map(str, sizes))


def encode_base64(raw: bytes) -> str:
    """Standard base64 with padding, the form in which keys stand in files."""
    return base64.b64encode(raw).decode("ascii")


def ssh_fingerprint(blob: bytes) -> str:
    """What `ssh-add -l` calls a key by, `SHA256:` and 43 characters, from the key as SSH writes it (RFC 4253, 6.6)."""
    return f"SHA256:{encode_base64(hashlib.sha256(blob).digest()).rstrip('=')}"


def key_id_of(public_key: bytes) -> bytes:
    """The key id of 32 bytes that need not be a usable key."""
    return hashlib.sha256(_KEY_ID_CONTEXT + public_key).digest()[:KEY_ID_SIZE]


class ClientPublicKey:
    """32 bytes, a canonical point of the prime-order subgroup and not its neutral point (spec wire-v2.md).

    The check stands in the constructor, so that no other kind of key can be held: some libraries accept forged
    signatures for the others, and 32 zero bytes are among them.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise KeyTextError(f"expected a key of {KEY_SIZE} bytes, got {len(raw)}")
        if not crypto_core_ed25519_is_valid_point(raw):
            raise WeakKeyError("not a usable Ed25519 public key: it is no canonical point of prime order")
        self.raw: Final = raw

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, ClientPublicKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"ClientPublicKey({self.raw!r})"

    @classmethod
    def checked_before(cls, raw: bytes) -> "ClientPublicKey":
        """A key that this constructor has let through once, in whatever process: the check takes 30 µs."""
        made = object.__new__(cls)
        object.__setattr__(made, "raw", raw)
        return made

    def __str__(self) -> str:
        return encode_base64(self.raw)

    @property
    def fingerprint(self) -> str:
        """The first 8 bytes of SHA-256(public key), in hex (spec wire-v1.md)."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def key_id(self) -> bytes:
        """The 4 bytes by which a server finds a client under wire version 2: an index, not a proof (wire-v2.md)."""
        return key_id_of(self.raw)

    @property
    def ssh_blob(self) -> bytes:
        """The key as SSH writes it (RFC 8709 section 4)."""
        return _SSH_PREFIX + self.raw

    @property
    def ssh_fingerprint(self) -> str:
        """The fingerprint by which SSH's own programs know the key."""
        return ssh_fingerprint(self.ssh_blob)


class Signer(Protocol):
    """What a knock is signed by: a private key, or whoever keeps one."""

    @property
    def public(self) -> ClientPublicKey:
        """The public half, which the server knows."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message` (RFC 8032)."""


class ClientPrivateKey(NamedTuple):
    """A client's signing key, a seed of 32 bytes. It never appears in a repr or an error."""

    seed: bytes

    def __repr__(self) -> str:
        return "ClientPrivateKey()"

    @property
    def public(self) -> ClientPublicKey:
        """The public key that belongs to the seed."""
        return ClientPublicKey(crypto_sign_seed_keypair(self.seed)[0])

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message` (RFC 8032 section 5.1.6, deterministic)."""
        return crypto_sign(message, crypto_sign_seed_keypair(self.seed)[1])[:SIGNATURE_SIZE]

    def to_base64(self) -> str:
        """The 64-byte form `seed ‖ public key`, which every existing client loads."""
        return encode_base64(self.seed + self.public.raw)


def is_ssh_line(text: str) -> bool:
    """Whether a public key is written as OpenSSH writes an Ed25519 one."""
    return text.split(maxsplit=1)[:1] == [_SSH_TYPE]


def parse_public_key(text: str) -> ClientPublicKey:
    """A public key written as base64 or as an OpenSSH line `ssh-ed25519 AAAA… [comment]`; KeyTextError otherwise."""
    words = text.split()
    if words and words[0] == _SSH_TYPE and len(words) >= 2:
        if "\n" in text.strip():
            raise KeyTextError("expected one key, got several lines")
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            blob = b""
        if not blob.startswith(_SSH_PREFIX) or len(blob) != len(_SSH_PREFIX) + KEY_SIZE:
            raise KeyTextError("expected an OpenSSH line such as: ssh-ed25519 AAAA…")
        return ClientPublicKey(blob[len(_SSH_PREFIX) :])
    if words and words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        raise KeyTextError(f"expected an Ed25519 key, got one of type {words[0]}")
    if "PRIVATE KEY-----" in text:
        raise KeyTextError("expected a public key, got a private one")
    return ClientPublicKey(decode_base64_key(text))


def parse_private_key(text: str) -> ClientPrivateKey:
    """A private key in base64: the 32-byte seed or the 64-byte `seed ‖ public key`; KeyTextError otherwise."""
    raw = decode_base64_key(text, (KEY_SIZE, 2 * KEY_SIZE))
    key = ClientPrivateKey(raw[:KEY_SIZE])
    if len(raw) == 2 * KEY_SIZE and key.public.raw != raw[KEY_SIZE:]:
        raise KeyTextError("the two halves of the private key do not belong together")
    return key
