"""The kernel tells when files may have changed, so that nobody needs to look twice a second (inotify(7)).

It tells of a directory what is done through it on this machine. What another machine writes into a network file system,
and what comes by a mount over a directory, it does not tell. So this is a reason to look, never one not to: whoever
decides by a file looks at it himself, and all look once in `interval` besides.

All is asked of the kernel when this is made, before the process may ask no more. So where the way to a file is not what
it was then, because a directory has gone or a link leads elsewhere, all are looked at as often as where the kernel
tells nothing.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LOOK_INTERVAL = 60.0
"""Seconds between two looks at files that the kernel tells of."""
POLL_INTERVAL = 0.5
"""Seconds between two looks at files that it does not tell of."""

# inotify.h. Who writes into a file tells it by closing the file, when all is there: a database that stays open tells
# nothing.
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _ATTRIB = 0x8, 0x40, 0x80, 0x100, 0x200, 0x4
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLYDIR, _MASK_ADD = 0x0100_0000, 0x2000_0000
_NEWS = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ATTRIB
# Of a queue that was full nobody knows what it lost: that a directory has moved, too.
_LOST = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED
_LINK_LOST = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_EVENT = struct.Struct("iIII")  # which directory, what, a number that joins two, and the size of the name behind it
_BUFFER_SIZE = 65536
_MOST_LINKS = 40  # path_resolution(7)

# statfs(2), f_type: file systems that nobody writes into but by this machine's kernel.
_LOCAL = {
    0xEF53: "ext2 to ext4",
    0x58465342: "XFS",
    0x9123683E: "Btrfs",
    0xF2F52010: "F2FS",
    0x2FC12FC1: "ZFS",
    0xCA451A4E: "bcachefs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlayfs",
}
_STATFS_SIZE = 512  # more than any system's

_libc = ctypes.CDLL(None, use_errno=True)


class FileChanges:
    """Watches the directories of files that may or may not be there, those above, and each link on the way to one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._descriptor = -1
        self._is_lost = False
        self._links: set[tuple[int, bytes]] = set()
        self._mounted: set[int] = set()
        ways = [_way_to(file) for file in files]
        if all(way is not None and way.is_local for way in ways):
            self._begin([way for way in ways if way is not None])

    def _begin(self, ways: Iterable["_Way"]) -> None:
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        for way in ways:
            numbers = [self._add(way.end.parent, _NEWS | _LOST | _ONLYDIR)]
            # With one above it a directory gets another name, and is told nothing of that itself.
            numbers += (self._add(directory, _LOST | _ONLYDIR) for directory in way.passed)
            for directory, names in way.links.items():
                numbers.append(self._add(directory, _NEWS | _LOST | _ONLYDIR))
                self._links.update((numbers[-1], name) for name in names)
            if min(numbers) < 0:  # the user's limit of watches, or no right to read the directory
                self.close()
                return
            # A file that is mounted on its name, as into a container, changes in a directory of which we see nothing.
            if (number := self._add(way.end, _CLOSE_WRITE | _ATTRIB)) >= 0:
                self._mounted.add(number)

    def _add(self, path: Path, mask: int) -> int:
        # A directory that is on two ways is asked about once, for both.
        return int(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), ctypes.c_uint32(mask | _MASK_ADD)))

    @property
    def tells(self) -> bool:
        """Whether the kernel tells. It may cease to: where a directory on a way goes, is renamed or unmounted, or more
        happens than it keeps.
        """
        return self._descriptor >= 0 and not self._is_lost

    @property
    def interval(self) -> float:
        """Seconds after which one looks, whether or not anything was told."""
        return LOOK_INTERVAL if self.tells else POLL_INTERVAL

    def fileno(self) -> int:
        """A descriptor that is readable when something may have changed; below zero if it has never told."""
        return self._descriptor

    def read(self) -> None:
        """Take what there is: `fileno` is readable again when there is more."""
        with suppress(BlockingIOError):
            while events := os.read(self._descriptor, _BUFFER_SIZE):
                at = 0
                while at < len(events):
                    number, mask, _, name_size = _EVENT.unpack_from(events, at)
                    at += _EVENT.size
                    name = events[at : at + name_size].rstrip(b"\0")
                    at += name_size
                    self._note(number, mask, name)

    def _note(self, number: int, mask: int, name: bytes) -> None:
        is_lost = mask & _LOST and number not in self._mounted
        if is_lost or (mask & _LINK_LOST and (number, name) in self._links):
            self._is_lost = True

    def close(self) -> None:
        """Have nothing told any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Way:
    """Where a path ends, the directories on the way there, and the links: their names by the directories that they lie
    in.
    """

    def __init__(self) -> None:
        self.end = Path("/")
        self.passed: set[Path] = set()
        self.links: dict[Path, set[bytes]] = {}

    @property
    def is_local(self) -> bool:
        """Whether nobody changes what is on it, and the file, but by this machine's kernel."""
        places = (self.end.parent, *self.links, *([self.end] if self.end.exists() else []))
        return all(map(_is_local, places))


def _way_to(file: Path) -> _Way | None:
    """The way to a file; None where links lead in a circle."""
    way = _Way()
    left = list(reversed(Path(os.path.abspath(file)).parts[1:]))  # noqa: PTH100  # not resolved: links are the point
    for _ in range(_MOST_LINKS):
        while left and not (way.end / left[-1]).is_symlink():
            name = left.pop()
            way.passed.add(way.end)
            way.end = way.end.parent if name == ".." else way.end / name
        if not left:
            return way
        way.links.setdefault(way.end, set()).add(os.fsencode(left[-1]))
        target = Path(os.readlink(way.end / left.pop()))  # noqa: PTH115  # the bare text, with its ..
        if target.is_absolute():
            way.end = Path("/")
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return None


def _is_local(directory: Path) -> bool:
    about = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.statfs(os.fsencode(directory), about) != 0:
        return False
    return ctypes.c_long.from_buffer(about).value & 0xFFFF_FFFF in _LOCAL
