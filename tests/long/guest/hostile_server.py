"""`openme serve` whose listener is hostile and lives without its sandbox; run by test_split.py.

`python hostile_server.py PORT ARGUMENTS...`: once there are a keeper and a guardian, the listener tries to end both,
says what came of it in a datagram to PORT of this host, and then ignores everything, the end of its channel included.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from openme.cli.main import main
from openme.processes.roles import LISTENER
from openme.processes.sandbox import confine
from openme.server import start

_F_SETSIG = 10
_FIOASYNC = 0x5452


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def _signal_by_socket(pid: int) -> None:
    """The kernel sends the signal in our name when a datagram comes; nobody is told whether it was allowed to."""
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, pid)
    fcntl.fcntl(ours, _F_SETSIG, signal.SIGKILL)
    fcntl.ioctl(ours, _FIOASYNC, struct.pack("i", 1))
    theirs.send(b"x")


def _attack(pid: int) -> dict[str, str]:
    return {
        "kill": _outcome(lambda: os.kill(pid, signal.SIGKILL)),
        "stop": _outcome(lambda: os.kill(pid, signal.SIGSTOP)),
        "pidfd": _outcome(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)),
        "memory": _outcome(lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "socket": _outcome(lambda: _signal_by_socket(pid)),
    }


class HostileListener:
    """Stands in for ListenerProcess."""

    def __init__(self, *parts: object) -> None:
        self._parts = parts

    def run(self) -> None:
        """Attack, tell, and stay for ever."""
        keeper = os.getppid()
        children = Path(f"/proc/{keeper}/task/{keeper}/children")
        while not (guardians := [pid for pid in map(int, children.read_text().split()) if pid != os.getpid()]):
            time.sleep(0.05)
        tried = {
            "keeper": _attack(keeper),
            **{f"guardian {number}": _attack(pid) for number, pid in enumerate(guardians)},
        }
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(json.dumps(tried).encode(), ("127.0.0.1", port))
        while True:
            time.sleep(60)


def replace(**names: object) -> None:
    """Put these in the place of what `server.start` has under their names. AssertionError where it has none."""
    assert names.keys() <= vars(start).keys()
    vars(start).update(names)


if __name__ == "__main__":
    port = int(sys.argv[1])
    replace(ListenerProcess=HostileListener, confine=lambda role: [] if role is LISTENER else confine(role))
    sys.exit(main(sys.argv[2:]))
