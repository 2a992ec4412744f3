"""What a taken-over listener tries against everybody else on the machine, without any sandbox; run in its process.

Each attack is a function of words that gives what came of it: "done", or the name of the error.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

_F_SETSIG = 10
_F_SETOWN_EX = 15
_FIOASYNC = 0x5452
_FIOSETOWN = 0x8901
_SIOCSPGRP = 0x8902
_PTRACE_ATTACH = 16
_SYS_PIDFD_GETFD = 438
_CHUNK = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def attack(name: str, *words: str) -> object:
    """Run the attack of this name."""
    return globals()[name](*words)


def _outcome(attempt: Callable[..., object], *arguments: object) -> str:
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def _called(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def descriptors() -> dict[int, str]:
    """Every descriptor that we hold."""
    found = {}
    for number in range(65536):
        try:
            found[number] = str(Path(f"/proc/self/fd/{number}").readlink())
        except OSError:
            continue
    return found


def write_to_all(text: str) -> dict[int, str]:
    """Write a line to every descriptor that is no socket."""
    line = f"\n2026-01-01T00:00:00Z error: {text}\n\x1b[2J".encode()
    return {
        number: _outcome(os.write, number, line)
        for number, link in descriptors().items()
        if not link.startswith("socket:")
    }


def open_terminal() -> str:
    """The operator's terminal, by the name that everybody may open."""
    return _outcome(lambda: os.open("/dev/tty", os.O_RDWR))


def signals(*pids: str) -> dict[str, str]:
    """Kill, by everything that sends a signal, or holds a process up."""
    tried: dict[str, str] = {}
    for pid in map(int, pids):
        pidfd = os.pidfd_open(pid)
        tried |= {
            f"kill {pid}": _outcome(os.kill, pid, signal.SIGKILL),
            f"stop {pid}": _outcome(os.kill, pid, signal.SIGSTOP),
            f"tgkill {pid}": _outcome(_called, _libc.tgkill, pid, pid, signal.SIGKILL),
            f"queue {pid}": _outcome(_called, _libc.sigqueue, pid, signal.SIGKILL, None),
            f"pidfd {pid}": _outcome(signal.pidfd_send_signal, pidfd, signal.SIGKILL),
            f"steal {pid}": _outcome(_called, _libc.syscall, _SYS_PIDFD_GETFD, pidfd, 2, 0),
            f"trace {pid}": _outcome(_called, _libc.ptrace, _PTRACE_ATTACH, pid, None, None),
            f"memory {pid}": _outcome(os.open, f"/proc/{pid}/mem", os.O_RDWR),
            f"stderr {pid}": _outcome(os.open, f"/proc/{pid}/fd/2", os.O_WRONLY),
            f"priority {pid}": _outcome(os.setpriority, os.PRIO_PROCESS, pid, 19),
            f"processor {pid}": _outcome(os.sched_setaffinity, pid, {0}),
        }
        os.close(pidfd)
    return tried


def signals_of_sockets(*pids: str) -> str:
    """Have the kernel send SIGKILL in our name: by the owner of a socket, when a datagram comes.

    The owner may be anybody; who may signal it is asked when the signal is sent, so that only who lives on tells.
    """
    for pid in map(int, pids):
        for own in _owned_by(pid):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                own(ours)
                fcntl.fcntl(ours, _F_SETSIG, signal.SIGKILL)
                fcntl.ioctl(ours, _FIOASYNC, struct.pack("i", 1))
                for _ in range(3):
                    theirs.send(b"x")
    return "done"


def _owned_by(pid: int) -> list[Callable[[socket.socket], object]]:
    return [
        lambda s: fcntl.fcntl(s, fcntl.F_SETOWN, pid),
        lambda s: fcntl.fcntl(s, _F_SETOWN_EX, struct.pack("ii", 1, pid)),
        lambda s: fcntl.ioctl(s, _FIOSETOWN, struct.pack("i", pid)),
        lambda s: fcntl.ioctl(s, _SIOCSPGRP, struct.pack("i", pid)),
    ]


def eat_memory(most: str) -> int:
    """How many bytes we can have, up to `most`, private and shared."""
    held: list[mmap.mmap] = []
    try:
        while len(held) * _CHUNK < int(most):
            kind = mmap.MAP_PRIVATE if len(held) % 2 else mmap.MAP_SHARED
            chunk = mmap.mmap(-1, _CHUNK, flags=kind | mmap.MAP_ANONYMOUS)
            held.append(chunk)
            for place in range(0, _CHUNK, 4096):
                chunk[place] = 1
    except (OSError, MemoryError):
        pass
    taken = len(held) * _CHUNK
    for chunk in held:
        chunk.close()
    return taken


def use_up() -> dict[str, object]:
    """Processes, descriptors, locked memory, a file that grows, a queue of messages: how much of each we get."""
    tried: dict[str, object] = {}
    tried["fork"] = _outcome(_fork)
    opened: list[int] = []
    try:
        while len(opened) < 100_000:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    tried["descriptors"] = len(opened)
    for number in opened:
        os.close(number)
    tried["file"] = _outcome(_grow)
    tried["lock memory"] = _outcome(lambda: _called(_libc.mlock, ctypes.create_string_buffer(1 << 20), 1 << 20))
    return tried


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _grow() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    number = os.memfd_create("grows")
    try:
        os.write(number, bytes(_CHUNK))
    finally:
        os.close(number)


def die_of_hunger() -> None:
    """What an honest listener would do that needs more than it may have."""
    raise MemoryError
