"""What a confined process can still do: run by test_split.py as a program of its own; JSON on stdout.

`python confined.py listener` or `python confined.py keeper READABLE WRITABLE`. Runs as root with every capability, so
that whatever is refused is refused by the sandbox and by nothing else.

`python confined.py calls ROLE NUMBERS`: every system call by its number but those of the comma-separated NUMBERS, with
arguments that are all ones; a JSON object with what came of it. `python confined.py abi ROLE WHICH`: a call by the
numbers of another ABI of this processor, `i386` or `x32`.

`python confined.py late ROLE`: a child as the server makes it, which has given up its user and its limits before it is
confined, by Landlock alone; JSON with what is not in force there and what came of opening a file.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from openme.processes import sandbox
from openme.processes.privileges import User, become, keep_secrets_in_memory, limit
from openme.processes.roles import KEEPER, LISTENER, ROLES
from openme.processes.sandbox import confine, find_landlock

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> Callable[[], None]:
    function = getattr(_libc, name)

    def run() -> None:
        if function(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return run


_ROLES = {role.name: role for role in ROLES}
_NAMELESS = User("nameless", 65519, 65519)
_HIGHEST = 470  # more than there are
_OF_PROBES = {335, 336}  # on x86_64 the kernel's own return from a probe, which no filter is asked about
_X32 = 0x4000_0000
_GETPID_I386 = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret
_GETPID = 39


def _confine(role: str) -> None:
    confine(_ROLES[role], victim=7 if role == "guardian" else None)


def every_call(role: str, but: set[int]) -> dict[int, str]:
    """What comes of every system call."""
    _confine(role)
    outcome = {}
    ones = ctypes.c_long(-1)
    for number in set(range(_HIGHEST)) - but - _OF_PROBES:
        result = _libc.syscall(ctypes.c_long(number), *[ones] * 6)
        outcome[number] = errno.errorcode[ctypes.get_errno()] if result == -1 else "done"
    return outcome


def other_abi(role: str, which: str) -> None:
    """Make a call that a filter for this ABI's numbers would take for another one."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_GETPID_I386)
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    _confine(role)
    result = run() if which == "i386" else _libc.syscall(ctypes.c_long(_X32 | _GETPID))
    os.write(1, b"done" if result > 0 else b"refused")
    os._exit(0)


def late(role: str) -> None:
    """Have a child confined that may start no program any more."""
    find_landlock()
    sandbox._seccomp = lambda calls: []  # noqa: ARG005
    child = os.fork()
    if child == 0:
        become(_NAMELESS)
        limit(_ROLES[role])
        shortfalls = confine(_ROLES[role], victim=7 if role == "guardian" else None)
        try:
            os.open("/etc/passwd", os.O_RDONLY)
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
        else:
            outcome = "done"
        os.write(1, json.dumps([list(map(str, shortfalls)), outcome]).encode())
        os._exit(0)
    os.waitpid(child, 0)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _exec() -> None:
    os.execv("/bin/true", ["/bin/true"])  # noqa: S606  # the bare call


def attempts(
    outside: Path, udp: socket.socket, tcp: socket.socket, pair: socket.socket
) -> dict[str, Callable[[], object]]:
    """What is tried, by name."""
    me = os.getpid()
    return {
        "read /etc/passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "read /etc/shadow": lambda: os.open("/etc/shadow", os.O_RDONLY),
        "write /etc": lambda: os.open("/etc/openme-test", os.O_WRONLY | os.O_CREAT, 0o600),
        "make a file": lambda: os.open(outside / "made", os.O_WRONLY | os.O_CREAT, 0o600),
        "write a file": lambda: os.open(outside / "there", os.O_WRONLY),
        "remove a file": lambda: os.unlink(outside / "there"),  # noqa: PTH108  # the bare call
        "list a folder": lambda: os.listdir(outside),  # noqa: PTH208
        "read its own memory": lambda: os.open(f"/proc/{me}/mem", os.O_RDWR),
        "socket: IPv4 datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "socket: IPv4 stream": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "socket: IPv6 datagrams": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "socket: raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "socket: packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "socket: unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "socket: netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "connect": lambda: tcp.connect(("127.0.0.1", tcp.getsockname()[1])),
        "connect datagrams": lambda: udp.connect(("127.0.0.1", 9)),
        "send to an address": lambda: udp.sendto(b"key", ("127.0.0.1", 9)),
        "send a message to an address": lambda: udp.sendmsg([b"key"], [], 0, ("127.0.0.1", 9)),
        "ask a device": lambda: fcntl.ioctl(udp, 0x8912, bytes(16)),
        "fork": _fork,
        "start a thread": lambda: threading.Thread(target=int).start(),
        "kill": lambda: os.kill(me, 0),
        "signal the parent": lambda: os.kill(os.getppid(), signal.SIGCONT),
        "ptrace": _call("ptrace", 16, os.getppid(), 0, 0),
        "change user": lambda: os.setresuid(65534, 65534, 65534),
        "unshare": _call("unshare", 0x40000000),
        "mount": _call("mount", b"none", b"/mnt", b"tmpfs", 0, 0),
        "chroot": lambda: os.chroot("/"),
        "load a module": _call("syscall", 175, 0, 0, b""),
        "bpf": _call("syscall", 321, 0, 0, 0),
        "io_uring": _call("syscall", 425, 8, 0),
        "session of its own": os.setsid,
        "anonymous file": lambda: os.memfd_create("x"),
        "prctl": _call("prctl", 1, 0, 0, 0, 0),
        "die with the parent": _call("prctl", 1, signal.SIGKILL, 0, 0, 0),
        "own a socket": lambda: fcntl.fcntl(pair, fcntl.F_SETOWN, os.getppid()),
        "own a socket, the newer way": lambda: fcntl.fcntl(pair, 15, struct.pack("ii", 1, os.getppid())),
        "choose a signal": lambda: fcntl.fcntl(pair, 10, signal.SIGKILL),
        "own a socket, by ioctl": lambda: fcntl.ioctl(pair, 0x8901, struct.pack("i", os.getppid())),
        "own a socket, by its group": lambda: fcntl.ioctl(pair, 0x8902, struct.pack("i", os.getppid())),
        "signals by a socket": lambda: fcntl.fcntl(pair, fcntl.F_SETFL, fcntl.FASYNC),
        "signals by a socket, by ioctl": lambda: fcntl.ioctl(pair, 0x5452, struct.pack("i", 1)),
        "lease a file": lambda: fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        "watch a folder": lambda: fcntl.fcntl(0, fcntl.F_NOTIFY, fcntl.DN_CREATE),
        "resize a pipe": lambda: fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20),
        "limits of the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "a user namespace": _call("syscall", 56, 0x1000_0011, 0, 0, 0, 0),
        "use the channel": lambda: pair.send(b"frame"),
        "exec": _exec,
    }


def main() -> None:
    """Confine ourselves, then try everything."""
    if sys.argv[1] == "calls":
        outcome_of_calls = every_call(sys.argv[2], set(map(int, sys.argv[3].split(","))))
        os.write(1, json.dumps(outcome_of_calls).encode())
        os._exit(0)
    if sys.argv[1] == "abi":
        other_abi(*sys.argv[2:])
    if sys.argv[1] == "late":
        late(sys.argv[2])
        os._exit(0)
    folders = [Path(word) for word in sys.argv[2:]]
    outside = folders[-1]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.create_server(("127.0.0.1", 0))
    pair, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tried = attempts(outside, udp, tcp, pair)
    keep_secrets_in_memory()
    if sys.argv[1] == "listener":
        shortfalls = confine(LISTENER)
        tried |= {
            "attach a filter": lambda: udp.setsockopt(socket.SOL_SOCKET, 50, 0),
            "take a filter away": lambda: udp.setsockopt(socket.SOL_SOCKET, 27, 0),
        }
        tried["exec"] = tried.pop("exec")
    else:
        readable, writable = folders[:2]
        shortfalls = confine(KEEPER, [readable], [writable])
        tried |= {
            "config: read": lambda: os.close(os.open(readable / "there", os.O_RDONLY)),
            "config: write": lambda: os.close(os.open(readable / "there", os.O_WRONLY)),
            "config: make": lambda: os.close(os.open(readable / "made", os.O_WRONLY | os.O_CREAT, 0o600)),
            "state: make": lambda: os.close(os.open(writable / "made", os.O_WRONLY | os.O_CREAT, 0o600)),
            "state: replace": lambda: os.rename(writable / "made", writable / "there"),  # noqa: PTH104
        }
        tried["exec"] = tried.pop("exec")  # it comes last: where it works, nothing follows
    outcome: dict[str, object] = {}
    warnings = list(map(str, shortfalls))
    sys.stdout.write("")
    for name, attempt in tried.items():
        if name == "exec":
            os.write(1, json.dumps({"warnings": warnings, "outcome": outcome}).encode() + b"\n")
        try:
            attempt()
        except OSError as error:
            outcome[name] = errno.errorcode.get(error.errno or 0, "?")
        except RuntimeError:  # a thread that could not be started
            outcome[name] = "EPERM"
        else:
            outcome[name] = "done"
    os.write(1, json.dumps(outcome["exec"]).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
