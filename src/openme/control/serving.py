"""The server's end of the control socket: made, taken away, and who may ask."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from openme.control.place import PEER_CREDENTIALS, SOCKET_NAME, in_run_dir, short_path

MAX_REQUEST = 1 << 16


def listen(state_dir: Path) -> socket.socket:
    """Bind the control socket, in place of what an earlier server left. The caller holds the lock of `state_dir`."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    previous = os.umask(0o177)
    try:
        try:
            (state_dir / SOCKET_NAME).unlink(missing_ok=True)
            with short_path(state_dir) as path:
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
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    return PEER_CREDENTIALS.unpack(raw)[1] in {0, os.geteuid()}
