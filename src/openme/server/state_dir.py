"""Whether a directory will do as `state_dir`, and what of its mode is to be changed. Nothing is changed here."""

import os
import stat
from pathlib import Path

from openme.config.trusted_path import changeable_by_others
from openme.errors import OpenmeError


def is_open_to_others(state_dir: Path) -> bool:
    """Whether `state_dir`, which is there, must be closed to others. OSError.

    OpenmeError if it is somebody else's, or open and not ours to close: what another user's link or directory leads to
    may be any directory of the host's, which must stay as it is.
    """
    status = state_dir.stat()
    if status.st_uid not in {0, os.geteuid()}:
        raise OpenmeError(f"state_dir {state_dir} belongs to another user", f"sudo chown -R root: {state_dir}")
    if not status.st_mode & 0o077:
        return False
    place = changeable_by_others(state_dir, os.geteuid())
    if place is not None and place != state_dir.resolve():
        raise OpenmeError(
            f"state_dir {state_dir} is open to others, and others can change {place}, so it may lead anywhere",
            "name a state_dir in a directory of root's",
        )
    return True


def unusable(state_dir: Path, reason: str) -> OpenmeError:
    """For one that cannot be made or opened, with the reason."""
    return OpenmeError(f"state_dir {state_dir}: {reason}", "run it as root, or name another state_dir in the config")


def refuse_unusable(state_dir: Path) -> None:
    """OpenmeError if `state_dir` will not do, or is not there and cannot be made."""
    try:
        if not stat.S_ISDIR(state_dir.stat().st_mode):
            raise unusable(state_dir, "not a directory")
        is_open_to_others(state_dir)
    except FileNotFoundError:
        above = next(path for path in state_dir.parents if path.exists())
        if not above.is_dir():
            raise unusable(state_dir, f"{above} is not a directory") from None
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise unusable(state_dir, f"it is not there, and cannot be made in {above}") from None
    except OSError as error:
        raise unusable(state_dir, error.strerror or "it cannot be looked at") from None
