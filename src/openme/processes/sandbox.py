"""What each process can still do once it serves: system calls (seccomp) and files (Landlock), by the table in `roles`.

A call that is not in the table fails with EPERM instead of killing the process: a libc that makes a new call some day
must not close an operator's way in. Calls of another architecture than ours (i386 and x32 on x86_64) end the process.
What the kernel or the host lacks is returned as reports, for a warning, and not enforced.
"""

import ctypes
import errno
from collections.abc import Iterable
from pathlib import Path

from py_landlock import Landlock, LandlockError, Scope, get_abi_version

from openme.processes.roles import Allowed, Role
from openme.seam.messages import NoLandlock, NoSeccomp, NoSeccompLibrary, Shortfall

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError):  # the binding needs libseccomp.so.2 when it is imported
    pyseccomp = None


def find_landlock() -> str | None:
    """Find what Landlock is asked by, before any process is confined or has parted; why there is none, or None.

    py_landlock looks for libc when it is first used, by running ldconfig. Whoever may read no file, start no process or
    write to no folder any more does not find it, and would go on without Landlock.
    """
    try:
        get_abi_version()
    except LandlockError as error:
        return str(error)
    return None


def confine(
    role: Role, readable: Iterable[Path] = (), writable: Iterable[Path] = (), victim: int | None = None
) -> list[Shortfall]:
    """Leave this process what its role has. Returns what is not enforced here.

    `readable`, `writable`: the folders behind the role's `reads` and `writes`. `victim`: the descriptor of the process
    that it may kill.
    """
    return _landlock(readable, writable, may_signal=victim is not None) + _seccomp(role.allowed(victim))


def _landlock(readable: Iterable[Path], writable: Iterable[Path], *, may_signal: bool = False) -> list[Shortfall]:
    ctypes.set_errno(0)  # where the library leaves what the kernel has answered
    try:
        rules = Landlock(strict=False)
        for path in readable:
            rules.allow_read(path)
        for path in writable:
            rules.allow_read(path).allow_write(path)
        if may_signal:
            rules.allow_scope(Scope.SIGNAL)  # from ABI 6 on processes outside are out of reach otherwise
        rules.apply()
    except OSError as error:
        return [NoLandlock(error.errno or 0)]
    except LandlockError:
        return [NoLandlock(ctypes.get_errno())]
    return []


def _seccomp(calls: Iterable[Allowed]) -> list[Shortfall]:
    if pyseccomp is None:
        return [NoSeccompLibrary()]
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
        for allowed in calls:
            _add(rules, pyseccomp.ALLOW, allowed.call, *(_argument(*argument) for argument in allowed.arguments))
        # Its flags are in memory, where no filter sees them. Without it a libc uses clone.
        _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        rules.load()
    except OSError as error:
        return [NoSeccomp(error.errno or 0)]
    return []


def _argument(place: int, mask: int, value: int) -> object:
    return pyseccomp.Arg(place, pyseccomp.MASKED_EQ, mask, value)


def _add(rules: object, action: int, name: str, *arguments: object) -> None:
    try:
        rules.add_rule(action, name, *arguments)  # type: ignore[attr-defined]  # the binding has no types
    except OSError:
        # This machine's architecture has no such call (arm64 has no `open`), so there is nothing to allow.
        return
