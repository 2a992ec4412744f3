"""The user of the process that reads the network: one that nobody else is.

Whoever shares a user with a process can stop it, and is within its reach. So it is `run_as`, or `openme` if there is
that user, or else a user id that nobody has, taken for this run from the range that systemd takes those of its services
from (61184 to 65519, systemd.exec(5), DynamicUser=), and by the same locks, so that systemd does not take it as well.
"""

import fcntl
import grp
import os
import pwd
import socket
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from openme.errors import OpenmeError
from openme.processes.privileges import User, has, named_user, refuse_writable
from openme.processes.roles import CAP_SETGID, CAP_SETUID
from openme.run_dir import RUN_DIR

DEFAULT_NAME = "openme"
FIRST, LAST = 61184, 65519
SYSTEMD_DIR = Path("/run/systemd/dynamic-uid")
_LOCK_NAME = "user-{}"  # in our own run directory

LOST = (
    "whoever took over the one that reads the network could signal the others, and read what this user may read;"
    " the sandbox alone holds it"
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel and systemd say what is taken; for tests."""

    proc: Path = Path("/proc")
    systemd: Path = SYSTEMD_DIR
    run_dir: Path = RUN_DIR


def user_for(
    stack: ExitStack,
    run_as: str | None,
    ours: Sequence[Path],
    places: Places = Places(),  # frozen
) -> tuple[User | None, str | None]:
    """The user that a role is to become, taken until the stack closes; None and a warning where all keep ours.

    `ours`: files and directories that it must not be able to write. OpenmeError for a `run_as` that will not do, and if
    no user id is free.
    """
    given, warning = user_at_hand(run_as, places.proc)
    if warning is not None:
        return None, warning
    user = _taken(stack, ours, places) if given is None else given
    refuse_writable(user, ours)
    return user, None


def user_at_hand(run_as: str | None, proc: Path = Path("/proc")) -> tuple[User | None, str | None]:
    """The same without taking anything: a user that is there, None where a user id is to be taken.

    None and a warning where all keep ours. OpenmeError for a `run_as` that will not do.
    """
    given = None if run_as is None else named_user(run_as)
    why_not = _why_all_keep_ours(proc)
    if why_not is not None:
        return None, f"run_as: {why_not}, so all processes of openme are the same user: {LOST}"
    if given is None:
        with suppress(KeyError):
            pwd.getpwnam(DEFAULT_NAME)
            given = named_user(DEFAULT_NAME)
    return given, None


def _why_all_keep_ours(proc: Path) -> str | None:
    if os.geteuid() != 0:
        return "not started as root"
    if not has(CAP_SETUID, CAP_SETGID):
        return "without CAP_SETUID and CAP_SETGID"
    if min(sum(len(ids) for ids in _mapped(proc / "self" / name)) for name in ("uid_map", "gid_map")) < 2:
        return "no second user is mapped into this user namespace"
    return None


def _mapped(path: Path) -> list[range]:
    """The ids that exist in this user namespace (user_namespaces(7)); all of them where the kernel has none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return [range(2**32 - 1)]
    return [range(int(first), int(first) + int(count)) for first, _, count in map(str.split, lines)]


def _taken(stack: ExitStack, ours: Iterable[Path], places: Places) -> User:
    paths = [place.resolve() for path in ours for place in (path, path.parent)]
    used = _in_processes(places.proc) | {i for path in paths for i in _owners(path)}
    maps = [_mapped(places.proc / "self" / name) for name in ("uid_map", "gid_map")]
    for number in _candidates(str(paths[0]) if paths else ""):
        if number in used or not all(any(number in ids for ids in mapped) for mapped in maps) or _is_known(number):
            continue
        if (places.systemd / f"direct:{number}").is_symlink():
            continue
        release = _lock(number, places)
        if release is None:
            continue
        stack.callback(release)
        # Once more, now that nobody who asks for the locks can take it.
        if number not in _in_processes(places.proc):
            return User(f"user id {number}", number, number)
    raise OpenmeError(
        f"run_as: no user id from {FIRST} to {LAST} is free and mapped into this user namespace",
        f"make a user for it: useradd --system --shell /usr/sbin/nologin {DEFAULT_NAME}",
    )


def _candidates(seed: str) -> Iterator[int]:
    """All of the range, from a place that is the same at each start of one server, so that few are ever used."""
    count = LAST - FIRST + 1
    first = zlib.crc32(seed.encode()) % count
    return (FIRST + (first + i) % count for i in range(count))


def _owners(path: Path) -> set[int]:
    with suppress(OSError):
        status = path.stat()
        return {status.st_uid, status.st_gid}
    return set()


def _in_processes(proc: Path) -> set[int]:
    """The user and group ids that any process has: real, effective, saved, of files, supplementary."""
    used: set[int] = set()
    for path in proc.glob("[0-9]*/status"):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # it has ended
            continue
        for line in lines:
            if line.startswith(("Uid:", "Gid:", "Groups:")):
                used.update(map(int, line.partition(":")[2].split()))
    return used


def _is_known(number: int) -> bool:
    """Whether a user or a group has this id, in whatever directory the host asks."""
    for ask in (pwd.getpwuid, grp.getgrgid):
        try:
            ask(number)
        except KeyError:
            continue
        return True
    return False


def _lock(number: int, places: Places) -> Callable[[], None] | None:
    """Hold this id until the returned function is called; None if another has it.

    As systemd does: a file by the id's number, held by flock(2). In our own run directory too, since systemd's may not
    be there, or not be writable; where neither is, by an abstract socket, which only this network namespace sees.
    """
    held = ExitStack()
    with suppress(OSError):
        places.run_dir.mkdir(mode=0o700)
        held.callback(_remove, places.run_dir.rmdir)
    paths = (places.systemd / str(number), places.run_dir / _LOCK_NAME.format(number))
    got = [_lock_file(path, held) for path in paths]
    if False in got or (True not in got and not _lock_name(number, held)):
        held.close()
        return None
    return held.close


def _lock_file(path: Path, held: ExitStack) -> bool | None:
    """Hold this lock until the stack closes: whether we have it; None where there can be none."""
    try:
        descriptor = _open_lock(path)
    except OSError:
        return None
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    if not os.fstat(descriptor).st_nlink:  # its holder has removed it meanwhile, and a third may have made it anew
        return False
    # While it is still ours. A keeper in its sandbox may do so in our own run directory alone.
    held.callback(_remove, path.unlink)
    return True


def _open_lock(path: Path) -> int:
    """A descriptor of the lock's file, in a directory that is root's alone to write."""
    status = path.parent.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, 0o600)


def _lock_name(number: int, held: ExitStack) -> bool:
    name = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
    try:
        name.bind(f"\0openme-user-{number}")
    except OSError:
        return False
    return True


def _remove(remove: Callable[[], None]) -> None:
    with suppress(OSError):
        remove()
