"""A client's file on its way out: `--out FILE`, or stdout. A key in it is nowhere else."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from openme.cli.output import answer_lines, note
from openme.errors import OpenmeError
from openme.files import sync_directory, write_new

NOTHING_ADDED = "nothing was added"


class Handover:
    """Where a client's file goes. `write` has it there, whole; `take_back` removes it again."""

    def __init__(self, out: Path | None) -> None:
        """OpenmeError if `out` is there already: it may be the only copy of somebody's key."""
        self._out = out
        if out is not None and (out.is_symlink() or out.exists()):
            raise OpenmeError(f"{out} is there already and is not overwritten", "name another file")

    def write_file(self, text: str) -> None:
        """Make the file that was asked for, mode 0600, or nothing for stdout. OpenmeError, and no file, otherwise."""
        if self._out is None:
            return
        try:
            write_new(self._out, text.encode(), owner=_owner(self._out.parent))
            sync_directory(self._out.parent)
        except FileExistsError:
            raise OpenmeError(f"{self._out} is there already and is not overwritten", "name another file") from None
        except OSError as error:
            raise OpenmeError(f"{self._out}: {(error.strerror or 'failed').lower()}", NOTHING_ADDED) from None

    def take_back(self) -> None:
        """Remove the file: its key was not registered."""
        if self._out is not None:
            with suppress(OSError):
                self._out.unlink()

    def print(self, text: str) -> None:
        """Print the file if it was to go to stdout; OSError if that fails."""
        if self._out is None:
            answer_lines(text.rstrip("\n"))
            sys.stdout.flush()

    def tell(self, *, secret: bool) -> None:
        """Say where it is."""
        if self._out is not None:
            note(f"wrote {self._out}{' (it holds the private key; there is no other copy)' if secret else ''}")

    def keep_private(self) -> None:
        """`openme add alice > alice.yaml`: the shell has made the file with its umask, and a key goes into it."""
        if self._out is not None:
            return
        descriptor = sys.stdout.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            # Also where the shell is another user's than we are, as in `sudo openme add`; a mode is only made stricter.
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)


def _owner(directory: Path) -> os.stat_result | None:
    """Whose a file made here is to be: with sudo, in a directory of whoever called it, theirs; else our own."""
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not caller.isdigit() or int(caller) == 0:
        return None
    status = directory.stat()
    return status if status.st_uid == int(caller) else None
