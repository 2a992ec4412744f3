"""The kernel tells when files may have changed, so that nobody needs to look twice a second (inotify(7)).

It tells of a directory what is done through it on this machine. What another machine writes into a network file system,
what comes by a mount over the directory or by a link on the way that is set anew, it does not tell. So this is a reason
to look, never one not to: whoever decides by a file looks at it himself, and all look once in `interval` besides.

All is asked of the kernel when this is made, before the process may ask no more.
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
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _IGNORED = 0x400, 0x800, 0x2000, 0x8000
_ONLYDIR = 0x0100_0000
_NEWS = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ATTRIB
_LOST = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
_EVENT = struct.Struct("iIII")  # which directory, what, a number that joins two, and the size of the name behind it
_BUFFER_SIZE = 65536

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
    """Watches the directories of files that may or may not be there, each also where a link leads."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._descriptor = -1
        self._is_lost = False
        directories = {place for file in files for place in (file.parent, Path(os.path.realpath(file)).parent)}
        if all(map(_is_local, directories)):
            self._begin(directories)

    def _begin(self, directories: Iterable[Path]) -> None:
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        for directory in directories:
            number = _libc.inotify_add_watch(
                self._descriptor, os.fsencode(directory), ctypes.c_uint32(_NEWS | _LOST | _ONLYDIR)
            )
            if number < 0:  # the user's limit of watches, or no right to read the directory
                self.close()
                return

    @property
    def tells(self) -> bool:
        """Whether the kernel tells. It may cease to: where a directory goes, gets another name or is unmounted."""
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
                    _, mask, _, name_size = _EVENT.unpack_from(events, at)
                    self._is_lost = self._is_lost or bool(mask & _LOST)
                    at += _EVENT.size + name_size

    def close(self) -> None:
        """Have nothing told any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _is_local(directory: Path) -> bool:
    about = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.statfs(os.fsencode(directory), about) != 0:
        return False
    return ctypes.c_long.from_buffer(about).value & 0xFFFF_FFFF in _LOCAL
