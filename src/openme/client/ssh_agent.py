"""An SSH agent: which keys it has, a signature by one of them, and why there is none.

An agent that refuses never says why. So what can be known is asked for afterwards: whether the key is there at all, of
which type, and whether it is meant for certain hosts alone. Loaded only where a profile's `identity` names an agent.
"""

import os
import secrets
import socket
import time
from pathlib import Path
from typing import Self

from openme.client.agent_messages import (
    IDENTITIES,
    LENGTH_SIZE,
    MOST_BYTES,
    Listed,
    bind_request,
    identities_untrusted,
    is_success,
    sign_request,
    signature_untrusted,
)
from openme.client.errors import SigningError
from openme.closest import closest
from openme.keys.ed25519 import KEY_SIZE, ClientPrivateKey, ClientPublicKey
from openme.keys.ssh_data import BadSshDataError, called

ANSWER_SECONDS = 5.0
"""For an answer that needs nobody."""
SIGN_SECONDS = 30.0
"""For a signature that somebody may have to confirm. The knock's time stands in what is signed, and a server takes it
for a minute: half of that is left for clocks that differ."""

_MAKE_ONE = "make an Ed25519 key (ssh-keygen -t ed25519), ssh-add it, and have the server's administrator register it"
_NAME_A_FILE = "or name the key's file: identity: file:PATH"
_MOST_NAMED = 5  # keys in a message
_MOST_SHOWN = 40  # characters of a comment
_ALIKE = 0.9  # of a fingerprint; two that have nothing to do with each other are at about a third


class AgentKey:
    """A key in the agent at `path`: an `Identity`. It is connected to for each signature alone."""

    def __init__(self, path: str, public: ClientPublicKey, *, seconds: float = SIGN_SECONDS) -> None:
        self.public = public
        self._path, self._seconds = path, seconds
        self._connection: _Connection | None = None

    def sign(self, message: bytes) -> bytes:
        """The agent's signature, which whoever gets it has yet to check. SigningError with the cause and a cure."""
        with _Connection(self._path) as connection:
            self._connection = connection
            try:
                answer = connection.ask(sign_request(self.public, message), self._seconds)
            except TimeoutError:
                raise SigningError(
                    f"the SSH agent did not sign within {self._seconds:g} s",
                    "if it asks to confirm, confirm sooner: a knock must be young when it arrives; if it asks nobody,"
                    f" it hangs: does 'ssh-add -l' answer? {_NAME_A_FILE}",
                ) from None
            finally:
                self._connection = None
            try:
                signature = signature_untrusted(answer)
            except BadSshDataError as error:
                raise _not_an_agent(self._path, error) from None
        if signature is None:
            raise _refusal(self._path, self.public)
        return signature

    def interrupt(self) -> None:
        """End a `sign` that waits in another thread."""
        if (connection := self._connection) is not None:
            connection.interrupt()


def agent_path() -> str:
    """Where the agent of this process listens. SigningError if it has none."""
    if not hasattr(socket, "AF_UNIX"):
        raise SigningError("an SSH agent cannot be reached on this system", "name the key's file: identity: file:PATH")
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        raise SigningError(
            "there is no SSH agent: SSH_AUTH_SOCK is not set",
            'start one: eval "$(ssh-agent)" && ssh-add (sudo hides it, but for --preserve-env=SSH_AUTH_SOCK);'
            f" {_NAME_A_FILE}",
        )
    return path


def listed(path: str) -> tuple[Listed, ...]:
    """The keys of the agent at `path`. SigningError."""
    with _Connection(path) as connection:
        return _listed(path, connection)


def key_with(path: str, fingerprint: str) -> ClientPublicKey:
    """The Ed25519 key with this fingerprint. SigningError if the agent has none, or cannot sign a knock with it."""
    keys = listed(path)
    for key in keys:
        if key.public is not None and key.fingerprint == fingerprint:
            return key.public
    raise _missing(fingerprint, keys)


def only_key(path: str) -> ClientPublicKey:
    """The one Ed25519 key that the agent has. SigningError if it has none or several."""
    keys = listed(path)
    usable = {key.public: key for key in keys if key.public is not None}
    if not keys:
        raise _has_nothing()
    if not usable:
        raise SigningError(f"the SSH agent has no Ed25519 key, but {_named(keys)}", _MAKE_ONE)
    if len(usable) > 1:
        names = _named(tuple(usable.values()))
        raise SigningError(f"the SSH agent has several Ed25519 keys: {names}", "name one: ssh-agent:SHA256:…")
    return next(iter(usable))


def _refusal(path: str, public: ClientPublicKey) -> SigningError:
    """Why an agent that answers has not signed, as far as it can be known."""
    keys = listed(path)
    key = next((key for key in keys if key.public == public), None)
    if key is None:
        return _missing(public.ssh_fingerprint, keys)
    name = _name(key)
    if _is_for_certain_hosts(path, public):
        return SigningError(
            f"the SSH agent may use {name} only to log in to certain hosts (ssh-add -h), and a knock is no login",
            "ssh-add another Ed25519 key for openme, or this one without -h",
        )
    return SigningError(
        f"the SSH agent refused to sign with {name}",
        "a key that was added with ssh-add -c is to be confirmed each time, in a window of the agent's SSH_ASKPASS: was"
        f" it declined, or could none open? {_NAME_A_FILE}",
    )


def _is_for_certain_hosts(path: str, public: ClientPublicKey) -> bool:
    """Whether the agent hides this key once the connection says that it serves a host: one that we make up."""
    try:
        with _Connection(path) as connection:
            host = ClientPrivateKey(secrets.token_bytes(KEY_SIZE))
            if not is_success(connection.ask(bind_request(host, secrets.token_bytes(KEY_SIZE)), ANSWER_SECONDS)):
                return False
            return all(key.public != public for key in _listed(path, connection))
    except (SigningError, TimeoutError):
        return False  # an agent that knows nothing of that


def _missing(fingerprint: str, keys: tuple[Listed, ...]) -> SigningError:
    """Why `fingerprint` is none of the agent's keys that can sign."""
    if not keys:
        return _has_nothing()
    if (other := next((key for key in keys if key.fingerprint == fingerprint), None)) is not None:
        if other.kind.endswith("-cert-v01@openssh.com"):
            return SigningError(
                f"the SSH agent has a certificate for {fingerprint}, and not the key itself", "ssh-add the key's file"
            )
        return SigningError(
            f"{fingerprint} in the SSH agent is {called(other.kind)}, and knocks are signed by Ed25519 keys", _MAKE_ONE
        )
    if near := closest(fingerprint, [key.fingerprint for key in keys], _ALIKE):
        return SigningError(f"the SSH agent has no key {fingerprint}", f"did you mean {near}?")
    return SigningError(
        f"the SSH agent has no key {fingerprint}, but {_named(keys)}", "ssh-add the key's file; ssh-add -l shows them"
    )


def _has_nothing() -> SigningError:
    return SigningError(
        "the SSH agent has no keys, or is locked",
        f"ssh-add ~/.ssh/id_ed25519 adds one, ssh-add -X unlocks; {_NAME_A_FILE}",
    )


def _named(keys: tuple[Listed, ...]) -> str:
    names = [f"{_name(key)}{'' if key.public else f', {called(key.kind)}'}" for key in keys[:_MOST_NAMED]]
    more = len(keys) - len(names)
    return "; ".join(names) + (f"; and {more} more" if more else "")


def _name(key: Listed) -> str:
    comment = key.comment if len(key.comment) <= _MOST_SHOWN else f"{key.comment[:_MOST_SHOWN]}…"
    return f"{key.fingerprint} ({comment})" if comment else key.fingerprint


def _listed(path: str, connection: "_Connection") -> tuple[Listed, ...]:
    try:
        return identities_untrusted(connection.ask(IDENTITIES, ANSWER_SECONDS))
    except TimeoutError:
        raise SigningError(
            f"the SSH agent did not answer within {ANSWER_SECONDS:g} s", f"does 'ssh-add -l' answer? {_NAME_A_FILE}"
        ) from None
    except BadSshDataError as error:
        raise _not_an_agent(path, error) from None


def _not_an_agent(path: str, error: BadSshDataError) -> SigningError:
    return SigningError(f"{path} does not speak as an SSH agent does: {error}", "see what SSH_AUTH_SOCK names")


class _Connection:
    """A connection to an agent, for a `with`. SigningError for what cannot be connected to, or hangs up."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise SigningError(f"no SSH agent at {path}: {error.strerror or error}", self._cure(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes, seconds: float) -> bytes:
        """The answer to a request, whole, without its length. TimeoutError after that many seconds in all."""
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(request)
            size = int.from_bytes(self._read(LENGTH_SIZE, deadline), "big")
            if not 0 < size <= MOST_BYTES:
                raise _not_an_agent(self._path, BadSshDataError("an answer of no length that one has"))
            return self._read(size, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._hung_up(error.strerror) from None

    def interrupt(self) -> None:
        """Have an `ask` that waits in another thread end at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return

    def _read(self, size: int, deadline: float) -> bytes:
        answer = bytearray()
        while len(answer) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(size - len(answer))
            if not chunk:
                raise self._hung_up(None)
            answer += chunk
        return bytes(answer)

    def _hung_up(self, reason: str | None) -> SigningError:
        message = f"the SSH agent at {self._path} hung up" + (f": {reason}" if reason else " without an answer")
        return SigningError(message, self._cure(None))

    def _cure(self, error: OSError | None) -> str:
        try:
            is_others = Path(self._path).stat().st_uid != os.geteuid()
        except OSError:
            is_others = False
        if is_others or isinstance(error, PermissionError):
            return "it is another user's, and an agent serves its own user alone: start one, or correct SSH_AUTH_SOCK"
        return f'has it ended? start one (eval "$(ssh-agent)" && ssh-add), or correct SSH_AUTH_SOCK; {_NAME_A_FILE}'
