"""What each process may do, and how it gives up the rest (capabilities(7), prctl(2))."""

import ctypes
import fcntl
import os
import pwd
import resource
import signal
import stat
import termios
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from openme.config.section import shown
from openme.errors import OpenmeError
from openme.processes.roles import CAP_NET_ADMIN, CAP_SETGID, PR_SET_PDEATHSIG, Role, RunsAs

_SHARED_IDS = frozenset({65534})  # nobody: of what is not mapped, and of programs that were given no user
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522
_WITHOUT_PROC = 1 << 30  # bytes taken to be in use where nobody tells

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def has_net_admin() -> bool:
    """Whether this process may change the firewall (CAP_NET_ADMIN)."""
    return has(CAP_NET_ADMIN)


def has(*capabilities: int) -> bool:
    """Whether this process has all of these capabilities in force."""
    in_force = effective_capabilities()
    return all(in_force >> capability & 1 for capability in capabilities)


def effective_capabilities() -> int:
    """The effective set as a bit mask."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


@dataclass(frozen=True, slots=True)
class User:
    """Who a process becomes: ids, no supplementary groups, no capabilities. `name` is for the operator."""

    name: str
    uid: int
    gid: int


def named_user(name: str) -> User:
    """The user of this name. OpenmeError if there is none, if it is root, and for `nobody`, which others share."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise OpenmeError(
            f"run_as: there is no user {shown(name)}",
            f"make it: useradd --system --shell /usr/sbin/nologin {shown(name)}",
        ) from None
    if account.pw_uid == 0:
        raise OpenmeError(f"run_as: {name} is root", "name a user without rights, or leave out run_as")
    if account.pw_gid == 0:
        raise OpenmeError(f"run_as: the group of {name} is root", "name a user without rights, or leave out run_as")
    if account.pw_uid in _SHARED_IDS:
        raise OpenmeError(
            f"run_as: {name} is shared with other programs, which could stop the server",
            "leave out run_as, then a user id that nobody else has is taken",
        )
    return User(name, account.pw_uid, account.pw_gid)


def refuse_writable(user: User, paths: Iterable[Path]) -> None:
    """OpenmeError if this user could write one of these files or directories, or replace it by its parent.

    Judged by owner, group and mode; the process itself runs without any supplementary group.
    """
    for path in paths:
        for place in (path, path.parent):
            status = place.stat()
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            writable = (
                status.st_uid == user.uid
                or (status.st_gid == user.gid and bool(status.st_mode & stat.S_IWGRP))
                or (bool(status.st_mode & stat.S_IWOTH) and not sticky)
            )
            if writable:
                raise OpenmeError(
                    f"run_as: {user.name} could write {place}",
                    f"sudo chown root: {place}; sudo chmod go-w {place}",
                )


def become(user: User | None) -> None:
    """Run as this user (None: the one that we are) from now on: no groups, no capabilities, no way back."""
    _drop_bounding_set(keep=())
    if user is not None:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    _clear_ambient()
    _set_capabilities(0)


def leave_groups() -> None:
    """Have no supplementary groups, where we may change them; before the capabilities go."""
    if has(CAP_SETGID):
        with suppress(OSError):  # a user namespace may forbid it (user_namespaces(7))
            os.setgroups([])


def keep_alone(capabilities: Collection[int]) -> None:
    """Stay the user that we are, with these capabilities (where we have them) and no other."""
    _drop_bounding_set(keep=capabilities)
    _clear_ambient()
    _set_capabilities(effective_capabilities() & sum(1 << capability for capability in capabilities))


def take_on(role: Role, own: User | None = None, *, below: bool = False) -> None:
    """Become what the table says of a role, but for its sandbox, which comes last.

    `own`: the user of those that run as one of their own (None: there is none, and they stay who they are). `below`:
    this process becomes that user whatever its role says, without capabilities. A role that inherits has all but its
    end from the process that has forked it.
    """
    if role.inherits is not None:
        if role.dies_with_parent:
            die_with_parent()
        return
    if below or role.runs_as is RunsAs.OWN:
        become(own)
    else:
        if role.leaves_groups:
            leave_groups()
        keep_alone(role.capabilities)
    keep_secrets_in_memory()  # also where it was so before: a change of user makes a process dumpable again
    if role.dies_with_parent:
        die_with_parent()
    limit(role)


def limit(role: Role) -> None:
    """Set the limits of a role, soft and hard, none higher than it was."""
    limits = dict(role.limits)
    if role.growth is not None:
        limits[resource.RLIMIT_AS] = _address_space() + role.growth
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (value, value))


def _address_space() -> int:
    """Bytes of address space in use; a forked process has what its parent had, a large config in it."""
    try:
        # As bytes: a codec is a module, and by now this process may not be able to read the installation.
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:
        return _WITHOUT_PROC
    return pages * resource.getpagesize()


def leave_terminal() -> None:
    """Give up the controlling terminal, which /dev/tty is to whoever has one, and stay in the session.

    No signal is sent: that is for the session's leader alone, which a process that has just been forked is not.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # there is none, or it has hung up
        return
    try:
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
    except OSError:
        return
    finally:
        os.close(terminal)


def _set_capabilities(mask: int) -> None:
    """Make `mask` (below bit 32) the effective and permitted set; OSError if the kernel refuses."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)(_CapabilityData(mask, mask, 0), _CapabilityData(0, 0, 0))
    if _libc.capset(ctypes.byref(header), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _clear_ambient() -> None:
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _drop_bounding_set(keep: Iterable[int]) -> None:
    kept = set(keep)
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # beyond the kernel's last one: EINVAL, and no harm


def keep_secrets_in_memory() -> None:
    """No core dumps, no ptrace by others of the same user, no new privileges by exec."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the parent ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
