"""What other systems lack, as far as that can be shown on Linux: run as a program, then the client in the same process.

`python -m support.other_systems windows|macos command WORD...` runs `openme WORD...`, `… program CODE` a program. Taken
away is what Python's documentation of os, signal, select, socket and time says is not there. Not shown: other paths,
rights and line ends of files, and how the other kernels' sockets behave.
"""

import importlib
import os
import pathlib
import select
import signal
import socket
import sys
import time
import types
from importlib.machinery import ModuleSpec

LINUX_MODULES = {"nftables", "pyseccomp", "landlock", "py_landlock", "spwd"}
UNIX_MODULES = {*("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")}
LINUX_NAMES = {
    os: "O_PATH O_TMPFILE memfd_create pipe2 pidfd_open sched_setaffinity setns splice unshare",
    select: "epoll",
    socket: "AF_NETLINK AF_PACKET IP_TRANSPARENT SCM_CREDENTIALS SOCK_CLOEXEC SOCK_NONBLOCK SO_BINDTODEVICE SO_MARK"
    " SO_PASSCRED SO_PEERCRED",
    time: "CLOCK_BOOTTIME",
}
UNIX_NAMES = {
    os: "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC chown chroot fchdir fchmod fchown fork forkpty"
    " getegid geteuid getgid getgroups getpgid getpgrp getuid initgroups killpg lchown mkfifo posix_spawn sendfile "
    "setegid seteuid setgid setgroups setpgid setsid setuid tcgetpgrp ttyname uname wait3 wait4 waitid writev",
    select: "poll",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm pause"
    " pthread_kill pthread_sigmask setitimer sigpending sigwait sigwaitinfo sigtimedwait",
    socket: "AF_UNIX CMSG_LEN CMSG_SPACE MSG_DONTWAIT MSG_NOSIGNAL SCM_RIGHTS SO_REUSEPORT",
    time: "clock_gettime clock_gettime_ns CLOCK_MONOTONIC CLOCK_REALTIME",
}


class _Refuse:
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"this system has no {name}", name=name)
        return None


def _take_away(names: dict[types.ModuleType, str]) -> None:
    for module, text in names.items():
        for name in text.split():
            if hasattr(module, name):
                delattr(module, name)


def pretend(system: str) -> None:
    """Make this process as one of `windows` or `macos`."""
    _take_away(LINUX_NAMES)
    refused = set(LINUX_MODULES)
    if system == "windows":
        refused |= UNIX_MODULES
        # Paths stay this system's: Python makes no others here.
        unix = types.ModuleType("os")
        unix.__dict__.update(vars(os))
        pathlib.os = unix  # type: ignore[attr-defined]  # what it looks at for that
        _take_away(UNIX_NAMES)
        os.name = "nt"
    sys.platform = "win32" if system == "windows" else "darwin"
    for name in refused:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Refuse(refused))


def main() -> None:
    """See above."""
    system, what, *words = sys.argv[1:]
    # What looks at the system's name to choose among modules of which this one has but its own.
    for name in ("shutil", "subprocess", *(("asyncio",) if system == "macos" else ())):
        importlib.import_module(name)
    pretend(system)
    if what == "program":
        exec(words[0], {"__name__": "__main__"})  # noqa: S102  # a test's own
        return
    sys.argv = ["openme", *words]
    importlib.import_module("openme.cli.entry").run()


if __name__ == "__main__":
    main()
