"""What each process may do, and how it gives up the rest (capabilities(7), prctl(2))."""

import ctypes
import os
import pwd
import resource
import signal
import stat
from collections.abc import Iterable
from pathlib import Path

from openme.config.section import shown
from openme.errors import OpenmeError

_CAP_NET_ADMIN = 12
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def has_net_admin() -> bool:
    """Whether this process may change the firewall (CAP_NET_ADMIN)."""
    return bool(effective_capabilities() >> _CAP_NET_ADMIN & 1)


def effective_capabilities() -> int:
    """The effective set as a bit mask."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def listener_account(name: str | None) -> tuple[pwd.struct_passwd, str | None]:
    """The account that the listener runs as, and a warning if it is the fallback `nobody`.

    OpenmeError if a name was given that is unknown, or that is root.
    """
    if name is not None:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            raise OpenmeError(
                f"run_as: there is no user {shown(name)}",
                f"make it: useradd --system --shell /usr/sbin/nologin {shown(name)}",
            ) from None
        if account.pw_uid == 0:
            raise OpenmeError(f"run_as: {name} is root", "name a user without rights, or leave run_as away")
        return account, None
    try:
        return pwd.getpwnam("openme"), None
    except KeyError:
        warning = "run_as: there is no user openme, the listener runs as nobody; better: useradd --system openme"
        return pwd.getpwnam("nobody"), warning


def refuse_writable(account: pwd.struct_passwd, paths: Iterable[Path]) -> None:
    """OpenmeError if the listener's user could write one of these files or directories, or replace it by its parent.

    Judged by owner, group and mode; the listener itself runs without any supplementary group.
    """
    for path in paths:
        for place in (path, path.parent):
            status = place.stat()
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            writable = (
                status.st_uid == account.pw_uid
                or (status.st_gid == account.pw_gid and bool(status.st_mode & stat.S_IWGRP))
                or (bool(status.st_mode & stat.S_IWOTH) and not sticky)
            )
            if writable:
                raise OpenmeError(
                    f"run_as: {account.pw_name} could write {place}",
                    f"sudo chown root: {place}; sudo chmod go-w {place}",
                )


def become(account: pwd.struct_passwd | None) -> None:
    """Run as this user (None: the one that we are) from now on: no groups, no capabilities, no way back."""
    _drop_bounding_set(keep=())
    if account is not None:
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    _set_capabilities(0)


def keep_net_admin_alone() -> None:
    """Stay the user that we are, with CAP_NET_ADMIN (where we have it) and no other capability."""
    _drop_bounding_set(keep=(_CAP_NET_ADMIN,))
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set_capabilities(effective_capabilities() & 1 << _CAP_NET_ADMIN)


def _set_capabilities(mask: int) -> None:
    """Make `mask` (below bit 32) the effective and permitted set; OSError if the kernel refuses."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)(_CapabilityData(mask, mask, 0), _CapabilityData(0, 0, 0))
    if _libc.capset(ctypes.byref(header), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


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
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
