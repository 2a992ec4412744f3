"""What stands in the place of a file that a server keeps, and is none: seen before a start.

A container that mounts a file which is not there makes a directory of its name; and whoever opens a pipe may wait for
ever. The files `ratchet`, `revoked` and `hidden_ports` are not among these: who reads them says what they are.
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from openme.control.place import LOCK_NAME, SOCKET_NAME
from openme.errors import OpenmeError
from openme.keeper import provided
from openme.keeper.ratchet_file import TRACES
from openme.run_dir import RUN_DIR
from openme.server.state_file import DEFAULT_STATE_FILE
from openme.store.mark import MARK
from openme.store.places import COMPLETE, DATABASE, beside

_DIRECTORY, _SOCKET, _LINK, _NOWHERE = "a directory", "a socket", "a link", "a link to nothing"
_WAITS = frozenset({"a pipe", "a device"})
"""For whoever opens it, or reads it to its end."""
_KINDS = {
    stat.S_IFDIR: _DIRECTORY,
    stat.S_IFSOCK: _SOCKET,
    stat.S_IFLNK: _LINK,
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ALL = frozenset({*_KINDS.values(), _NOWHERE})
_REMOVABLE = _ALL - {_DIRECTORY}


class _Place(NamedTuple):
    """Where a file is to be. `fine`: what else may stand there. `refused`: what a server does not start with."""

    path: Path
    fine: frozenset[str] = frozenset()
    refused: frozenset[str] = _WAITS
    follows: bool = True


def _places(state_dir: Path) -> Iterator[_Place]:
    yield _Place(state_dir / LOCK_NAME, refused=_ALL, follows=False)
    yield _Place(state_dir / SOCKET_NAME, fine=_REMOVABLE, refused=_ALL, follows=False)
    yield _Place(state_dir / MARK, follows=False)
    yield _Place(beside(RUN_DIR, "newest", state_dir), follows=False)
    for name in (DATABASE, f"{DATABASE}-journal", f"{DATABASE}-wal", provided.FILE_NAME):
        yield _Place(state_dir / name)
    for name in TRACES:
        yield _Place(state_dir / name, fine=_REMOVABLE - _WAITS, follows=False)
    yield _Place(state_dir / COMPLETE, fine=_REMOVABLE, follows=False)
    yield _Place(DEFAULT_STATE_FILE, fine=_REMOVABLE, follows=False)


def not_files(state_dir: Path) -> tuple[list[OpenmeError], list[str]]:
    """Why a server does not start, and what it warns of; each names the place, what is there and the cure."""
    refusals, warnings = [], []
    for place in _places(state_dir):
        kind = _kind(place)
        if kind is None or kind in place.fine:
            continue
        what = f"{place.path} is {kind}, where openme keeps a file"
        cure = f"move it away: mv {place.path} {place.path}.away"
        if kind in place.refused:
            refusals.append(OpenmeError(what, cure))
        else:
            warnings.append(f"{what}; {cure}")
    return refusals, warnings


def _kind(place: _Place) -> str | None:
    """What stands there in words; None for a file, for nothing, and for what this user may not look at."""
    try:
        status = place.path.lstat()
        if place.follows and stat.S_ISLNK(status.st_mode):
            try:
                status = place.path.stat()
            except FileNotFoundError:
                return _NOWHERE
    except OSError:
        return None
    return _KINDS.get(stat.S_IFMT(status.st_mode))
