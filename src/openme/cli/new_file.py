"""A file that a command makes where the user asked for it, as root under sudo too, and that nobody can misdirect.

The directory is opened once, before anything is done, and everything after that goes through its descriptor. On the way
to it root follows no link that another user could have put there or could exchange (`trusted_path.py` has the rule), so
what another user can do is to move a directory of his own to another place of his own.
"""

import errno
import os
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path

from openme.errors import OpenmeError
from openme.files import write_new
from openme.interrupts import held_back

_WAY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # path_resolution(7)


class NewFile:
    """A file that is not there yet. `write` has it there, whole, mode 0600; `take_back` removes what was made."""

    def __init__(self, path: Path) -> None:
        """OpenmeError if something is at `path` already, or no file can be there."""
        self.path = path
        self._name = path.name
        self._made: os.stat_result | None = None
        if self._name in {"", ".."}:
            raise self._is_there()
        try:
            self._directory = open_directory(path.parent)
        except OSError as error:
            raise self._failed(error) from None
        try:
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from None
        raise self._is_there()

    def is_at(self, other: "NewFile") -> bool:
        """Whether both are one place, by whatever names."""
        return self._name == other.path.name and os.path.samestat(self.directory_status(), other.directory_status())

    def directory_status(self) -> os.stat_result:
        """What directory it is in."""
        return os.fstat(self._directory)

    def write(self, content: bytes) -> None:
        """Make it, under sudo for whoever called that in their own directory. OpenmeError, and no file, otherwise."""
        try:
            with held_back():
                write_new(Path(self._name), content, owner=self._owner(), dir_fd=self._directory)
                self._made = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            os.fsync(self._directory)
        except FileExistsError:
            raise self._is_there() from None
        except OSError as error:
            self.take_back()
            raise self._failed(error) from None

    def take_back(self) -> None:
        """Remove the file if `write` has made it and it is still that one."""
        if self._made is None:
            return
        with suppress(OSError):
            there = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            # A number of a file is soon another's.
            if os.path.samestat(there, self._made) and there.st_mtime_ns == self._made.st_mtime_ns:
                os.unlink(self._name, dir_fd=self._directory)

    def _owner(self) -> os.stat_result | None:
        """Whose it is to be: None for our own."""
        caller = os.environ.get("SUDO_UID", "")
        if os.geteuid() != 0 or not caller.isdigit() or int(caller) == 0:
            return None
        status = self.directory_status()
        return status if status.st_uid == int(caller) else None

    def _is_there(self) -> OpenmeError:
        return OpenmeError(f"{self.path} is there already and is not overwritten", "name another file")

    def _failed(self, error: OSError) -> OpenmeError:
        return OpenmeError(f"{self.path}: {(error.strerror or 'failed').lower()}", "nothing was changed")


def open_directory(path: Path) -> int:
    """A descriptor of a directory, to make files in. OSError if there is none, OpenmeError if root is being misled."""
    steps = deque(path.parts)
    here = os.open("/" if path.is_absolute() else ".", _WAY | os.O_DIRECTORY)
    links = 0
    try:
        while steps:
            step = steps.popleft()
            entry = os.open(step, _WAY, dir_fd=here)
            try:
                status = os.fstat(entry)
                if not stat.S_ISLNK(status.st_mode):
                    here, entry = entry, here
                    continue
                if os.geteuid() == 0 and not _is_roots(status, os.fstat(here)):
                    raise OpenmeError(
                        f"{path}: {step} is a link that another user can change, which root does not follow",
                        "name the directory that it leads to",
                    )
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                steps.extendleft(reversed(Path(os.readlink("", dir_fd=entry)).parts))
            finally:
                os.close(entry)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)


def _is_roots(link: os.stat_result, directory: os.stat_result) -> bool:
    """Whether nobody but root can have made this link, or can put another in its place."""
    changeable = directory.st_mode & 0o022 and not directory.st_mode & stat.S_ISVTX
    return link.st_uid == directory.st_uid == 0 and not changeable
