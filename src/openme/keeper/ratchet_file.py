"""The ratchet file, `ratchet` in `state_dir`: the one secret that opens recorded version 2 knocks.

    offset  size  field
         0    16  "openme ratchet 1"
        16     8  length of an epoch in seconds
        24     8  index of the oldest epoch that is still needed
        32    32  its ratchet key
        64     8  first bytes of SHA-256 over what stands before: tells half a file from a whole one
        72  4024  zeros

Integers are big-endian. Bytes and not text, since every conversion would leave a copy of the key in memory. The zeros
make it one block: what is smaller ext4 may keep in the inode (`inline_data`), and so write into its journal.

An old copy of this file opens everything from its epoch on. Therefore the old content is overwritten, not just
unlinked, when the ratchet advances, and the file stays out of backups (docs/key-management.md). The old file keeps a
second name until that is done, so that a crash in between loses no key's place: `finish_erasing`. A file system that
keeps old blocks (copy on write: btrfs, ZFS, bcachefs; ext4's `data=journal`; snapshots) defeats this, and nothing that
a program can do helps.
"""

import errno
import hashlib
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from openme.errors import OpenmeError
from openme.files import sync_directory
from openme.keys.erasing import wipe
from openme.keys.ratchet import KEY_SIZE, Ratchet, epoch_at

FILE_NAME = "ratchet"
_MAGIC = b"openme ratchet 1"
_NUMBER_SIZE = 8
_LENGTH_AT = len(_MAGIC)  # 16
_INDEX_AT = _LENGTH_AT + _NUMBER_SIZE  # 24
_KEY_AT = _INDEX_AT + _NUMBER_SIZE  # 32
_CHECK_AT = _KEY_AT + KEY_SIZE  # 64
_CHECK_SIZE = 8
_CONTENT_SIZE = _CHECK_AT + _CHECK_SIZE  # 72, which was the whole file before it was padded
FILE_SIZE = 4096
_NEW_NAME = f".{FILE_NAME}.new"
_OLD_NAME = f".{FILE_NAME}.old"
TRACES = (_NEW_NAME, _OLD_NAME)
"""What a write that did not come to its end may leave beside it."""


class DamagedRatchetError(OpenmeError):
    """A ratchet file that is not one: its keys are lost."""


def new_ratchet(length: int, unix_ns: int) -> Ratchet:
    """A ratchet that begins in the epoch of this Unix time, from 32 random bytes."""
    return Ratchet(length, epoch_at(unix_ns, length), secrets.token_bytes(KEY_SIZE))


def read_ratchet(state_dir: Path) -> Ratchet | None:
    """The ratchet in `state_dir`, None if there is none. DamagedRatchetError; OpenmeError if it is unreadable."""
    path = state_dir / FILE_NAME
    content = bytearray(FILE_SIZE + 1)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}", "run it as root: sudo openme …") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OpenmeError(f"{path}: not a file", "remove it")
        if stat.S_IMODE(mode) & 0o077:
            raise OpenmeError(
                f"{path}: others can read the ratchet",
                f"chmod 600 {path}; if somebody has read it: openme rotate ratchet",
            )
        size = os.readv(descriptor, [content])
        return _parse(content, size, path)
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
        wipe(content)


def _parse(content: bytearray, size: int, path: Path) -> Ratchet:
    check = hashlib.sha256(memoryview(content)[:_CHECK_AT]).digest()[:_CHECK_SIZE]
    if (
        size not in {_CONTENT_SIZE, FILE_SIZE}
        or not content.startswith(_MAGIC)
        or content[_CHECK_AT:_CONTENT_SIZE] != check
        or any(memoryview(content)[_CONTENT_SIZE:])
    ):
        raise DamagedRatchetError(f"{path}: not a ratchet file, or half of one", "see docs/key-management.md")
    length = int.from_bytes(content[_LENGTH_AT:_INDEX_AT], "big")
    index = int.from_bytes(content[_INDEX_AT:_KEY_AT], "big")
    try:
        return Ratchet(length, index, bytes(memoryview(content)[_KEY_AT:_CHECK_AT]))
    except ValueError:
        raise DamagedRatchetError(f"{path}: not a ratchet file") from None


def write_ratchet(state_dir: Path, ratchet: Ratchet) -> None:
    """Put the ratchet in the place of the one in `state_dir`, in one step; OSError if the disk refuses.

    When this returns the new file is on the disk, and the old one's content overwritten as far as the file system lets
    anybody do that.
    """
    path, temporary = state_dir / FILE_NAME, state_dir / _NEW_NAME
    content = bytearray(FILE_SIZE)  # of its final size from the start: a growing one would leave a copy behind
    content[:_LENGTH_AT] = _MAGIC
    content[_LENGTH_AT:_INDEX_AT] = ratchet.length.to_bytes(_NUMBER_SIZE, "big")
    content[_INDEX_AT:_KEY_AT] = ratchet.index.to_bytes(_NUMBER_SIZE, "big")
    ratchet.copy_key_to(content, _KEY_AT)
    content[_CHECK_AT:_CONTENT_SIZE] = hashlib.sha256(memoryview(content)[:_CHECK_AT]).digest()[:_CHECK_SIZE]
    try:
        finish_erasing(state_dir)
        _write(temporary, content, os.O_CREAT | os.O_EXCL)
        old = None if _keep_reachable(path) else _open_to_overwrite(path)
        try:
            temporary.rename(path)
            sync_directory(state_dir)
            if old is not None:
                _overwrite(old)
        finally:
            if old is not None:
                os.close(old)
        finish_erasing(state_dir)
    except OSError:
        with suppress(OSError):
            finish_erasing(state_dir)
        raise
    finally:
        wipe(content)


def finish_erasing(state_dir: Path) -> None:
    """Overwrite and remove what an earlier write, or its crash, has left of other keys. OSError if the disk refuses.

    Called at every start and before and after every write.
    """
    for name in TRACES:
        path = state_dir / name
        if path.is_symlink() or path.exists():
            if not _is_the_ratchet(path, state_dir):
                _discard(path)
            path.unlink(missing_ok=True)
            sync_directory(state_dir)


def _is_the_ratchet(path: Path, state_dir: Path) -> bool:
    """Whether this is a second name of the ratchet in force, as between the link and the rename."""
    try:
        return os.path.samestat(path.lstat(), (state_dir / FILE_NAME).lstat())
    except FileNotFoundError:
        return False


def _keep_reachable(path: Path) -> bool:
    """Give the old file a second name, by which its content is found and overwritten after a crash; whether it has one.

    A file system without links goes without: there a crash at this moment leaves the old key in a block of nobody's.
    """
    try:
        os.link(path, path.with_name(_OLD_NAME), follow_symlinks=False)
    except FileNotFoundError:
        return False  # there was no ratchet yet
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        return False
    sync_directory(path.parent)
    return True


def set_aside(state_dir: Path) -> Path:
    """Move a file that is no ratchet out of the way; where it is now. OSError if the disk refuses."""
    kept = state_dir / f"{FILE_NAME}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    (state_dir / FILE_NAME).rename(kept)
    return kept


def _write(path: Path, content: bytearray, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a short write of so few bytes has no other reason
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_to_overwrite(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def _overwrite(descriptor: int) -> None:
    """Zeros in the place of the content, on the disk; OSError if it refuses, so that nobody believes it done."""
    os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
    os.fsync(descriptor)


def _discard(path: Path) -> None:
    """Overwrite what lies here, key and all: it would outlive its epoch in a block that nobody owns."""
    descriptor = _open_to_overwrite(path)
    if descriptor is not None:
        try:
            _overwrite(descriptor)
        finally:
            os.close(descriptor)
