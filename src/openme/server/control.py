"""The control socket: how `sessions`, `revoke` and `close` reach the running server, from any network namespace.

A Unix socket `control` in `state_dir` (0700) for the server's own user and root; one request of at most 64 KiB and
one answer of any length, JSON, each ended by the end of its stream.
"""

import errno
import json
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openme.errors import OpenmeError
from openme.keeper.store import beside
from openme.server.state_file import RUN_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME = "control"
MAX_REQUEST = 1 << 16
_PEER_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid; unix(7) SO_PEERCRED


class NoServerError(OpenmeError):
    """No server runs on this state directory."""


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

    NoServerError if none runs on this `state_dir`; OpenmeError with the server's own words if it refuses.
    """
    nobody = NoServerError(f"no server is running on {state_dir}", "start it with: openme serve")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control:
        control.settimeout(timeout)
        try:
            _connect(control, state_dir)
            control.sendall(json.dumps(request).encode())
            control.shutdown(socket.SHUT_WR)
            raw = b"".join(iter(lambda: control.recv(1 << 16), b""))
        except PermissionError:
            raise OpenmeError(f"{state_dir}: permission denied", "run it as root: sudo openme …") from None
        except TimeoutError:
            raise OpenmeError("the server does not answer") from None
        except OSError:
            raise nobody from None
    if not raw:
        raise nobody
    answer: dict[str, Any] = json.loads(raw)
    if "error" in answer:
        raise OpenmeError(answer["error"])
    return answer
