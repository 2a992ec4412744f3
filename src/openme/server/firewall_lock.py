"""One server per network namespace: two would take the one table from each other for ever."""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from openme.errors import OpenmeError
from openme.firewall.base import LockScope

FIREWALL_LOCK = b"\0openme-firewall"
_GLANCE = 0.2  # seconds


@contextmanager
def firewall_lock(scope: LockScope) -> Iterator[socket.socket | None]:
    """One server per network namespace: two would take the one table from each other for ever.

    The lock is an abstract socket, which belongs to the namespace, leaves no file and is gone however its holder ends.
    Anybody may take the name, so a holder of less right than ours is passed over. Anybody may ask, too, and whoever has
    asked stays in the queue, which when full tells nobody of us any more: a server takes them off it.
    """
    if scope is LockScope.NONE:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as held:
        try:
            held.bind(FIREWALL_LOCK)
            held.listen(socket.SOMAXCONN)
            held.setblocking(False)  # noqa: FBT003  # the standard library's signature
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                refuse_second_server(scope)
        yield held


def refuse_second_server(scope: LockScope) -> None:
    """OpenmeError if a server that we would have to give way to serves on this network namespace's firewall."""
    if scope is LockScope.NETWORK_NAMESPACE and firewall_holder() in {0, os.geteuid()}:
        raise OpenmeError(
            "another server is running on this machine's firewall",
            "stop it first; one server can hide all ports and serve all clients",
        )


def firewall_holder() -> int | None:
    """The user who serves on this network namespace's firewall, as the kernel saw it; None: nobody who answers."""
    deadline = time.monotonic() + _GLANCE
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as asking:
        while True:
            try:
                asking.connect(FIREWALL_LOCK)
            except BlockingIOError:  # its queue is full; a server that lives empties it much sooner
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.01)
            except OSError:
                return None
            else:
                break
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
