"""The files of a local store, and what shows that a server has lived where they are."""

import hashlib
from pathlib import Path

from openme.store.mark import MARK

DATABASE = "state.db"
COMPLETE = "complete"
"""An empty file that stood beside a whole database before there was a mark."""
_LIVED = (
    *("ratchet*", ".ratchet.old", "lock", "control", "files.json", "revoked*", "hidden_ports*"),
    *(f"{DATABASE}*", f"{MARK}*", COMPLETE, "parsed_clients*", ".parsed_clients*"),
)


def beside(run_dir: Path, what: str, state_dir: Path) -> Path:
    """The file in `run_dir` that belongs to this `state_dir`."""
    return run_dir / f"{what}-{hashlib.sha256(bytes(state_dir.absolute())).hexdigest()[:16]}"


def has_lived(state_dir: Path) -> bool:
    """Whether anything in `state_dir` shows that a server has run on it, or that one was prepared."""
    return any(next(state_dir.glob(pattern), None) is not None for pattern in _LIVED)
