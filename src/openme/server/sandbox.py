"""What each process can still do once it serves: system calls (seccomp) and files (Landlock).

    listener   the sockets it was born with: receive, accept, write, close. No file, no new socket, no connection, no
               datagram to anybody, no program, no child.
    guardian   to wait, and to signal the listener.
    keeper     the firewall (netlink), the config (read), state and run directory. No program, no network.

A call that is not on a list fails with EPERM instead of killing the process: a libc that makes a new call some day must
not close an operator's way in. What the kernel or the host lacks is said in a warning and not enforced.
"""

import errno
from collections.abc import Iterable
from pathlib import Path

from py_landlock import Landlock, LandlockError, Scope

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError):  # the binding needs libseccomp.so.2 when it is imported
    pyseccomp = None

_AF_UNIX = 1
_AF_NETLINK = 16
_FIONBIO = 0x5421  # ioctl_tty(2): what setblocking does


def _calls(*groups: str) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.split())


# What every running Python needs: memory, threads' locks, signals, clocks, descriptors it has, and to end.
_ALWAYS = _calls(
    "brk mmap munmap mremap mprotect madvise futex sched_yield membarrier rseq set_robust_list",
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall",
    "clock_gettime clock_nanosleep nanosleep gettimeofday getrandom",
    "getpid gettid getuid geteuid getgid getegid getppid",
    "read write writev close exit exit_group",
    "epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6",
    "fcntl getsockname getsockopt recvfrom recvmsg",
)
_LISTENER = _ALWAYS + _calls("listen accept accept4 getpeername shutdown")
_KEEPER = _ALWAYS + _calls(
    "sendto sendmsg",
    "accept accept4 socketpair setsockopt getpeername shutdown",
    "open openat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd",
    "lseek pread64 pwrite64 readv preadv pwritev fsync fdatasync ftruncate fallocate flock statfs fstatfs",
    "link linkat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir chmod fchmod fchmodat umask getdents64",
    "memfd_create dup dup2 dup3 pipe2 uname sysinfo getrlimit prlimit64 getrusage",
    "clone clone3 fork vfork wait4 waitid kill tgkill",
)


def confine_listener() -> list[str]:
    """Leave the listener its sockets. Returns warnings about what is not enforced here."""
    warnings = _landlock([], [])
    return warnings + _seccomp(_LISTENER, sockets=(), may_address=False)


def confine_guardian() -> list[str]:
    """Leave the guardian to wait, and to signal the process that it has a descriptor of. Returns warnings."""
    warnings = _landlock([], [], may_signal=True)
    return warnings + _seccomp(_ALWAYS + _calls("pidfd_send_signal"), sockets=(), may_address=False)


def confine_keeper(readable: Iterable[Path], writable: Iterable[Path]) -> list[str]:
    """Leave the keeper netlink, the directories in `readable` to read and those in `writable` to read and write.

    Returns warnings about what is not enforced here.
    """
    warnings = _landlock(readable, writable)
    return warnings + _seccomp(_KEEPER, sockets=(_AF_UNIX, _AF_NETLINK), may_address=True)


def _landlock(readable: Iterable[Path], writable: Iterable[Path], *, may_signal: bool = False) -> list[str]:
    try:
        rules = Landlock(strict=False)
        for path in readable:
            rules.allow_read(path)
        for path in writable:
            rules.allow_read(path).allow_write(path)
        if may_signal:
            rules.allow_scope(Scope.SIGNAL)  # from ABI 6 on processes outside are out of reach otherwise
        rules.apply()
    except (LandlockError, OSError) as error:
        return [f"sandbox: Landlock is not in force ({error}): files are protected by their modes alone"]
    return []


def _seccomp(names: Iterable[str], *, sockets: Iterable[int], may_address: bool) -> list[str]:
    if pyseccomp is None:
        return ["sandbox: seccomp is not in force, libseccomp is missing; install it: apt-get install libseccomp2"]
    try:
        allowed = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
        for name in names:
            _allow(allowed, name)
        _allow(allowed, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, _FIONBIO))
        if not may_address:
            # send(2), whose address is NULL: the knock socket has no peer, so that nothing can leave by it.
            _allow(allowed, "sendto", pyseccomp.Arg(4, pyseccomp.EQ, 0))
        for family in sockets:
            _allow(allowed, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
            _allow(allowed, "bind")
        allowed.load()
    except OSError as error:
        return [f"sandbox: seccomp is not in force ({error.strerror})"]
    return []


def _allow(rules: object, name: str, *arguments: object) -> None:
    try:
        rules.add_rule(pyseccomp.ALLOW, name, *arguments)  # type: ignore[attr-defined]  # the binding has no types
    except OSError:
        # This machine's architecture has no such call (arm64 has no `open`), so there is nothing to allow.
        return
