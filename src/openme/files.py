"""Files that are either the old or the new one, never half of one, whatever happens meanwhile. On every system."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openme.interrupts import held_back

_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW"):  # Windows, whose files are text otherwise, has the first alone
    _WRITE_NEW |= getattr(os, _name, 0)


def write_new(
    path: Path,
    content: bytes | bytearray,
    *,
    owner: os.stat_result | None = None,
    durable: bool = True,
    dir_fd: int | None = None,
) -> None:
    """Make a file that is not there yet, mode 0600 at every moment. OSError, and no such file, if that fails.

    `owner`: whose owner and group it gets; None for this process's own. `durable`: its content, not yet its name, is on
    the disk when this returns (`sync_directory` does the rest). `dir_fd`: an open directory that `path` starts from.
    The content is not copied on the way.
    """
    with held_back():
        descriptor = os.open(path, _WRITE_NEW, 0o600, dir_fd=dir_fd)
        try:
            try:
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, 0o600)  # whatever the directory's default ACL says
                status = os.fstat(descriptor)
                if owner is not None and (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                _write_all(descriptor, content)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(path, dir_fd=dir_fd)
            raise


def replace_file(
    path: Path, content: bytes, *, owner: os.stat_result | None = None, durable: bool = True, own_name: str = ""
) -> None:
    """Put `content` in the place of `path` in one step, mode 0600. OSError, and the old file there, if that fails.

    `owner` and `durable` as for `write_new`; a durable one has its name on the disk too when this returns, and an
    OSError from that last step is the only one after which the new file is there. `own_name`: what distinguishes the
    temporary file from others', for a writer that is alone and would leave a new one behind at each crash; it is
    removed first. Without it the name is a random one.
    """
    temporary = path.with_name(f".{path.name}.{own_name or secrets.token_hex(8)}")
    if own_name:
        temporary.unlink(missing_ok=True)
    with held_back():
        write_new(temporary, content, owner=owner, durable=durable)
        try:
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    if durable:
        sync_directory(path.parent)


@contextmanager
def replacing(path: Path, own_name: str) -> Iterator[Callable[[bytes], None]]:
    """Yields what writes a file piece by piece, which takes the place of `path` in one step at the end, mode 0600.

    OSError, and the old file there and no other, if that fails; so too if it is given up. Nothing is synced.
    `own_name` as for `replace_file`. For a process that no signal interrupts: between two pieces it does other work.
    """
    temporary = path.with_name(f".{path.name}.{own_name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, _WRITE_NEW, 0o600)
    try:
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # as above
            yield lambda piece: _write_all(descriptor, piece)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _write_all(descriptor: int, content: bytes | bytearray) -> None:
    view = memoryview(content)
    while view:
        written = os.write(descriptor, view)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk, as they are now; OSError if it refuses."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows, which knows no such thing
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
