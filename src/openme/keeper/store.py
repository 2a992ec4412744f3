"""What survives the server: replay memory, grants and history, in SQLite under `state_dir`.

`state.db` is written in WAL mode with `synchronous=FULL`: when `commit` returns, a power cut loses none of it (NORMAL
does, measured in docs/decisions/0004-state.md). One commit carries every knock that waited, so they share one sync.

`complete` is an empty file that stands beside the database as long as the database is known to hold every accepted
knock. It is removed when a write fails, which works on a full disk too; a start that does not find it, or finds the
database damaged, lets in only what was signed after that start.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openme.config.locked import sync_directory
from openme.errors import OpenmeError
from openme.keeper.replay import Remembered, ReplayMemory
from openme.ports import PortRange, parse_port_spec
from openme.wire.knock import IPAddress, pack_address, unpack_address

DATABASE = "state.db"
COMPLETE = "complete"
_SCHEMA_VERSION = 1
_PRIMARY_CODE = 0xFF  # sqlite.org/rescode.html: the low byte of an extended result code
_NEWEST_DIGITS = 20
_KEEP_HOLDERS = 30 * 86400.0  # seconds
MOST_HOLDERS = 1024
"""Addresses of one client that are remembered, for 30 days after their doors have closed: those that closed last.
What is open now is remembered however much it is.
"""
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
CREATE TABLE IF NOT EXISTS renewed (client BLOB PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
"""


def beside(run_dir: Path, what: str, state_dir: Path) -> Path:
    """The file in `run_dir` that belongs to this `state_dir`."""
    return run_dir / f"{what}-{hashlib.sha256(bytes(state_dir.absolute())).hexdigest()[:16]}"


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
    """Who was given a door for `address`, and to which ports.

    A restart learns from it whose the doors in the kernel are, and `--cut` which connections are whose.
    """

    client_key: bytes
    address: IPAddress
    client_name: str
    ports: tuple[PortRange, ...]
    opened_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted knock as it goes to the disk: the replay memory's part and, unless policy refused it, the grant's.

    `renewed_to`: the last epoch whose key its receipt carries; None without a receipt.
    """

    remembered: Remembered
    client_name: str
    at: float
    holder: Holder | None
    renewed_to: int | None = None


class Store:
    """The database of one running server. Not for two processes at once: `server.start` holds a lock."""

    def __init__(self, state_dir: Path, run_dir: Path | None = None) -> None:
        """Open or make the database.

        A disk that will not have it locks nobody out: the server then decides from memory alone, and says so.
        `run_dir` takes the mark of a failure where `state_dir` itself can no longer be changed. StoreError only for a
        database of a newer openme.
        """
        self._directory = state_dir
        self._fallback_mark = None if run_dir is None else beside(run_dir, "incomplete", state_dir)
        self._newest = _Newest(None if run_dir is None else beside(run_dir, "newest", state_dir))
        self._waiting: list[Accepted] = []
        self._waiting_floor_ns: int | None = None
        self._on_disk = True
        self.damage: str | None = None
        """What was wrong with an earlier database, set aside; None when it was whole."""
        self.failing: str | None = None
        """Why the last write failed; None when what was accepted is on the disk."""
        database, mark = (state_dir / DATABASE).exists(), (state_dir / COMPLETE).exists()
        failed = self._fallback_mark is not None and self._fallback_mark.exists()
        # Knocks have been accepted since this machine started, and nothing is left of them.
        vanished = not database and bool(self._newest.at_start_ns)
        # Both or neither: a mark alone stands for a database that was lost, and must go before there is a new one.
        self._was_complete = database == mark and not failed and not vanished
        if not self._was_complete:
            self._remove_mark()
        self._connection = self._open_or_replace(state_dir / DATABASE)

    def _open_or_replace(self, path: Path) -> sqlite3.Connection:
        try:
            return _connect(path)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE
            if code not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                return self._without_disk(path, error)
            self.damage = str(error)
        self._was_complete = False
        # First the mark: should we end before `load`, the next start must not take the new database for the old one.
        self._remove_mark()
        try:
            self._set_aside(path)
            return _connect(path)
        except (OSError, sqlite3.Error) as error:
            return self._without_disk(path, error)

    def _without_disk(self, path: Path, error: Exception) -> sqlite3.Connection:
        self._was_complete = False
        self._set_incomplete(f"{path}: {error}")
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _make_tables(connection)
        self._on_disk = False
        return connection

    def _set_aside(self, path: Path) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                source = path.with_name(path.name + suffix)
                source.rename(path.with_name(f"{path.name}.damaged-{stamp}{suffix}"))

    def load(self, window_ns: int, now_ns: int) -> ReplayMemory:
        """The replay memory as it was stored; `now_ns` is the Unix time of this start in nanoseconds.

        If knocks may be missing from it, whatever was signed before this start is refused, and stays refused after
        the next start too; and so is what was dated ahead and accepted before it, as far ahead as it may have been.
        """
        newest_ns = self._newest.at_start_ns
        floor_ns = None
        if not self._was_complete:
            # A clock that was once far ahead, and a client's with it, must not lock everybody out.
            highest_ns = now_ns + window_ns
            floor_ns = highest_ns if newest_ns is None else max(now_ns, min(newest_ns + 1, highest_ns))
        try:
            if floor_ns is not None:
                self._write_floor(floor_ns)
            elif row := self._connection.execute("SELECT value FROM meta WHERE key = 'floor_ns'").fetchone():
                floor_ns = row[0]
        except sqlite3.Error as error:
            # The floor holds in memory, and without the mark the next start sets one of its own.
            self._set_incomplete(str(error))
            self._waiting_floor_ns = floor_ns = max(now_ns, floor_ns or 0)
        memory = ReplayMemory(window_ns, floor_ns=floor_ns, newest_ns=newest_ns)
        memory.load(
            self._connection.execute("SELECT client, high_ns, low_ns FROM mark"),
            (
                (client, timestamp_ns, nonce, unpack_address(source))
                for client, timestamp_ns, nonce, source in self._connection.execute(
                    "SELECT client, timestamp_ns, nonce, source FROM nonce"
                )
            ),
        )
        if self.failing is None:
            self._set_complete()
        highest = self._connection.execute("SELECT max(high_ns) FROM mark").fetchone()[0]
        self._newest.note(max(highest or 0, newest_ns or 0))
        return memory

    def reset(self, client_key: bytes, now_ns: int) -> None:
        """See `ReplayMemory.reset`. StoreError if the disk refuses: it would come back with the next start."""
        try:
            self._connection.execute(
                "UPDATE mark SET high_ns = ?, low_ns = ? WHERE client = ?", (now_ns, now_ns, client_key)
            )
        except sqlite3.Error as error:
            raise StoreError(f"the replay memory cannot be written: {error}") from None

    def set_floor(self, floor_ns: int) -> None:
        """Store a floor that has moved; with the next knock, if the disk refuses now."""
        self._waiting_floor_ns = floor_ns
        try:
            self._write_floor(floor_ns)
            self._waiting_floor_ns = None
        except sqlite3.Error as error:
            self._set_incomplete(str(error))

    @property
    def was_complete(self) -> bool:
        """Whether the database was known to hold every accepted knock when it was opened."""
        return self._was_complete

    def commit(self, accepted: Iterable[Accepted]) -> None:
        """Write knocks durably: when this returns and `failing` is None, a power cut loses none of them.

        A disk that refuses locks nobody out. What could not be written is kept and tried again with the next knock,
        and until then the file `complete` is gone, so that a restart trusts no knock made before it.
        """
        accepted = list(accepted)
        self._newest.note(max((knock.remembered.timestamp_ns for knock in accepted), default=0))
        self._waiting.extend(accepted)
        if not self._waiting:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._waiting_floor_ns is not None:
                self._write_floor(self._waiting_floor_ns)
            for knock in self._waiting:
                self._write(knock)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._set_incomplete(str(error))
            return
        self._waiting.clear()
        self._waiting_floor_ns = None
        if self.failing is not None and self._on_disk:
            self._set_complete()

    def _write_floor(self, floor_ns: int) -> None:
        self._connection.execute(
            "INSERT INTO meta VALUES ('floor_ns', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (floor_ns,),
        )

    def _write(self, knock: Accepted) -> None:
        part = knock.remembered
        execute = self._connection.execute
        execute(
            "INSERT INTO mark VALUES (?, ?, ?) ON CONFLICT (client) DO UPDATE SET"
            " high_ns = max(high_ns, excluded.high_ns), low_ns = max(low_ns, excluded.low_ns)",
            (part.client_key, part.timestamp_ns, part.low_ns),
        )
        execute("DELETE FROM nonce WHERE client = ? AND timestamp_ns < ?", (part.client_key, part.low_ns))
        source = pack_address(part.source)
        execute(
            "INSERT OR REPLACE INTO nonce VALUES (?, ?, ?, ?)", (part.client_key, part.nonce, part.timestamp_ns, source)
        )
        execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (part.client_key, knock.client_name, knock.at, source)
        )
        if knock.renewed_to is not None:
            execute("INSERT OR REPLACE INTO renewed VALUES (?, ?)", (part.client_key, knock.renewed_to))
        if (holder := knock.holder) is not None:
            execute("DELETE FROM holder WHERE expires_at < ?", (knock.at - _KEEP_HOLDERS,))
            execute(
                "INSERT OR REPLACE INTO holder VALUES (?, ?, ?, ?, ?, ?)",
                (
                    holder.client_key,
                    pack_address(holder.address),
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
        with suppress(sqlite3.Error):
            self._connection.execute("DELETE FROM renewed")

    def ratchet_seen(self) -> tuple[int, bytes] | None:
        """The ratchet as it was last known: its oldest epoch and that epoch's public key."""
        row = self._connection.execute("SELECT epoch, public FROM ratchet").fetchone()
        return None if row is None else (row[0], row[1])

    def note_ratchet(self, epoch: int, public: bytes) -> None:
        """Remember the ratchet, so that a file that is lost or older is noticed. A disk that refuses loses the note."""
        with suppress(sqlite3.Error):
            self._connection.execute("INSERT OR REPLACE INTO ratchet VALUES (1, ?, ?)", (epoch, public))

    def holders(self) -> list[Holder]:
        """Everybody who was given a door in the last 30 days: of each client the last `MOST_HOLDERS` addresses."""
        return self._holders("")

    def holders_of(self, client_key: bytes) -> list[Holder]:
        """The addresses that one client was given a door for, as `holders` has them, and what waits for the disk."""
        waiting = [knock.holder for knock in self._waiting if knock.holder is not None]
        return self._holders(" WHERE client = ?", client_key) + [h for h in waiting if h.client_key == client_key]

    def holder_keys(self) -> list[bytes]:
        """The public keys of those whom `holders` names."""
        return [client for (client,) in self._connection.execute("SELECT DISTINCT client FROM holder")]

    def _holders(self, which: str, *values: bytes) -> list[Holder]:
        rows = self._connection.execute(
            f"SELECT client, address, name, ports, opened_at, expires_at FROM holder{which}",  # noqa: S608  # ours
            values,
        )
        return [
            Holder(client, unpack_address(address), name, _ports(ports), opened_at, expires_at)
            for client, address, name, ports, opened_at, expires_at in rows
        ]

    def seen(self) -> dict[bytes, Seen]:
        """The last accepted knock of every client, by public key."""
        rows = self._connection.execute("SELECT client, name, at, source FROM seen")
        return {client: Seen(name, at, unpack_address(source)) for client, name, at, source in rows}

    def close(self) -> None:
        """Write what waits, if the disk lets us, and close."""
        self.commit(())
        self._newest.close()
        with suppress(sqlite3.Error):
            self._connection.close()

    def _set_incomplete(self, reason: str) -> None:
        if self.failing is None:
            self._remove_mark()
        self.failing = reason

    def _remove_mark(self) -> None:
        try:
            (self._directory / COMPLETE).unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError:
            # A disk gone read-only keeps even its marks. Until the machine starts anew, the other place has it.
            if self._fallback_mark is not None:
                with suppress(OSError):
                    self._fallback_mark.touch(mode=0o600)

    def _set_complete(self) -> None:
        try:
            descriptor = os.open(self._directory / COMPLETE, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            sync_directory(self._directory)
            if self._fallback_mark is not None:
                self._fallback_mark.unlink(missing_ok=True)
        except OSError:
            # Without the mark the next start is the stricter one, which is the safe side.
            return
        self.failing = None


class _Newest:
    """The youngest timestamp ever accepted, in memory that only a restart of the machine loses.

    A database that is lost or could not be written leaves this much: what is younger was not accepted yet.
    """

    def __init__(self, path: Path | None) -> None:
        self.at_start_ns: int | None = None
        """What an earlier run has left; None if that is not known."""
        self._highest_ns = 0
        self._descriptor: int | None = None
        if path is None:
            return
        with suppress(OSError):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with suppress(ValueError):
                self.at_start_ns = int(os.pread(self._descriptor, _NEWEST_DIGITS, 0))

    def note(self, timestamp_ns: int) -> None:
        """A knock with this time is accepted, or 0 for nothing new."""
        highest = max(timestamp_ns, self._highest_ns)
        if self._descriptor is not None and (highest > self._highest_ns or not self._highest_ns):
            with suppress(OSError):
                os.pwrite(self._descriptor, f"{highest:0{_NEWEST_DIGITS}d}".encode(), 0)
        self._highest_ns = highest

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _connect(path: Path) -> sqlite3.Connection:
    previous = os.umask(0o077)
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=2, check_same_thread=False)
    finally:
        os.umask(previous)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        _check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new database; sqlite3.DatabaseError if an old one is damaged, StoreError if it is newer."""
    if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
        damaged = sqlite3.DatabaseError("the database is damaged")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        _make_tables(connection)
    elif version != _SCHEMA_VERSION:
        raise StoreError(f"{path}: made by a newer openme (format {version})", "start that version instead")
    connection.executescript(_EPOCH_SCHEMA)


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN; {_SCHEMA} {_EPOCH_SCHEMA} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;")


def _ports(text: str) -> tuple[PortRange, ...]:
    return tuple(item for spec in text.split() for item in parse_port_spec(spec))


def read_seen(state_dir: Path) -> dict[bytes, Seen]:
    """The last accepted knock of every client, for commands that run beside the server; empty if there is none yet."""
    rows = _read(state_dir, "SELECT client, name, at, source FROM seen")
    return {client: Seen(name, at, unpack_address(source)) for client, name, at, source in rows}


def read_renewals(state_dir: Path) -> dict[bytes, int]:
    """The last epoch whose key a client was given with a receipt, by 32-byte public key."""
    return dict(_read(state_dir, "SELECT client, last FROM renewed"))


def read_ratchet_seen(state_dir: Path) -> bool:
    """Whether a server on this directory has ever had a ratchet."""
    return bool(_read(state_dir, "SELECT epoch FROM ratchet"))


def forget_renewals(state_dir: Path) -> None:
    """There is a new ratchet, made while no server has the database: what clients carry belongs to the old one."""
    path = state_dir / DATABASE
    if path.exists():
        with (
            suppress(sqlite3.Error),
            closing(
                sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=2, isolation_level=None)
            ) as connection,
        ):
            connection.execute("DELETE FROM renewed")


def _read(state_dir: Path, query: str) -> list[Any]:
    path = state_dir / DATABASE
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)
        with closing(connection):
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return []
