"""One writer at a time, and errors that name the file."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openme import files
from openme.config.files import file_error
from openme.interrupts import check

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
            check()
            time.sleep(_RETRY)
        yield
    finally:
        os.close(descriptor)


def replace_file(target: Path, content: bytes, owner: os.stat_result | None, path: Path) -> None:
    """Put `content` in the place of `target` in one step, mode 0600; ConfigError if that fails.

    Owner and group become those in `owner`, or stay this process's own where it is None.

    See `files.replace_file`. `path` names the file in errors.
    """
    try:
        files.replace_file(target, content, owner=owner)
    except OSError as error:
        raise _os_error(path, error) from None


def _os_error(path: Path, error: OSError) -> Exception:
    reason = os.strerror(error.errno).lower() if error.errno else "failed"
    return file_error(path, f"cannot be written: {reason}")
