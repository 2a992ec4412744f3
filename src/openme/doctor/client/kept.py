"""Whether what the client learns can be kept beside its file, and by nobody else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from openme.config.trusted_path import changeable_by_others
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding

KEPT = "kept_files"
CHANGEABLE = "client_file_place"
"""The modes of the client's file itself are looked at whenever it is read."""


def kept_files(client: Client) -> Iterator[Finding]:
    """Epoch keys that receipts bring, and the last knock."""
    directory = client.known.directory
    try:
        status = directory.stat()
    except FileNotFoundError:
        if not os.access(directory.parent, os.W_OK | os.X_OK):
            yield Finding(
                KEPT,
                f"{directory} cannot be made, so nothing is kept of new epoch keys",
                f"make {directory.parent} writable for you",
            )
        return
    except OSError as error:
        yield Finding(
            KEPT, f"{directory}: {(error.strerror or 'failed').lower()}", f"make it yours: {_mine(directory)}"
        )
        return
    cannot = [path for path in (directory, *directory.glob("*.json")) if not os.access(path, os.R_OK | os.W_OK)]
    if not stat.S_ISDIR(status.st_mode) or cannot:
        wrong = cannot[0] if cannot else directory
        yield Finding(KEPT, f"{wrong} cannot be read or written", f"make it yours: {_mine(directory)}")
    elif os.name == "posix" and status.st_mode & 0o077:
        yield Finding(
            KEPT,
            f"others can look into {directory} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 700 {directory}",
        )


def place(client: Client) -> Iterator[Finding]:
    """Whether others can put another file in the place of the client's."""
    if os.name != "posix":  # elsewhere modes say nothing
        return
    path = client.config.path
    if (found := changeable_by_others(path, os.geteuid())) is not None:
        yield Finding(
            CHANGEABLE,
            f"others can change {found}, and so put another file in the place of {path}",
            f"chmod go-w {found}, or keep the profiles in a directory of your own",
        )


def _mine(directory: Path) -> str:
    return f"sudo chown -R $(id -u) {directory}"
