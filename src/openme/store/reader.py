"""What is stored, for commands while no server runs: a running one keeps the database to itself, and is asked."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from openme.store.base import Seen
from openme.store.places import DATABASE
from openme.store.rows import RENEWED, SEEN, readable, renewal_of, seen_of, text_of

_UNREADABLE = (ValueError, TypeError, OverflowError)
"""What Python makes of damage, as where SQLite's own complaint quotes a name that is no text any more."""


def read_seen(state_dir: Path) -> dict[bytes, Seen]:
    """The last accepted knock of every client; empty if there is none yet."""
    return dict(readable(_read(state_dir, SEEN), seen_of))


def read_renewals(state_dir: Path) -> dict[bytes, int]:
    """The last epoch whose key a client was given with a receipt, by 32-byte public key."""
    return dict(readable(_read(state_dir, RENEWED), renewal_of))


def read_ratchet_seen(state_dir: Path) -> bool:
    """Whether a server on this directory has ever had a ratchet."""
    return bool(_read(state_dir, "SELECT epoch FROM ratchet"))


def forget_renewals(state_dir: Path) -> None:
    """There is a new ratchet: what clients carry belongs to the old one."""
    _read(state_dir, "DELETE FROM delivered")


def note_ratchet(state_dir: Path, epoch: int, public: bytes) -> None:
    """There is a new ratchet, on the operator's word: the next start is to know it."""
    _read(state_dir, "INSERT OR REPLACE INTO ratchet VALUES (1, ?, ?)", epoch, public)
    _read(state_dir, "DELETE FROM ratchet_next")


def _read(state_dir: Path, query: str, *values: object) -> list[Any]:
    path = state_dir / DATABASE
    if not path.exists():
        return []
    try:
        # Not read-only: after a crash the log is to be put in order first.
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=2, isolation_level=None)
        with closing(connection):
            connection.text_factory = text_of
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            return connection.execute(query, values).fetchall()
    except (sqlite3.Error, *_UNREADABLE):
        return []
