"""The mark: how far the database must reach, in a file of its own (`state.mark` in `state_dir`).

    offset  size  field
         0    16  "openme mark 1", padded with zeros
        16    16  the database's id, random, a new one after every loss
        32     8  its number of commits
        40     8  no knock that was ever accepted is younger: Unix time in nanoseconds, signed
        48    32  digest over its replay memory after that commit (`store.digest`)
        80     8  first bytes of SHA-256 over what stands before

Integers are big-endian. The file keeps its size and is written in place, within one sector: that needs no new block, so
it works on a full disk, and a power cut leaves the old or the new record. Anything else is damage, which is a loss.

A copy of the newest record stands in the run directory, where only a restart of the machine loses it: it shows what no
file in `state_dir` can, that both were put back from an older copy.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from openme.files import sync_directory

MARK = "state.mark"
ID_SIZE = 16
DIGEST_SIZE = 32
NO_DIGEST = bytes(DIGEST_SIZE)
MAX_COUNT = 2**62
MIN_NS, MAX_NS = -(2**63), 2**63 - 1
"""The signed 64 bits in which knocks carry their time, and SQLite its integers."""

_MAGIC = b"openme mark 1".ljust(16, b"\0")
_NUMBER_SIZE = 8
_ID_AT = len(_MAGIC)  # 16
_COUNT_AT = _ID_AT + ID_SIZE  # 32
_NEWEST_AT = _COUNT_AT + _NUMBER_SIZE  # 40
_DIGEST_AT = _NEWEST_AT + _NUMBER_SIZE  # 48
_CHECK_AT = _DIGEST_AT + DIGEST_SIZE  # 80
_CHECK_SIZE = 8
MARK_SIZE = _CHECK_AT + _CHECK_SIZE  # 88


class DamagedMarkError(Exception):
    """What lies in the mark's place is none."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One record. A `digest` of zeros fits no database: it says that knocks were accepted which none holds."""

    store_id: bytes
    count: int
    newest_ns: int
    digest: bytes

    def pack(self) -> bytes:
        """The 88 bytes."""
        head = (
            _MAGIC
            + self.store_id
            + self.count.to_bytes(_NUMBER_SIZE, "big")
            + within_64_bits(self.newest_ns).to_bytes(_NUMBER_SIZE, "big", signed=True)
            + self.digest
        )
        return head + _check(head)


def unpack_mark(raw: bytes) -> Mark:
    """The record in exactly 88 bytes. DamagedMarkError."""
    head = raw[:_CHECK_AT]
    if len(raw) != MARK_SIZE or not raw.startswith(_MAGIC) or raw[_CHECK_AT:] != _check(head):
        raise DamagedMarkError
    return Mark(
        raw[_ID_AT:_COUNT_AT],
        int.from_bytes(raw[_COUNT_AT:_NEWEST_AT], "big"),
        int.from_bytes(raw[_NEWEST_AT:_DIGEST_AT], "big", signed=True),
        raw[_DIGEST_AT:_CHECK_AT],
    )


def within_64_bits(time_ns: int) -> int:
    """The nearest time that a knock can carry; a clock beyond the year 2262 shows others."""
    return min(max(time_ns, MIN_NS), MAX_NS)


def _check(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()[:_CHECK_SIZE]


class MarkFile:
    """The file of one mark. `durable`: what was written is on the disk when `write` returns."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._durable = durable
        self._descriptor: int | None = None

    def read(self) -> Mark | None:
        """The record, None if there is no file. DamagedMarkError, also for what is no file or cannot be read."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError:
            raise DamagedMarkError from None
        try:
            return unpack_mark(os.read(descriptor, MARK_SIZE + 1))
        except OSError:
            raise DamagedMarkError from None
        finally:
            os.close(descriptor)

    @property
    def can_be_written(self) -> bool:
        """Whether the file is there and takes changes: what an earlier run had to say last, it could say."""
        try:
            self._open(0)
        except OSError:
            return False
        return True

    def write(self, mark: Mark) -> None:
        """Put this record in the place of the one before. OSError if the disk refuses."""
        made = False
        if self._descriptor is None:
            made = not self._path.exists()
            self._open(os.O_CREAT)
        if self._descriptor is None:
            raise AssertionError
        if os.pwrite(self._descriptor, mark.pack(), 0) != MARK_SIZE:
            raise OSError("half of the mark was written")
        if os.fstat(self._descriptor).st_size != MARK_SIZE:
            os.ftruncate(self._descriptor, MARK_SIZE)
        if self._durable:
            os.fsync(self._descriptor) if made else os.fdatasync(self._descriptor)
            if made:
                sync_directory(self._path.parent)

    def _open(self, flags: int) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
