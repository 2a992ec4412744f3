"""What a confined process can still do: run by test_split.py as a program of its own; JSON on stdout.

`python confined.py listener` or `python confined.py keeper READABLE WRITABLE`. Runs as root with every capability, so
that whatever is refused is refused by the sandbox and by nothing else.
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from openme.server.privileges import keep_secrets_in_memory
from openme.server.sandbox import confine_keeper, confine_listener

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> Callable[[], None]:
    function = getattr(_libc, name)

    def run() -> None:
        if function(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return run


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
        "use the channel": lambda: pair.send(b"frame"),
        "exec": _exec,
    }


def main() -> None:
    """Confine ourselves, then try everything."""
    folders = [Path(word) for word in sys.argv[2:]]
    outside = folders[-1]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.create_server(("127.0.0.1", 0))
    pair, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tried = attempts(outside, udp, tcp, pair)
    keep_secrets_in_memory()
    if sys.argv[1] == "listener":
        warnings = confine_listener()
    else:
        readable, writable = folders[:2]
        warnings = confine_keeper([readable], [writable])
        tried |= {
            "config: read": lambda: os.close(os.open(readable / "there", os.O_RDONLY)),
            "config: write": lambda: os.close(os.open(readable / "there", os.O_WRONLY)),
            "config: make": lambda: os.close(os.open(readable / "made", os.O_WRONLY | os.O_CREAT, 0o600)),
            "state: make": lambda: os.close(os.open(writable / "made", os.O_WRONLY | os.O_CREAT, 0o600)),
            "state: replace": lambda: os.rename(writable / "made", writable / "there"),  # noqa: PTH104
        }
        tried["exec"] = tried.pop("exec")  # it comes last: where it works, nothing follows
    outcome: dict[str, object] = {}
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
