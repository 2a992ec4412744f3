"""What is said to an SSH agent, and what it answers (draft-ietf-sshm-ssh-agent; OpenSSH's PROTOCOL.agent). Pure.

Each message is a string of SSH's whose first byte says what it is. Whatever an agent answers is a stranger's.
"""

from typing import NamedTuple

from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey, KeyTextError, ssh_fingerprint
from openme.keys.ssh_data import ED25519, ED25519_CERTIFICATE, BadSshDataError, Reader, kind_untrusted, number, string

LENGTH_SIZE = 4
MOST_BYTES = 256 * 1024
"""Of an answer, as OpenSSH's agent has it."""

_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_FAILURE, _SUCCESS, _EXTENSION = 5, 6, 27
_SIGNATURE_SIZE = 64
_NO_FLAGS = number(0)  # they choose a hash for RSA
_NOT_FORWARDED = b"\0"

IDENTITIES = string(bytes([_REQUEST_IDENTITIES]))
"""The request for all keys."""


class Listed(NamedTuple):
    """A key that an agent says it has. `fingerprint` as `ssh-add -l` shows it: for a certificate that of its key."""

    kind: str
    fingerprint: str
    comment: str
    public: ClientPublicKey | None
    """Of an Ed25519 key alone, and not of a certificate."""


def sign_request(public: ClientPublicKey, message: bytes) -> bytes:
    """The request for a signature."""
    return string(bytes([_SIGN_REQUEST]) + string(public.ssh_blob) + string(message) + _NO_FLAGS)


def bind_request(host: ClientPrivateKey, session: bytes) -> bytes:
    """Tell the agent that this connection serves an SSH session with a host, `session-bind@openssh.com`.

    From then on it names only keys that it would use there. `session`: the 32 bytes that name it; the host has signed
    them.
    """
    signature = string(ED25519.encode()) + string(host.sign(session))
    parts = (b"session-bind@openssh.com", host.public.ssh_blob, session, signature)
    return string(bytes([_EXTENSION]) + b"".join(map(string, parts)) + _NOT_FORWARDED)


def is_success(answer: bytes) -> bool:
    """Whether the agent has done what it was told."""
    return answer == bytes([_SUCCESS])


def identities_untrusted(answer: bytes) -> tuple[Listed, ...]:
    """The keys in an answer to `IDENTITIES`; BadSshDataError for any other answer."""
    reader = Reader(answer)
    if reader.bytes_untrusted(1) != bytes([_IDENTITIES_ANSWER]):
        raise BadSshDataError("it did not answer which keys it has")
    found = []
    for _ in range(reader.number_untrusted()):
        blob, comment = reader.string_untrusted(), reader.string_untrusted()
        found.append(_listed_untrusted(blob, comment.decode("utf-8", "replace")))
    reader.end_untrusted()
    return tuple(found)


def _listed_untrusted(blob: bytes, comment: str) -> Listed:
    kind = kind_untrusted(blob)
    if kind not in {ED25519, ED25519_CERTIFICATE}:
        return Listed(kind, ssh_fingerprint(blob), comment, None)
    reader = Reader(blob)
    reader.string_untrusted()
    if kind == ED25519_CERTIFICATE:
        reader.string_untrusted()  # a nonce (OpenSSH's PROTOCOL.certkeys)
    raw = reader.string_untrusted()
    if kind == ED25519:
        reader.end_untrusted()
    try:
        public = ClientPublicKey(raw)
    except KeyTextError as error:
        raise BadSshDataError(str(error)) from None
    return Listed(kind, public.ssh_fingerprint, comment, public if kind == ED25519 else None)


def signature_untrusted(answer: bytes) -> bytes | None:
    """The 64 bytes in an answer to a `sign_request`, not yet checked; None: the agent refused, and never says why.

    BadSshDataError for any other answer.
    """
    if answer == bytes([_FAILURE]):
        return None
    reader = Reader(answer)
    if reader.bytes_untrusted(1) != bytes([_SIGN_RESPONSE]):
        raise BadSshDataError("it neither signed nor refused")
    fields = Reader(reader.string_untrusted())
    reader.end_untrusted()
    kind, signature = fields.string_untrusted(), fields.string_untrusted()
    fields.end_untrusted()
    if kind != ED25519.encode() or len(signature) != _SIGNATURE_SIZE:
        raise BadSshDataError("what it signed with is no Ed25519 key")
    return signature
