"""The control socket: how `sessions`, `revoke` and `close` reach the running server, from any network namespace.

A Unix socket `control` in `state_dir` (0700) for the server's own user and root; one request of at most 64 KiB and
one answer of any length, JSON, each ended by the end of its stream.
"""

import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openme.errors import OpenmeError
from openme.interrupts import heard
from openme.server.state_file import RUN_DIR
from openme.store.places import beside

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME = "control"
LOCK_NAME = "lock"
MAX_REQUEST = 1 << 16
_PEER_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid; unix(7) SO_PEERCRED


_STARTING = 5.0  # seconds within which a server that holds the lock must listen
_RETRY = 0.02  # seconds


class NoServerError(OpenmeError):
    """No server runs on this state directory: nobody listens there, and nobody holds its lock."""


class NoAnswerError(OpenmeError):
    """A server runs, or may run, and has not answered: what it does is not known."""


@contextmanager
def _short_path(directory: Path) -> "Iterator[str]":
    """The socket's path, short: sun_path holds 108 bytes, a state directory's own path may be longer."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def in_run_dir(state_dir: Path) -> Path:
    """Where the socket is while the disk of `state_dir` takes no changes."""
    return beside(RUN_DIR, SOCKET_NAME, state_dir)


def listen(state_dir: Path) -> socket.socket:
    """Bind the control socket, in place of what an earlier server left. The caller holds the lock of `state_dir`."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    previous = os.umask(0o177)
    try:
        try:
            (state_dir / SOCKET_NAME).unlink(missing_ok=True)
            with _short_path(state_dir) as path:
                control.bind(path)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.ENOSPC, errno.EDQUOT}:
                raise
            in_run_dir(state_dir).unlink(missing_ok=True)
            control.bind(str(in_run_dir(state_dir)))
    finally:
        os.umask(previous)
    control.listen(16)
    return control


def remove(state_dir: Path) -> None:
    """Take the socket away; one that stays is replaced by the next server."""
    for path in (state_dir / SOCKET_NAME, in_run_dir(state_dir)):
        with suppress(OSError):
            path.unlink()


def is_allowed(peer: socket.socket) -> bool:
    """Whether the peer is root or the server's own user."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return _PEER_CREDENTIALS.unpack(raw)[1] in {0, os.geteuid()}


def _connect(control: socket.socket, state_dir: Path) -> None:
    try:
        with _short_path(state_dir) as path:
            control.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as nobody:
        try:
            control.connect(str(in_run_dir(state_dir)))
        except PermissionError:
            raise nobody from None  # only root looks in there, and only root's servers are


def ask(state_dir: Path, request: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Send a request to the running server and return its answer.

    NoServerError if none runs on this `state_dir`; NoAnswerError if one may, but gave no answer; OpenmeError with the
    server's own words if it refuses.
    """
    message = json.dumps(request).encode()
    with heard():
        raw = _exchange(state_dir, message, timeout)
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise NoAnswerError("the server did not answer: " + ("what it sent made no sense" if raw else "it hung up"))
    if "error" in answer:
        raise OpenmeError(str(answer["error"]))
    return answer


def _exchange(state_dir: Path, request: bytes, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    starting = time.monotonic() + min(timeout, _STARTING)
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control:
            control.settimeout(max(deadline - time.monotonic(), _RETRY))
            try:
                _connect(control, state_dir)
            except PermissionError:
                raise OpenmeError(f"{state_dir}: permission denied", "run it as root: sudo openme …") from None
            except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
                if not is_locked(state_dir):
                    raise NoServerError(f"no server is running on {state_dir}", "start it with: openme serve") from None
                if time.monotonic() >= starting:
                    raise NoAnswerError(
                        f"the server did not answer: one holds {state_dir / LOCK_NAME}, but nobody listens"
                    ) from None
            except BlockingIOError:  # EAGAIN: its queue is full
                if time.monotonic() >= deadline:
                    raise NoAnswerError("the server did not answer: too many are waiting for it") from None
            except OSError as error:
                raise _no_answer(error, timeout) from None
            else:
                return _sent(control, request, timeout)
        time.sleep(_RETRY)


def _sent(control: socket.socket, request: bytes, timeout: float) -> bytes:
    try:
        control.sendall(request)
        control.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: control.recv(1 << 16), b""))
    except OSError as error:
        raise _no_answer(error, timeout) from None


def _no_answer(error: OSError, timeout: float) -> NoAnswerError:
    if isinstance(error, TimeoutError):
        return NoAnswerError(f"the server did not answer within {timeout:g} s")
    return NoAnswerError(f"the server did not answer: {(error.strerror or 'the connection failed').lower()}")


def is_locked(state_dir: Path) -> bool:
    """Whether a server holds the lock of `state_dir`: one that is starting, or whose socket somebody has removed."""
    try:
        descriptor = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
