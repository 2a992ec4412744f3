"""What survives the server: replay memory, grants and history, in SQLite under `state_dir`.

`state.db` is written in WAL mode with `synchronous=FULL`: when `commit` returns, a power cut loses none of it (NORMAL
does, measured in docs/decisions/0004-state.md). One commit carries every knock that waited, so they share one sync. The
locking mode is exclusive: SQLite then keeps its index of the log in its own memory instead of a shared file, whose
mapping a full disk turns into a signal that kills the server.

SQLite passes over a log from its first bad checksum on, checks no page, and takes an empty file for a new database. So
each commit counts up and carries a digest over the whole replay memory, and the mark (`keeper.mark`), written after it
and before a door opens, says how far the database must reach. What falls short is a loss (`keeper.completeness`), after
which nothing opens that may have been accepted before.
"""

import hashlib
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from openme.errors import OpenmeError
from openme.keeper.completeness import Chain, Found, Loss, loss_in
from openme.keeper.digest import Row, SetDigest
from openme.keeper.mark import (
    ID_SIZE,
    MARK,
    MAX_COUNT,
    MAX_NS,
    NO_DIGEST,
    DamagedMarkError,
    Mark,
    MarkFile,
    within_64_bits,
)
from openme.keeper.replay import Remembered, ReplayMemory, Reset, Run
from openme.networks import IPNetwork
from openme.ports import PortRange, parse_port_spec
from openme.wire.knock import IPAddress, pack_address, unpack_address

DATABASE = "state.db"
COMPLETE = "complete"
"""An empty file that stood beside a whole database before there was a mark."""
_LIVED = (
    *("ratchet*", ".ratchet.old", "lock", "control", "files.json", "revoked*", "hidden_ports*"),
    *(f"{DATABASE}*", f"{MARK}*", COMPLETE),
)
_FORMAT = 2
_BEFORE_THE_MARK = 1
_PRIMARY_CODE = 0xFF  # sqlite.org/rescode.html: the low byte of an extended result code
_OF_THE_DISK = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
"""What is no damage: the database may be whole, and cannot be read or written now."""
_UNREADABLE = (ValueError, TypeError, OverflowError)
"""What Python makes of damage, as where SQLite's own complaint quotes a name that is no text any more."""
_READONLY = sqlite3.SQLITE_READONLY
_KEEP_HOLDERS = 30 * 86400.0  # seconds
MOST_HOLDERS = 1024
"""Addresses of one client that are remembered, for 30 days after their doors have closed: those that closed last.
What is open now is remembered however much it is.
"""
_NETWORK_SIZE = 16 + 1  # of a network in the database: first address, length of the prefix
_SHORTEST_REACH_NS = 60 * 10**9  # how far ahead a knock may have been dated, where no earlier window is known
_RUN = struct.Struct(">qq")
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE mark (client BLOB PRIMARY KEY, high_ns INTEGER NOT NULL, low_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE nonce (client BLOB NOT NULL, nonce BLOB NOT NULL, timestamp_ns INTEGER NOT NULL, source BLOB NOT NULL,
    PRIMARY KEY (client, nonce)) WITHOUT ROWID;
CREATE TABLE seen (client BLOB PRIMARY KEY, name TEXT NOT NULL, at REAL NOT NULL, source BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE holder (client BLOB NOT NULL, address BLOB NOT NULL, name TEXT NOT NULL, ports TEXT NOT NULL,
    opened_at REAL NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (client, address)) WITHOUT ROWID;
"""
# What version 2 added; a database that lacks it gets it.
_EPOCH_SCHEMA = """
CREATE TABLE IF NOT EXISTS ratchet (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL,
    public BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ratchet_next (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL,
    public BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivered (client BLOB PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
"""
# What the mark needs (format 2): the commits' chain, and where a client's signed times lie (`ReplayMemory.reset`).
_CHAIN_SCHEMA = """
CREATE TABLE chain (one INTEGER PRIMARY KEY CHECK (one = 1), store BLOB NOT NULL, count INTEGER NOT NULL,
    previous BLOB NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
ALTER TABLE mark ADD COLUMN runs BLOB NOT NULL DEFAULT x'';
ALTER TABLE mark ADD COLUMN shut BLOB NOT NULL DEFAULT x'';
"""


def beside(run_dir: Path, what: str, state_dir: Path) -> Path:
    """The file in `run_dir` that belongs to this `state_dir`."""
    return run_dir / f"{what}-{hashlib.sha256(bytes(state_dir.absolute())).hexdigest()[:16]}"


RatchetNote = tuple[int, bytes]
"""The oldest epoch that a ratchet has a key for, and that epoch's public key, 32 bytes."""


class StoreError(OpenmeError):
    """The disk would not take or give what it should."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The last accepted knock of a client: its name then, Unix seconds, where from."""

    name: str
    at: float
    source: IPAddress


@dataclass(frozen=True, slots=True)
class Holder:
    """Who was given a door for `address`, and to which ports. With a `network` it was for all of that, `address` is its
    first, and `knocked_for` the one that the last knock was for.

    A restart learns from it whose the doors in the kernel are, and `--cut` which connections are whose.
    """

    client_key: bytes
    address: IPAddress
    client_name: str
    ports: tuple[PortRange, ...]
    opened_at: float
    expires_at: float
    network: IPNetwork | None = None
    knocked_for: IPAddress | None = None

    @property
    def named(self) -> IPAddress:
        """The address that the last knock was for."""
        return self.address if self.knocked_for is None else self.knocked_for


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted knock as it goes to the disk: the replay memory's part and, unless policy refused it, the grant's."""

    remembered: Remembered
    client_name: str
    at: float
    holder: Holder | None


def has_lived(state_dir: Path) -> bool:
    """Whether anything in `state_dir` shows that a server has run on it, or that one was prepared."""
    return any(next(state_dir.glob(pattern), None) is not None for pattern in _LIVED)


def make_memory(state_dir: Path) -> None:
    """Make an empty replay memory for a new server: database and mark, 0600. OpenmeError if the disk refuses.

    Without one a server takes what it finds for the rest of an earlier one, whose knocks it does not know.
    """
    mark = Mark(os.urandom(ID_SIZE), 0, 0, SetDigest().value)
    file = MarkFile(state_dir / MARK)
    try:
        file.write(mark)  # first: a mark that counts nothing needs no database, and a database needs its mark
        _connect(state_dir / DATABASE, mark.store_id)[0].close()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{state_dir}: the replay memory cannot be made: {error}") from None
    finally:
        file.close()


def unmake_memory(state_dir: Path) -> None:
    """Take away what `make_memory` has just made, where what it was for has failed."""
    for name in (DATABASE, f"{DATABASE}-wal", MARK):
        with suppress(OSError):
            (state_dir / name).unlink()


class Store:
    """The database of one running server. Not for two processes at once: `server.start` holds a lock."""

    def __init__(self, state_dir: Path, run_dir: Path | None = None) -> None:
        """Open the database and see whether it is all that was ever accepted.

        A disk that will not have it locks nobody out: the server then decides from memory alone, and says so.
        `run_dir` takes what only a restart of the machine may lose. StoreError only for a database of a newer openme.
        """
        self._directory = state_dir
        self._mark_file = MarkFile(state_dir / MARK)
        self._run_file = None if run_dir is None else MarkFile(beside(run_dir, "newest", state_dir), durable=False)
        self._waiting: list[Accepted] = []
        self._waiting_floor_ns: int | None = None
        self._waiting_renewals: dict[bytes, int] = {}
        self._on_disk = True
        self._digest = SetDigest()
        self.damage: str | None = None
        """What was wrong with an earlier database, set aside; None when it was whole."""
        self.failing: str | None = None
        """Why the last write failed; None when what was accepted is on the disk."""
        mark, mark_fault = _read_mark(self._mark_file)
        run = None if self._run_file is None else _read_mark(self._run_file)[0]
        writable = mark is None or self._mark_file.can_be_written
        self._is_new = False
        self._connection = self._open_or_replace(state_dir / DATABASE, mark)
        fault = self._why_unusable()
        chain = _chain(self._connection) if fault is None and not self._is_new else None
        if mark is None and not mark_fault and chain is not None and chain.count == 0 and self._was_complete_before():
            # Made from a database of the time before the mark, by this start or by one that ended here.
            mark = Mark(chain.store_id, 0, 0, chain.digest)
        self._store_id = (mark or _chain(self._connection)).store_id
        self._loss = loss_in(Found(chain, fault, mark, mark_fault, writable, run))
        marks = [found for found in (mark, run) if found is not None]
        self._count = max([0 if chain is None else chain.count, *(found.count for found in marks)])
        self._newest_ns = max(0, self._highest(), *(found.newest_ns for found in marks))
        # After a loss the next commit has an id of its own, so that no older copy of any file fits to what comes.
        self._next_id = self._store_id if self._loss is None else os.urandom(ID_SIZE)
        if mark_fault:
            self._set_mark_aside()

    def _why_unusable(self) -> str | None:
        return self.damage or self.failing

    def _was_complete_before(self) -> bool:
        return (self._directory / COMPLETE).is_file()

    def _highest(self) -> int:
        """The youngest time that the database knows of, and below the floor all may have been accepted."""
        rows = [
            *self._connection.execute("SELECT max(high_ns) FROM mark"),
            *self._connection.execute("SELECT max(timestamp_ns) FROM nonce"),
            *((floor - 1,) for (floor,) in self._connection.execute("SELECT value FROM meta WHERE key = 'floor_ns'")),
        ]
        return max(value if isinstance(value, int) else 0 for (value,) in rows) if rows else 0

    def _set_mark_aside(self) -> None:
        """Make room for a mark; what lies in its place may be a directory."""
        path = self._directory / MARK
        with suppress(OSError):
            path.rename(_aside(path))

    def _open_or_replace(self, path: Path, mark: Mark | None) -> sqlite3.Connection:
        # A mark that counts nothing was made for the database that is to come.
        store_id = mark.store_id if mark is not None and mark.count == 0 else os.urandom(ID_SIZE)
        try:
            return self._opened(path, store_id, mark)
        except (sqlite3.Error, *_UNREADABLE) as error:
            code = int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & _PRIMARY_CODE
            if code in _OF_THE_DISK and not path.is_dir() and not (code == _READONLY and _takes_changes(path)):
                return self._without_disk(path, error)
            # A flipped bit may also show as a table that is not there, or a word that is none.
            self.damage = str(error) if isinstance(error, sqlite3.Error) else "the database is damaged"
        try:
            for suffix in ("", "-wal", "-shm"):
                source = path.with_name(path.name + suffix)
                with suppress(FileNotFoundError):
                    source.rename(_aside(path).with_name(_aside(path).name + suffix))
            return self._opened(path, os.urandom(ID_SIZE), mark)
        except (OSError, sqlite3.Error) as error:
            return self._without_disk(path, error)

    def _opened(self, path: Path, store_id: bytes, mark: Mark | None) -> sqlite3.Connection:
        connection, self._is_new = _connect(path, store_id, mark_is_ours=mark is not None)
        try:
            self._digest = _verified_digest(connection)
            # A flipped bit in its head makes it one that is for reading only, which shows when something is written.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE chain SET count = count")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _without_disk(self, path: Path, error: Exception) -> sqlite3.Connection:
        self.failing = f"{path}: {error}"
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _make_tables(connection, os.urandom(ID_SIZE))
        self._digest = SetDigest()
        self._on_disk = self._is_new = False
        return connection

    def load(self, window_ns: int, now_ns: int) -> ReplayMemory:
        """The replay memory as it was stored; `now_ns` is the Unix time of this start in nanoseconds.

        If knocks may be missing from it, a floor is set, which holds from then on: above the newest time that was ever
        accepted where that is known, and otherwise above what may have been dated ahead by this clock.
        """
        now_ns = within_64_bits(now_ns)
        floor_ns: int | None
        if self._loss is not None:
            floor_ns = self._floor_after(self._loss, window_ns, now_ns)
            self._newest_ns = max(self._newest_ns, floor_ns - 1)
            self._waiting_floor_ns = floor_ns
            self._transaction(self._write_waiting)
        else:
            floor_ns = self._stored_floor()
            self._write_marks()
        memory = ReplayMemory(window_ns, floor_ns)
        memory.load(
            (
                (client, high_ns, low_ns, _unpack_runs(runs), _unpack_runs(shut))
                for client, high_ns, low_ns, runs, shut in self._connection.execute(_MARKS)
            ),
            (
                (client, timestamp_ns, nonce, unpack_address(source))
                for client, nonce, timestamp_ns, source in self._connection.execute(_NONCES)
            ),
        )
        return memory

    def _stored_floor(self) -> int | None:
        for (floor_ns,) in self._connection.execute("SELECT value FROM meta WHERE key = 'floor_ns'"):
            return int(floor_ns)
        return None

    def _floor_after(self, loss: Loss, window_ns: int, now_ns: int) -> int:
        above_newest_ns = self._newest_ns + 1
        if loss.bound == "run":
            return within_64_bits(above_newest_ns)
        if loss.bound == "mark":
            # Should the mark be an older copy: what was signed before this start may have been accepted since.
            return within_64_bits(max(above_newest_ns, now_ns))
        return within_64_bits(max(above_newest_ns, now_ns + max(window_ns, _SHORTEST_REACH_NS)))

    def reset(self, resets: Iterable[Reset], floor_ns: int | None) -> None:
        """Store what `ReplayMemory.reset` has done, and the floor. StoreError if the disk refuses: it is not durable.

        A disk that refuses now takes it with the next knock.
        """
        resets = list(resets)

        def write() -> None:
            self._write_waiting()
            for each in resets:
                self._write_reset(each)
            if floor_ns is not None:
                self._write_floor(floor_ns)

        self._transaction(write)
        if self.failing is not None:
            raise StoreError(f"the replay memory cannot be written: {self.failing}")

    @property
    def was_complete(self) -> bool:
        """Whether the database was known to hold every accepted knock when it was opened."""
        return self._loss is None

    @property
    def loss(self) -> str | None:
        """What was lost, for the operator; None if nothing was."""
        return None if self._loss is None else self._loss.reason

    def commit(self, accepted: Iterable[Accepted]) -> None:
        """Write knocks durably: when this returns and `failing` is None, a power cut loses none of them.

        A disk that refuses locks nobody out. What could not be written is kept and tried again with the next knock,
        and until then the mark says that the database falls short.
        """
        accepted = list(accepted)
        self._newest_ns = max([self._newest_ns, *(knock.remembered.timestamp_ns for knock in accepted)])
        self._waiting.extend(accepted)
        if self._waiting or self._waiting_floor_ns is not None or self._waiting_renewals:
            self._transaction(self._write_waiting)

    def renew(self, client_key: bytes, last: int) -> None:
        """A client has fetched keys up to epoch `last`; written with the next commit."""
        self._waiting_renewals[client_key] = last

    def _transaction(self, write: Callable[[], None]) -> None:
        """One commit: rows, their chain, then the marks."""
        before, self._digest = self._digest, self._digest.copy()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            write()
            self._connection.execute(
                "UPDATE chain SET store = ?, count = ?, previous = ?, digest = ?",
                (self._next_id, self._count + 1, before.value, self._digest.value),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._digest = before
            self._fall_short(str(error))
            return
        self._waiting.clear()
        self._waiting_renewals.clear()
        self._waiting_floor_ns = None
        if not self._on_disk:
            self._fall_short(self.failing or "")
            return
        self._count += 1
        self._store_id = self._next_id
        self.failing = None
        self._write_marks()

    def _write_marks(self) -> None:
        """The database is on the disk up to here, and so must be what says so before a door opens."""
        mark = Mark(self._store_id, self._count, self._newest_ns, self._digest.value)
        try:
            self._mark_file.write(mark)
            # What this server is told by from now on; in a database of the time before the mark.
            (self._directory / COMPLETE).unlink(missing_ok=True)
        except OSError as error:
            self.failing = f"{self._directory / MARK}: {error.strerror or error}"
        self._write_run_file(mark)

    def _fall_short(self, reason: str) -> None:
        """Knocks are accepted that the database does not hold: no digest fits, and the count is beyond it."""
        self.failing = reason
        mark = Mark(self._store_id, self._count + 1, self._newest_ns, NO_DIGEST)
        # A disk gone read-only keeps even its marks. Until the machine starts anew, the other place has it.
        with suppress(OSError):
            self._mark_file.write(mark)
        self._write_run_file(mark)

    def _write_run_file(self, mark: Mark) -> None:
        if self._run_file is not None:
            with suppress(OSError):
                self._run_file.write(mark)

    def _write_waiting(self) -> None:
        if self._waiting_floor_ns is not None:
            self._write_floor(self._waiting_floor_ns)
        for knock in self._waiting:
            self._write(knock)
        for row in self._waiting_renewals.items():
            self._connection.execute("INSERT OR REPLACE INTO delivered VALUES (?, ?)", row)

    def _write_floor(self, floor_ns: int) -> None:
        for (before,) in self._connection.execute("SELECT value FROM meta WHERE key = 'floor_ns'").fetchall():
            self._digest.remove(("meta", "floor_ns", before))
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('floor_ns', ?)", (floor_ns,))
        self._digest.add(("meta", "floor_ns", floor_ns))

    def _put_mark(self, *row: object) -> None:
        """(client, H, low, runs, shut) in the place of what stands there for this client."""
        for before in self._connection.execute(f"{_MARKS} WHERE client = ?", row[:1]).fetchall():
            self._digest.remove(("mark", *before))
        self._connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?)", row)
        self._digest.add(("mark", *row))

    def _drop_nonces(self, client: bytes, before_ns: int, nonce: bytes = b"") -> None:
        """Those of this client that are older, and the one that is about to come, should it be there."""
        which = (client, before_ns, nonce)
        rows = self._connection.execute(
            f"{_NONCES} WHERE client = ? AND (timestamp_ns < ? OR nonce = ?)", which
        ).fetchall()
        for row in rows:
            self._digest.remove(("nonce", *row))
        if rows:
            self._connection.execute("DELETE FROM nonce WHERE client = ? AND (timestamp_ns < ? OR nonce = ?)", which)

    def _write_reset(self, done: Reset) -> None:
        self._put_mark(done.client_key, done.low_ns, done.low_ns, _pack_runs(done.runs), _pack_runs(done.shut))
        self._drop_nonces(done.client_key, MAX_NS)

    def _write(self, knock: Accepted) -> None:
        part = knock.remembered
        execute = self._connection.execute
        key, low_ns = part.client_key, within_64_bits(part.low_ns)
        high_ns, shut = part.timestamp_ns, b""
        for before in execute("SELECT high_ns, low_ns, shut FROM mark WHERE client = ?", (key,)).fetchall():
            high_ns, low_ns, shut = max(high_ns, before[0]), max(low_ns, before[1]), before[2]
        self._put_mark(key, high_ns, low_ns, _pack_runs(part.runs), shut)
        self._drop_nonces(key, low_ns, part.nonce)
        source = pack_address(part.source)
        row = (key, part.nonce, part.timestamp_ns, source)
        execute("INSERT INTO nonce (client, nonce, timestamp_ns, source) VALUES (?, ?, ?, ?)", row)
        self._digest.add(("nonce", *row))
        execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (part.client_key, knock.client_name, knock.at, source)
        )
        if (holder := knock.holder) is not None:
            execute("DELETE FROM holder WHERE expires_at < ?", (knock.at - _KEEP_HOLDERS,))
            place = _pack_place(holder)
            if holder.network is not None:  # one row a network, whichever of its addresses was knocked for
                same = holder.client_key, _NETWORK_SIZE, place[:_NETWORK_SIZE]
                execute("DELETE FROM holder WHERE client = ? AND substr(address, 1, ?) = ?", same)
            execute(
                "INSERT OR REPLACE INTO holder VALUES (?, ?, ?, ?, ?, ?)",
                (
                    holder.client_key,
                    place,
                    holder.client_name,
                    " ".join(map(str, holder.ports)),
                    holder.opened_at,
                    holder.expires_at,
                ),
            )
            # The plus keeps the sorted list from being made where nothing has closed.
            execute(
                "DELETE FROM holder WHERE client = ?1 AND expires_at < ?2"
                " AND (SELECT count(*) FROM holder WHERE client = ?1) > ?3 AND +address IN"
                " (SELECT address FROM holder WHERE client = ?1 ORDER BY expires_at DESC LIMIT -1 OFFSET ?3)",
                (holder.client_key, knock.at, MOST_HOLDERS),
            )

    def forget_renewals(self) -> None:
        """There is a new ratchet: what clients carry belongs to the old one."""
        self._waiting_renewals.clear()
        with suppress(sqlite3.Error):
            self._connection.execute("DELETE FROM delivered")

    def ratchet_seen(self) -> tuple[RatchetNote | None, RatchetNote | None]:
        """The ratchet as it was last known, and as it was about to be written when this server ended."""
        last, intended = (
            next(_readable(self._connection.execute(f"SELECT epoch, public FROM {table}"), _note), None)  # noqa: S608
            for table in ("ratchet", "ratchet_next")
        )
        return last, intended

    def intend_ratchet(self, epoch: int, public: bytes) -> None:
        """The ratchet file is about to begin with this epoch: whichever of the two is found is the right one."""
        with suppress(sqlite3.Error):
            self._connection.execute("INSERT OR REPLACE INTO ratchet_next VALUES (1, ?, ?)", (epoch, public))

    def note_ratchet(self, epoch: int, public: bytes) -> None:
        """Remember the ratchet, so that a file that is lost or older is noticed. A disk that refuses loses the note."""
        with suppress(sqlite3.Error):
            self._connection.execute("INSERT OR REPLACE INTO ratchet VALUES (1, ?, ?)", (epoch, public))
            self._connection.execute("DELETE FROM ratchet_next")

    def holders(self) -> list[Holder]:
        """Everybody who was given a door in the last 30 days: of each client the last `MOST_HOLDERS` addresses."""
        return self._holders("")

    def holders_of(self, client_key: bytes) -> list[Holder]:
        """The addresses that one client was given a door for, as `holders` has them, and what waits for the disk.

        StoreError where the disk does not give them.
        """
        waiting = [knock.holder for knock in self._waiting if knock.holder is not None]
        return self._holders(" WHERE client = ?", client_key) + [h for h in waiting if h.client_key == client_key]

    def holder_keys(self) -> list[bytes]:
        """The public keys of those whom `holders` names."""
        return [client for (client,) in self._rows("SELECT DISTINCT client FROM holder")]

    def _holders(self, which: str, *values: bytes) -> list[Holder]:
        rows = self._rows(
            f"SELECT client, address, name, ports, opened_at, expires_at FROM holder{which}",  # noqa: S608  # ours
            *values,
        )
        return list(_readable(rows, _holder))

    def _rows(self, query: str, *values: bytes | int) -> list[Any]:
        """All rows, or StoreError: the database was whole when it was opened, but a disk may fail at any time."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                f"the database of {self._directory} cannot be read ({error})", "restart the server: it sets it aside"
            ) from None

    def seen(self) -> dict[bytes, Seen]:
        """The last accepted knock of every client, by public key. StoreError where the disk does not give them."""
        return dict(_readable(self._rows(_SEEN), _seen))

    def seen_in_parts(self, most: int) -> Iterator[dict[bytes, Seen]]:
        """The same, at most so many clients at a time, in the order of their keys. StoreError as above."""
        last = b""
        while rows := self._rows(f"{_SEEN} WHERE client > ? ORDER BY client LIMIT ?", last, most):
            last = rows[-1][0]
            yield dict(_readable(rows, _seen))

    def renewals(self) -> dict[bytes, int]:
        """The last epoch whose key a client has fetched with a receipt, by 32-byte public key. StoreError as above."""
        return dict(_readable(self._rows(_RENEWED), _renewed)) | self._waiting_renewals

    def close(self) -> None:
        """Write what waits, if the disk lets us, and close."""
        self.commit(())
        self._mark_file.close()
        if self._run_file is not None:
            self._run_file.close()
        with suppress(sqlite3.Error):
            self._connection.close()


_MARKS = "SELECT client, high_ns, low_ns, runs, shut FROM mark"
_NONCES = "SELECT client, nonce, timestamp_ns, source FROM nonce"
_META = "SELECT key, value FROM meta"


def _read_mark(file: MarkFile) -> tuple[Mark | None, bool]:
    """The mark, and whether something else lies in its place."""
    try:
        return file.read(), False
    except DamagedMarkError:
        return None, True


def _takes_changes(path: Path) -> bool:
    """Whether the file system lets the file be written."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _aside(path: Path) -> Path:
    """Where something that cannot be used is kept; two within one second get names of their own."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    return kept


def _connect(path: Path, store_id: bytes, *, mark_is_ours: bool = False) -> tuple[sqlite3.Connection, bool]:
    """Open the database, and whether there was none and it was made, with this id; sqlite3.Error, StoreError."""
    previous = os.umask(0o077)
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
    finally:
        os.umask(previous)
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the log is first touched
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        is_new = _check(connection, path, store_id, mark_is_ours=mark_is_ours)
    except BaseException:
        connection.close()
        raise
    return connection, is_new


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _check(connection: sqlite3.Connection, path: Path, store_id: bytes, *, mark_is_ours: bool) -> bool:
    """Make the tables of a new database, and whether it is one.

    sqlite3.DatabaseError if an old one is damaged, StoreError if it is newer: then the mark is another one, too.
    """
    if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
        raise _damaged("the database is damaged")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise _damaged("the database is damaged")
        _make_tables(connection, store_id)
    elif version == _BEFORE_THE_MARK:
        connection.executescript(_EPOCH_SCHEMA)
        _add_chain(connection, store_id)
    elif version != _FORMAT and mark_is_ours:
        raise _damaged("the database is damaged")
    elif version != _FORMAT:
        raise StoreError(f"{path}: made by a newer openme (format {version})", "start that version instead")
    connection.executescript(_EPOCH_SCHEMA)
    # A flipped bit in the name of a column would show when that is asked for, which may be in the midst of serving.
    if not _expected_columns() <= _columns(connection):
        raise _damaged("the database is damaged")
    return bool(version == 0)


def _columns(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """(table, column, type, not null, place in the primary key) of every column."""
    return set(
        connection.execute(
            'SELECT m.name, t.name, t.type, t."notnull", t.pk FROM sqlite_master AS m, pragma_table_info(m.name) AS t'
        )
    )


def _expected_columns() -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _make_tables(connection, NO_DIGEST)
        return _columns(connection)


def _damaged(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _make_tables(connection: sqlite3.Connection, store_id: bytes) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in f"{_SCHEMA}{_EPOCH_SCHEMA}".split(";"):
        connection.execute(statement)
    _add_chain(connection, store_id)


def _add_chain(connection: sqlite3.Connection, store_id: bytes) -> None:
    """Bring a database of the time before the mark to this format, in one step; its rows are as they were."""
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    for statement in _CHAIN_SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO chain VALUES (1, ?, 0, ?, ?)", (store_id, NO_DIGEST, SetDigest(_rows(connection)).value)
    )
    connection.execute(f"PRAGMA user_version={_FORMAT}")
    connection.execute("COMMIT")


def _rows(connection: sqlite3.Connection) -> Iterable[Row]:
    """All that decides whether a knock is new."""
    for table, query in (("mark", _MARKS), ("nonce", _NONCES), ("meta", _META)):
        for row in connection.execute(query):
            yield (table, *row)


def _verified_digest(connection: sqlite3.Connection) -> SetDigest:
    """The digest over the rows, which is the one stored with them; sqlite3.DatabaseError if it is another."""
    digest = SetDigest(_rows(connection))
    row = connection.execute("SELECT digest, store, count, previous FROM chain").fetchone()
    if row is None or row[0] != digest.value or list(map(type, row[1:])) != [bytes, int, bytes]:
        raise _damaged("its rows do not belong together")
    if len(row[1]) != ID_SIZE or not 0 <= row[2] < MAX_COUNT:
        raise _damaged("its rows do not belong together")
    return digest


def _chain(connection: sqlite3.Connection) -> Chain:
    """What the database says of itself."""
    return Chain(*connection.execute("SELECT store, count, previous, digest FROM chain").fetchone())


def _pack_runs(runs: Iterable[Run]) -> bytes:
    return b"".join(_RUN.pack(within_64_bits(first), within_64_bits(last)) for first, last in runs)


def _unpack_runs(raw: bytes) -> tuple[Run, ...]:
    return tuple((first, last) for first, last in _RUN.iter_unpack(raw))


_SEEN = "SELECT client, name, at, source FROM seen"
_RENEWED = "SELECT client, last FROM delivered"
_Made = TypeVar("_Made")


def _readable(rows: Iterable[Any], make: Callable[[Any], _Made]) -> Iterator[_Made]:
    """What can be made of the rows. No digest is over these: a flipped bit may cost one, not the start."""
    for row in rows:
        with suppress(ValueError, TypeError):
            yield make(row)


def _seen(row: tuple[Any, ...]) -> tuple[bytes, Seen]:
    client, name, at, source = row
    return _key(client), Seen(str(name), float(at), unpack_address(source))


def _holder(row: tuple[Any, ...]) -> Holder:
    client, place, name, ports, opened_at, expires_at = row
    address, network, knocked_for = _unpack_place(_key(place))
    times = float(opened_at), float(expires_at)
    return Holder(_key(client), address, str(name), _ports(ports), *times, network, knocked_for)


def _pack_place(holder: Holder) -> bytes:
    """16 bytes for an address. A network: its first address, the prefix's length, and the address knocked for.

    What does not know networks, as an earlier openme, finds no address in it and passes it over.
    """
    place = pack_address(holder.address)
    if holder.network is None:
        return place
    return place + bytes([holder.network.prefixlen]) + pack_address(holder.named)


def _unpack_place(place: bytes) -> tuple[IPAddress, IPNetwork | None, IPAddress | None]:
    """Address, network and address knocked for of `_pack_place`. ValueError for anything else."""
    if len(place) < _NETWORK_SIZE:
        return unpack_address(place), None, None
    first, named = unpack_address(place[: _NETWORK_SIZE - 1]), unpack_address(place[_NETWORK_SIZE:])
    network = ip_network((first, place[_NETWORK_SIZE - 1]))
    if named not in network:
        raise ValueError("an address outside its network")
    return first, network, named


def _renewed(row: tuple[Any, ...]) -> tuple[bytes, int]:
    client, last = row
    if type(last) is not int:
        raise TypeError("not an epoch")
    return _key(client), last


def _note(row: tuple[Any, ...]) -> RatchetNote:
    epoch, public = row
    if type(epoch) is not int:
        raise TypeError("not an epoch")
    return epoch, _key(public)


def _key(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not a key")
    return value


def _ports(text: str) -> tuple[PortRange, ...]:
    return tuple(item for spec in text.split() for item in parse_port_spec(spec))


# -- for commands, while no server runs: a running one keeps the database to itself, and is asked (`server.stored`)


def read_seen(state_dir: Path) -> dict[bytes, Seen]:
    """The last accepted knock of every client; empty if there is none yet."""
    return dict(_readable(_read(state_dir, _SEEN), _seen))


def read_renewals(state_dir: Path) -> dict[bytes, int]:
    """The last epoch whose key a client was given with a receipt, by 32-byte public key."""
    return dict(_readable(_read(state_dir, _RENEWED), _renewed))


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
            connection.text_factory = _text
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            return connection.execute(query, values).fetchall()
    except (sqlite3.Error, *_UNREADABLE):
        return []
