"""What survives the server: replay memory, grants and history, in SQLite under `state_dir`.

`state.db` is written in WAL mode with `synchronous=FULL`: when `claim` has answered, a power cut loses none of it
(NORMAL does, measured in docs/decisions/0004-state.md). One commit carries every knock that waited, so they share one
sync. The locking mode is exclusive: SQLite then keeps its index of the log in its own memory instead of a shared file,
whose mapping a full disk turns into a signal that kills the server.

SQLite passes over a log from its first bad checksum on, checks no page, and takes an empty file for a new database. So
each commit counts up and carries a digest over the whole replay memory, and the mark (`store.mark`), written after it
and before a door opens, says how far the database must reach. What falls short is a loss (`store.completeness`), after
which nothing opens that may have been accepted before.
"""

import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openme.reasons import Reason
from openme.store.base import FIRST, Answer, Claim, Holder, RatchetNote, Reset, Run, Seen, StoreError, Unavailable
from openme.store.completeness import Chain, Found, Loss, loss_in
from openme.store.digest import Row, SetDigest
from openme.store.mark import (
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
from openme.store.places import COMPLETE, DATABASE, beside
from openme.store.replay import Remembered, ReplayMemory
from openme.store.rows import (
    NETWORK_SIZE,
    RENEWED,
    SEEN,
    holder_of,
    note_of,
    pack_place,
    readable,
    renewal_of,
    seen_of,
    text_of,
)
from openme.wire.knock import pack_address, unpack_address

if TYPE_CHECKING:
    from openme.store.base import Outcome

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
"""Addresses of one client that are remembered, for 30 days after their doors have closed: those that closed last, and a
few more, since they are not counted at every knock. What is open now is remembered however much it is.
"""
_OVER_MOST = 16  # of one client as many more as a sixteenth may be there
_MARK_ROWS = 4096  # clients
_OLD_HOLDERS_INTERVAL = 3600.0  # seconds between two looks for what is older than 30 days
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


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A claim that is the first, as it goes to the disk."""

    remembered: Remembered
    claim: Claim


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


class SqliteStore:
    """The database of one running server. Not for two processes at once: `server.start` holds a lock."""

    def __init__(self, state_dir: Path, run_dir: Path | None = None) -> None:
        """Open the database and see whether it is all that was ever accepted.

        A disk that will not have it locks nobody out: the server then decides from memory alone, and says so.
        `run_dir` takes what only a restart of the machine may lose. StoreError only for a database of a newer openme.
        """
        self._directory = state_dir
        self._mark_file = MarkFile(state_dir / MARK)
        self._run_file = None if run_dir is None else MarkFile(beside(run_dir, "newest", state_dir), durable=False)
        self._memory: ReplayMemory | None = None
        self._waiting: list[_Accepted] = []
        self._waiting_floor_ns: int | None = None
        self._waiting_renewals: dict[bytes, int] = {}
        self._on_disk = True
        self._is_told_by_mark = False
        """Whether nothing but the mark says any longer that the database is whole."""
        self._reset_failed = False
        """Whether the database may have nonces that the memory has not, after a reset that could not be written."""
        self._digest = SetDigest()
        self._mark_rows: dict[bytes, tuple[object, ...]] = {}
        """Of clients that have knocked lately, what stands in the table `mark`."""
        self._looked_for_old: float | None = None
        self._holders_since: dict[bytes, int] = {}
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

    def load(self, window_ns: int, now_ns: int) -> None:
        """See `Store.load`. The floor, where one is needed, is above the newest time that was ever accepted if that is
        known, and otherwise above what may have been dated ahead by this clock.
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
                for client, high_ns, low_ns, runs, shut in self._connection.execute(_CLIENT_TIMES)
            ),
            (
                (client, timestamp_ns, nonce, unpack_address(source))
                for client, nonce, timestamp_ns, source in self._connection.execute(_NONCES)
            ),
        )
        self._memory = memory

    @property
    def floor_ns(self) -> int | None:
        """See `Store.floor_ns`."""
        return None if self._memory is None else self._memory.floor_ns

    def set_window(self, window_ns: int) -> None:
        """See `Store.set_window`."""
        if self._memory is not None:
            self._memory.set_window(window_ns)

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

    def reset(self, client_key: bytes, now_ns: int) -> Reset | None:
        """See `Store.reset`. A disk that refuses now takes what waits with the next knock, but not this."""
        done = None if self._memory is None else self._memory.reset(client_key, now_ns)
        if done is not None:
            self._store_resets([done], None)
        return done

    def reset_all(self, now_ns: int) -> list[Reset]:
        """See `Store.reset_all`."""
        if self._memory is None:
            return []
        done = self._memory.reset_all(now_ns)
        self._store_resets(done, self._memory.floor_ns)
        return done

    def _store_resets(self, resets: list[Reset], floor_ns: int | None) -> None:
        def write() -> None:
            self._write_waiting()
            for each in resets:
                self._write_reset(each)
            if floor_ns is not None:
                self._write_floor(floor_ns)

        self._transaction(write)
        if self.failing is not None:
            self._reset_failed = True
            raise StoreError(f"the replay memory cannot be written: {self.failing}")

    @property
    def was_complete(self) -> bool:
        """Whether the database was known to hold every accepted knock when it was opened."""
        return self._loss is None

    @property
    def loss(self) -> str | None:
        """What was lost, for the operator; None if nothing was."""
        return None if self._loss is None else self._loss.reason

    def claim(self, claims: Sequence[Claim], answer: Answer) -> None:
        """See `Store.claim`; the answer comes before this returns, and on the disk is what it says, unless `failing`.

        A disk that refuses locks nobody out: what is the first by memory is the first. What could not be written is
        kept and tried again with the next knock, and until then the mark says that the database falls short.
        """
        memory = self._memory
        if memory is None:
            answer([Unavailable(Reason.UNAVAILABLE)] * len(claims))
            return
        outcomes: list[Outcome] = []
        for claim in claims:
            found = memory.accept(claim.client_key, claim.knock, claim.source)
            if isinstance(found, Remembered):
                self._waiting.append(_Accepted(found, claim))
                self._newest_ns = max(self._newest_ns, found.timestamp_ns)
                outcomes.append(FIRST)
            else:
                outcomes.append(found)
        if FIRST in outcomes:
            self.flush()
        answer(outcomes)

    def flush(self) -> None:
        """See `Store.flush`."""
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
            self._mark_rows.clear()
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
            if not self._is_told_by_mark:
                # It was by this, in a database of the time before the mark.
                (self._directory / COMPLETE).unlink(missing_ok=True)
                self._is_told_by_mark = True
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
        if self._waiting:
            self._write_accepted(self._waiting)
        renewals = self._waiting_renewals.items()
        self._connection.executemany("INSERT OR REPLACE INTO delivered VALUES (?, ?)", renewals)

    def _write_floor(self, floor_ns: int) -> None:
        for (before,) in self._connection.execute("SELECT value FROM meta WHERE key = 'floor_ns'").fetchall():
            self._digest.remove(("meta", "floor_ns", before))
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('floor_ns', ?)", (floor_ns,))
        self._digest.add(("meta", "floor_ns", floor_ns))

    def _mark_row(self, client: bytes) -> tuple[Any, ...] | None:
        """(client, H, low, runs, shut) as it stands there for this client."""
        row: tuple[Any, ...] | None = self._mark_rows.get(client)
        if row is None:
            row = self._connection.execute(f"{_CLIENT_TIMES} WHERE client = ?", (client,)).fetchone()
        return row

    def _put_mark(self, client: bytes, before: tuple[Any, ...] | None, row: tuple[object, ...]) -> None:
        """A row of this client's in the place of the one that stands there."""
        if before is not None:
            self._digest.remove(("mark", *before))
        self._connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?)", row)
        self._digest.add(("mark", *row))
        if len(self._mark_rows) >= _MARK_ROWS:
            self._mark_rows.clear()
        self._mark_rows[client] = row

    def _drop_nonces(self, client: bytes, before_ns: int) -> None:
        """Those of this client that are older."""
        which = (client, before_ns)
        rows = self._connection.execute(f"{_NONCES} WHERE client = ? AND timestamp_ns < ?", which).fetchall()
        for row in rows:
            self._digest.remove(("nonce", *row))
        if rows:
            self._connection.execute("DELETE FROM nonce WHERE client = ? AND timestamp_ns < ?", which)

    def _write_reset(self, done: Reset) -> None:
        row = (done.client_key, done.low_ns, done.low_ns, _pack_runs(done.runs), _pack_runs(done.shut))
        self._put_mark(done.client_key, self._mark_row(done.client_key), row)
        self._drop_nonces(done.client_key, MAX_NS)

    def _write_accepted(self, knocks: list["_Accepted"]) -> None:
        """These knocks, in the order in which they were accepted: one row a client of its times, whatever it sent."""
        by_client: dict[bytes, list[_Accepted]] = {}
        for knock in knocks:
            by_client.setdefault(knock.remembered.client_key, []).append(knock)
        nonces: dict[tuple[bytes, bytes], tuple[object, ...]] = {}
        for key, own in by_client.items():
            low_ns = self._write_mark_of(key, [knock.remembered for knock in own])
            if any(knock.remembered.lets_go for knock in own):
                self._drop_nonces(key, low_ns)
            for knock in own:
                part = knock.remembered
                if part.timestamp_ns >= low_ns:
                    nonces[key, part.nonce] = (key, part.nonce, part.timestamp_ns, pack_address(part.source))
        self._put_nonces(nonces)
        # What policy refuses is used up, and is no knock that let anybody in.
        last = {knock.claim.client_key: knock for knock in knocks if knock.claim.holder is not None}
        self._connection.executemany(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
            [
                (k.claim.client_key, k.claim.client_name, k.claim.at, pack_address(k.claim.source))
                for k in last.values()
            ],
        )
        held = [(knock.claim.holder, knock.claim.at) for knock in knocks if knock.claim.holder is not None]
        if held:
            self._write_holders([holder for holder, _ in held], held[-1][1])

    def _write_mark_of(self, key: bytes, parts: list[Remembered]) -> int:
        """What follows for this client's times; below which time everything is refused."""
        low_ns = max(within_64_bits(part.low_ns) for part in parts)
        high_ns, shut = max(part.timestamp_ns for part in parts), b""
        before = self._mark_row(key)
        if before is not None:
            high_ns, low_ns, shut = max(high_ns, before[1]), max(low_ns, before[2]), before[4]
        self._put_mark(key, before, (key, high_ns, low_ns, _pack_runs(parts[-1].runs), shut))
        return low_ns

    def _put_nonces(self, nonces: dict[tuple[bytes, bytes], tuple[object, ...]]) -> None:
        """Rows of nonces by client and nonce, in the place of what stands there."""
        execute, digest = self._connection.execute, self._digest
        # Where memory and database are at one a nonce that is the first is not there.
        for name in nonces if self._reset_failed else ():
            for row in execute(f"{_NONCES} WHERE client = ? AND nonce = ?", name).fetchall():
                digest.remove(("nonce", *row))
        self._connection.executemany(
            "INSERT OR REPLACE INTO nonce (client, nonce, timestamp_ns, source) VALUES (?, ?, ?, ?)", nonces.values()
        )
        for row in nonces.values():
            digest.add(("nonce", *row))

    def _write_holders(self, holders: list[Holder], at: float) -> None:
        """Who is given doors, at this Unix time; and now and then the end of what is remembered of earlier ones."""
        execute = self._connection.execute
        rows: dict[tuple[bytes, bytes], tuple[object, ...]] = {}
        for holder in holders:
            key, place = holder.client_key, pack_place(holder)
            same = place[:NETWORK_SIZE]  # one row a network, whichever of its addresses was knocked for
            if holder.network is not None:
                execute("DELETE FROM holder WHERE client = ? AND substr(address, 1, ?) = ?", (key, NETWORK_SIZE, same))
            ports = " ".join(map(str, holder.ports))
            rows[key, same] = (key, place, holder.client_name, ports, holder.opened_at, holder.expires_at)
        self._connection.executemany("INSERT OR REPLACE INTO holder VALUES (?, ?, ?, ?, ?, ?)", rows.values())
        if self._looked_for_old is None or abs(at - self._looked_for_old) >= _OLD_HOLDERS_INTERVAL:
            self._looked_for_old = at  # every row is looked at
            execute("DELETE FROM holder WHERE expires_at < ?", (at - _KEEP_HOLDERS,))
        for holder in holders:
            key = holder.client_key
            since = self._holders_since.get(key, MOST_HOLDERS) + 1
            if since > MOST_HOLDERS // _OVER_MOST:
                since = 0
                # The plus keeps the sorted list from being made where nothing has closed.
                execute(
                    "DELETE FROM holder WHERE client = ?1 AND expires_at < ?2"
                    " AND (SELECT count(*) FROM holder WHERE client = ?1) > ?3 AND +address IN"
                    " (SELECT address FROM holder WHERE client = ?1 ORDER BY expires_at DESC LIMIT -1 OFFSET ?3)",
                    (key, at, MOST_HOLDERS),
                )
            self._holders_since[key] = since

    def forget_renewals(self) -> None:
        """There is a new ratchet: what clients carry belongs to the old one."""
        self._waiting_renewals.clear()
        with suppress(sqlite3.Error):
            self._connection.execute("DELETE FROM delivered")

    def ratchet_seen(self) -> tuple[RatchetNote | None, RatchetNote | None]:
        """The ratchet as it was last known, and as it was about to be written when this server ended."""
        last, intended = (
            next(readable(self._connection.execute(f"SELECT epoch, public FROM {table}"), note_of), None)  # noqa: S608
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

    def holders(self) -> Iterator[Holder]:
        """See `Store.holders`: of each client the last `MOST_HOLDERS` addresses."""
        try:
            yield from readable(self._connection.execute(_HOLDERS), holder_of)
        except sqlite3.Error as error:
            raise self._unread(error) from None

    def holders_of(self, client_key: bytes) -> list[Holder]:
        """The addresses that one client was given a door for, as `holders` has them, and what waits for the disk.

        StoreError where the disk does not give them.
        """
        waiting = [knock.claim.holder for knock in self._waiting if knock.claim.holder is not None]
        stored = readable(self._rows(f"{_HOLDERS} WHERE client = ?", client_key), holder_of)
        return [*stored, *(holder for holder in waiting if holder.client_key == client_key)]

    def holder_keys(self) -> Iterator[bytes]:
        """The public keys of those whom `holders_of` knows, a moment each. StoreError as above, at any step."""
        waiting = {knock.claim.holder.client_key for knock in self._waiting if knock.claim.holder is not None}
        yield from waiting
        last = b""
        while rows := self._rows("SELECT client FROM holder WHERE client > ? ORDER BY client LIMIT 1", last):
            last = rows[0][0]
            if last not in waiting:
                yield last

    def _rows(self, query: str, *values: bytes | int) -> list[Any]:
        """All rows, or StoreError: the database was whole when it was opened, but a disk may fail at any time."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unread(error) from None

    def _unread(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"the database of {self._directory} cannot be read ({error})", "restart the server: it sets it aside"
        )

    def seen(self) -> dict[bytes, Seen]:
        """The last accepted knock of every client, by public key. StoreError where the disk does not give them."""
        return dict(readable(self._rows(SEEN), seen_of))

    def seen_in_parts(self, most: int) -> Iterator[dict[bytes, Seen]]:
        """The same, at most so many clients at a time, in the order of their keys. StoreError as above."""
        last = b""
        while rows := self._rows(f"{SEEN} WHERE client > ? ORDER BY client LIMIT ?", last, most):
            last = rows[-1][0]
            yield dict(readable(rows, seen_of))

    def renewals(self) -> dict[bytes, int]:
        """The last epoch whose key a client has fetched with a receipt, by 32-byte public key. StoreError as above."""
        return dict(readable(self._rows(RENEWED), renewal_of)) | self._waiting_renewals

    def close(self) -> None:
        """Write what waits, if the disk lets us, and close."""
        self.flush()
        self._memory = None
        self._mark_file.close()
        if self._run_file is not None:
            self._run_file.close()
        with suppress(sqlite3.Error):
            self._connection.close()


_CLIENT_TIMES = "SELECT client, high_ns, low_ns, runs, shut FROM mark"
_HOLDERS = "SELECT client, address, name, ports, opened_at, expires_at FROM holder"
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
        connection.text_factory = text_of
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the log is first touched
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        is_new = _check(connection, path, store_id, mark_is_ours=mark_is_ours)
    except BaseException:
        connection.close()
        raise
    return connection, is_new


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
    for table, query in (("mark", _CLIENT_TIMES), ("nonce", _NONCES), ("meta", _META)):
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
