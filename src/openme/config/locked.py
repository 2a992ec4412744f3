"""One writer at a time, and files that are either the old or the new one."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openme.config.files import file_error

LOCK_WAIT = 30.0  # seconds; an edit of 10,000 clients takes about one
_RETRY = 0.02  # seconds


@contextmanager
def locked_directory(directory: Path, path: Path, *, wait: float = LOCK_WAIT) -> Iterator[None]:
    """Hold the directory against other writers for the length of the block; ConfigError after `wait` seconds.

    The lock is on the directory itself: it leaves no file behind, ends with the process, and survives the renaming of
    the file, which a lock on the file would not. `path` names the file in errors.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _os_error(path, error) from None
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise _os_error(path, error) from None
            if time.monotonic() >= deadline:
                raise file_error(path, f"another program has been changing files in {directory} for {wait:g} s")
            time.sleep(_RETRY)
        yield
    finally:
        os.close(descriptor)


def replace_file(target: Path, content: bytes, owner: os.stat_result | None, path: Path) -> None:
    """Put `content` in the place of `target` in one step, mode 0600; ConfigError if that fails.

    Owner and group become those in `owner`, or stay this process's own where it is None.

    The new file has no wider mode at any moment and is on disk before it takes the name, so that neither a full disk
    nor a power failure leaves half a file. `path` names the file in errors.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            status = os.fstat(descriptor)
            if owner is not None and (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _os_error(path, error) from None
        raise
    try:
        sync_directory(target.parent)
    except OSError as error:
        raise _os_error(path, error) from None


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk, as they are now; OSError if it refuses."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(path: Path, error: OSError) -> Exception:
    reason = os.strerror(error.errno).lower() if error.errno else "failed"
    return file_error(path, f"cannot be written: {reason}")
