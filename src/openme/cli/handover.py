"""A client's file on its way out: `--out FILE`, or stdout. A key in it is nowhere else."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from openme.cli.new_file import NewFile
from openme.cli.output import answer_lines, note
from openme.errors import OpenmeError

NOTHING_ADDED = "nothing was added"


class Handover:
    """Where a client's file, and its QR code, go. `write_files` has them there, whole; `take_back` removes them."""

    def __init__(self, out: Path | None, qr_out: Path | None = None) -> None:
        """OpenmeError if there is something already: it may be the only copy of somebody's key."""
        self._out = None if out is None else NewFile(out)
        self._qr_out = None if qr_out is None else NewFile(qr_out)
        if self._out is not None and self._qr_out is not None and self._out.is_at(self._qr_out):
            raise OpenmeError(f"--out {out} and --qr-out {qr_out} are one file", "name two", exit_code=2)

    def write_files(self, text: str, image: bytes = b"") -> None:
        """Make the files that were asked for, mode 0600; nothing for stdout. OpenmeError: `take_back` is due."""
        if self._out is not None:
            self._out.write(text.encode())
        if self._qr_out is not None:
            self._qr_out.write(image)

    def take_back(self) -> None:
        """Remove the files: the key was not registered."""
        for file in (self._out, self._qr_out):
            if file is not None:
                file.take_back()

    def print(self, text: str) -> None:
        """Print the file if it was to go to stdout; OpenmeError if that fails."""
        if self._out is None:
            try:
                answer_lines(text.rstrip("\n"))
            except OSError as error:
                raise OpenmeError(f"the profile could not be written: {error.strerror}") from None

    def tell(self, *, secret: bool) -> None:
        """Say where they are."""
        if self._out is not None:
            note(f"wrote {self._out.path}{' (it holds the private key; there is no other copy)' if secret else ''}")
        if self._qr_out is not None:
            note(f"wrote {self._qr_out.path} (it holds the private key)")

    def keep_private(self) -> None:
        """`openme add alice > alice.yaml`: the shell has made the file with its umask, and a key goes into it."""
        if self._out is not None:
            return
        descriptor = sys.stdout.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            # Also where the shell is another user's than we are, as in `sudo openme add`; a mode is only made stricter.
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)
