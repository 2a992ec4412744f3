"""The control socket's place: how commands reach the running server, from any network namespace.

A Unix socket `control` in `state_dir` (0700) for the server's own user and root; one request of at most 64 KiB and
one answer of any length, JSON, each ended by the end of its stream.
"""

import fcntl
import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from openme.run_dir import RUN_DIR
from openme.store.places import beside

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME = "control"
LOCK_NAME = "lock"
PEER_CREDENTIALS = struct.Struct("=iII")
"""Process, user and group of the other end: unix(7), SO_PEERCRED."""


@contextmanager
def short_path(directory: Path) -> "Iterator[str]":
    """The socket's path, short: sun_path holds 108 bytes, a state directory's own path may be longer."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def in_run_dir(state_dir: Path) -> Path:
    """Where the socket is while the disk of `state_dir` takes no changes."""
    return beside(RUN_DIR, SOCKET_NAME, state_dir)


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
