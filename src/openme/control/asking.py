"""A command's end of the control socket."""

import socket
import time
from pathlib import Path

from openme.control.place import LOCK_NAME, PEER_CREDENTIALS, in_run_dir, is_locked, short_path
from openme.control.requests import AnyReply, Request, reply_from, request_bytes
from openme.errors import OpenmeError
from openme.interrupts import heard

_STARTING = 5.0  # seconds within which a server that holds the lock must listen
_RETRY = 0.02  # seconds


class NoServerError(OpenmeError):
    """No server runs on this state directory: nobody listens there, and nobody holds its lock."""


class NoAnswerError(OpenmeError):
    """A server runs, or may run, and has not answered: what it does is not known."""


def _connect(control: socket.socket, state_dir: Path) -> None:
    try:
        with short_path(state_dir) as path:
            control.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as nobody:
        try:
            control.connect(str(in_run_dir(state_dir)))
        except PermissionError:
            raise nobody from None  # only root looks in there, and only root's servers are


def ask(state_dir: Path, request: Request[AnyReply], timeout: float = 30.0) -> AnyReply:
    """Send a request to the running server and return its reply.

    NoServerError if none runs on this `state_dir`; NoAnswerError if one may, but gave no answer; OtherVersionError if
    it does not speak our version of this request; OpenmeError with the server's own words if it refuses.
    """
    with heard():
        raw = _exchange(state_dir, request_bytes(request), timeout)
    reply = reply_from(raw, request)
    if reply is None:
        raise NoAnswerError("the server did not answer: " + ("what it sent made no sense" if raw else "it hung up"))
    return reply


def server_process(state_dir: Path) -> int | None:
    """The process that listens on this `state_dir`, as the kernel saw it; None if none is seen from here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control:
        control.settimeout(_STARTING)
        try:
            _connect(control, state_dir)
            credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        except OSError:
            return None
    return int(PEER_CREDENTIALS.unpack(credentials)[0]) or None


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
