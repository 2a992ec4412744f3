"""What survives the server: rows that are there after a crash, and a memory that never claims more than it knows."""

import ctypes
import errno
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from openme.ports import parse_port_spec
from openme.store import sqlite as store_module
from openme.store.base import FIRST, Claim, ClaimRefusal, Holder, Outcome, Seen, StoreError
from openme.store.mark import MARK
from openme.store.places import COMPLETE, DATABASE, has_lived
from openme.store.reader import read_seen
from openme.store.replay import ReplayMemory
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import IPAddress, Knock, pack_address, unpack_address
from support.knocks import ELSEWHERE, HOME, NS, START, nonce

RUN = Path(tempfile.mkdtemp())
KEY = b"K" * 32
PORTS = parse_port_spec("22/tcp")
W = 60 * NS


def accept(store: SqliteStore, label: object, at: int = START, *, grant: bool = True) -> Knock:
    holder = Holder(KEY, ELSEWHERE, "alice", PORTS, at / NS, at / NS + 30) if grant else None
    knock = Knock(at, nonce(label), None)
    store.claim([Claim(KEY, knock, HOME, "alice", at / NS, holder)], expected)
    return knock


def expected(outcomes: Sequence[Outcome]) -> None:
    """All of them are the first."""
    assert all(outcome == FIRST for outcome in outcomes)


def loaded(store: SqliteStore, window: int, now: int) -> ReplayMemory:
    """What the store decides by."""
    store.load(window, now)
    assert store._memory is not None
    return store._memory


def made_store(directory: Path) -> SqliteStore:
    """A store as the server makes it: with a place for what only a restart of the machine loses."""
    RUN.mkdir(exist_ok=True)
    return SqliteStore(directory, RUN)


def refusal(memory: ReplayMemory, label: object, at: int = START) -> str:
    outcome = memory.accept(KEY, Knock(at, nonce(label), None), HOME)
    return outcome.reason if isinstance(outcome, ClaimRefusal) else "accepted"


def opened(directory: Path, now: int = START) -> tuple[SqliteStore, ReplayMemory]:
    """The first one is a new server's; whatever is there already is left as it is."""
    if not has_lived(directory):
        make_memory(directory)
    store = made_store(directory)
    return store, loaded(store, W, now)


def reopened(directory: Path, now: int = START) -> ReplayMemory:
    store, memory = opened(directory, now)
    store.close()
    return memory


def test_an_accepted_knock_is_refused_after_a_restart(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    later = reopened(tmp_path)
    assert refusal(later, "a") == "replay"
    assert refusal(later, "b", START - 2 * W - 1) == "stale"
    assert refusal(later, "c", START - 1) == "accepted"


def test_what_is_committed_is_there_although_nothing_was_closed(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal", MARK):
        shutil.copy(tmp_path / name, copy / name)
    store.close()
    assert refusal(reopened(copy), "a") == "replay"


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    connection = store._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_the_mark_is_on_the_disk_after_the_database_and_before_a_commit_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _memory = opened(tmp_path)
    real = os.fdatasync
    seen: list[Path] = []

    def noting(descriptor: int) -> None:
        copy = tmp_path / f"copy-{len(seen)}"
        copy.mkdir()
        for name in (DATABASE, f"{DATABASE}-wal", MARK):
            shutil.copy(tmp_path / name, copy / name)
        real(descriptor)
        seen.append(copy)

    monkeypatch.setattr(os, "fdatasync", noting)
    accept(store, "a")
    assert len(seen) == 1
    monkeypatch.undo()
    store.close()
    # What the database held when the mark was synced.
    (seen[0] / MARK).unlink()
    with closing(sqlite3.connect(seen[0] / DATABASE)) as database:
        assert database.execute("SELECT count FROM chain").fetchone() == (1,)


def test_after_a_loss_the_files_have_another_id(tmp_path: Path) -> None:
    """No older copy of one of them fits to what comes."""
    store, _memory = opened(tmp_path)
    accept(store, "a")
    before = store._store_id
    store.close()
    (tmp_path / DATABASE).write_bytes(b"")
    opened(tmp_path)[0].close()
    again = made_store(tmp_path)
    assert again.loss is None
    assert again._store_id != before
    again.close()


def test_who_was_in_and_who_was_seen_come_back(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    store = made_store(tmp_path)
    assert list(store.holders()) == [Holder(KEY, ELSEWHERE, "alice", PORTS, START / NS, START / NS + 30)]
    assert store.seen() == {KEY: Seen("alice", START / NS, HOME)}
    assert read_seen(tmp_path) == {}, "a running server keeps the database to itself"
    store.close()
    assert read_seen(tmp_path) == {KEY: Seen("alice", START / NS, HOME)}


def in_network(named: str, prefix: str, ends: float = 30) -> Holder:
    network = ip_network(prefix)
    times = START / NS, START / NS + ends
    return Holder(KEY, network.network_address, "alice", PORTS, *times, network, ip_address(named))


def write(store: SqliteStore, holder: Holder) -> None:
    knock = Knock(START, nonce((holder.named, holder.network, holder.expires_at)), None)
    store.claim([Claim(KEY, knock, HOME, "alice", START / NS, holder)], expected)


def test_of_a_network_the_last_address_that_was_knocked_for_is_remembered(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    alone = Holder(KEY, ip_address("203.0.113.0"), "alice", PORTS, START / NS, START / NS + 30)
    wide, six = in_network("203.0.113.5", "203.0.0.0/16"), in_network("2001:db8::5", "2001:db8::/64")
    for holder in (alone, wide, six, in_network("203.0.113.5", "203.0.113.0/24")):
        write(store, holder)
    latest = in_network("203.0.113.77", "203.0.113.0/24", 60)
    write(store, latest)
    store.close()
    store = made_store(tmp_path)
    assert sorted(store.holders_of(KEY), key=repr) == sorted([alone, wide, six, latest], key=repr)
    store.close()


@pytest.mark.parametrize(
    "place",
    [
        b"",
        b"short",
        pack_address(HOME) + b"\x18",
        pack_address(HOME) + b"\x18" + pack_address(HOME),
        pack_address(ip_address("203.0.113.0")) + b"\x18" + pack_address(ELSEWHERE),
        pack_address(ip_address("203.0.113.0")) + b"\xff" + pack_address(HOME),
        pack_address(ip_address("203.0.113.0")) + b"\x18" + pack_address(HOME) + b"more",
    ],
)
def test_a_place_on_the_disk_that_is_none_is_passed_over(tmp_path: Path, place: bytes) -> None:
    store, _ = opened(tmp_path)
    write(store, in_network("203.0.113.5", "203.0.113.0/24"))
    store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        connection.execute("UPDATE holder SET address = ?", (place,))
    store, _ = opened(tmp_path)
    assert (store.loss, list(store.holders())) == (None, [])
    store.close()


def test_an_earlier_openme_passes_a_network_over(tmp_path: Path) -> None:
    """What it takes for an address has 16 bytes."""
    store, _ = opened(tmp_path)
    for holder in (in_network("203.0.113.5", "203.0.113.0/24"), in_network("2001:db8::5", "2001:db8::/64")):
        write(store, holder)
    store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        places = [place for (place,) in connection.execute("SELECT address FROM holder")]
    assert len(places) == 2
    for place in places:
        with pytest.raises(ValueError, match="address"):
            unpack_address(place)


def given(store: SqliteStore, address: IPAddress, ends: float, key: bytes = KEY) -> None:
    """A door for an address that closes so many seconds after the start."""
    holder = Holder(key, address, "alice", PORTS, START / NS, START / NS + ends)
    store.claim([Claim(key, Knock(START, nonce(address), None), HOME, "alice", START / NS, holder)], expected)


def test_of_one_client_the_addresses_whose_doors_closed_last_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_HOLDERS", 3)
    store, _ = opened(tmp_path)
    bob = b"B" * 32
    given(store, HOME, -100, bob)
    for number, ends in enumerate([-50, -10, -40, -20, -30]):
        given(store, ELSEWHERE + number, ends)
    assert [holder.address for holder in store.holders_of(KEY)] == [ELSEWHERE + number for number in (1, 3, 4)]
    assert [holder.address for holder in store.holders_of(bob)] == [HOME]
    assert sorted(store.holder_keys()) == sorted([KEY, bob])
    store.close()


def test_what_is_open_now_is_remembered_however_much_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_HOLDERS", 3)
    store, _ = opened(tmp_path)
    for number, ends in enumerate([30, 31, 32, 33, 34, -1]):
        given(store, ELSEWHERE + number, ends)
    assert [holder.address for holder in store.holders_of(KEY)] == [ELSEWHERE + number for number in range(5)]
    store.close()


def test_holders_that_wait_for_the_disk_are_named_too(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store._connection = FailingConnection(store._connection)  # type: ignore[assignment]  # the three methods in use
    given(store, ELSEWHERE, 30)
    given(store, HOME, 30, b"B" * 32)
    assert store.failing is not None
    assert [holder.address for holder in store.holders_of(KEY)] == [ELSEWHERE]
    store.close()


def test_a_knock_that_opened_nothing_is_remembered_and_holds_nothing(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a", grant=False)
    assert list(store.holders()) == []
    store.close()
    assert refusal(reopened(tmp_path), "a") == "replay"


def test_old_nonces_leave_the_disk_as_they_leave_the_memory(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    for number in range(50):
        accept(store, number, START + number * W)
    rows = store._connection.execute("SELECT count(*) FROM nonce").fetchone()
    assert rows == (3,)
    store.close()
    later = reopened(tmp_path)
    assert [refusal(later, number, START + number * W) for number in (0, 46, 47, 49)] == [
        "stale",
        "stale",
        "replay",
        "replay",
    ]


def test_what_is_let_go_within_a_batch_leaves_no_row(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    knocks = [Knock(START + number * W, nonce(number), None) for number in range(50)]
    store.claim([Claim(KEY, knock, HOME, "alice", START / NS, None) for knock in knocks], expected)
    assert store._connection.execute("SELECT count(*) FROM nonce").fetchone() == (3,)
    assert store._connection.execute("SELECT count(*) FROM mark").fetchone() == (1,)
    store.close()
    later = reopened(tmp_path)
    assert [refusal(later, n, START + n * W) for n in (46, 47, 49)] == ["stale", "replay", "replay"]


def test_a_reset_that_the_disk_refused_stops_no_later_knock(tmp_path: Path) -> None:
    """Its rows are there still, and a client may use a nonce again."""
    store, _ = opened(tmp_path)
    accept(store, "a", START + W)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the methods that are used
    with pytest.raises(StoreError):
        store.reset(KEY, START)
    full.full = False
    accept(store, "a", START + 1)
    assert store.failing is None
    store.close()
    assert refusal(reopened(tmp_path), "a", START + 1) == "replay"


def test_whose_doors_ended_long_ago_is_looked_for_once_an_hour(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    day = 86400
    given(store, ELSEWHERE, 30)
    given(store, HOME, -40 * day)
    for label, seconds, left in (("a", 0, 2), ("b", 3599, 2), ("c", 3600, 1)):
        at = START + seconds * NS
        claim = Claim(
            KEY,
            Knock(at, nonce(label), None),
            HOME,
            "alice",
            at / NS,
            Holder(KEY, ELSEWHERE, "alice", PORTS, at / NS, at / NS + 30),
        )
        store.claim([claim], expected)
        assert len(list(store.holders())) == left
    store.close()


def test_a_window_that_grows_over_a_restart_reopens_nothing(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    for number in range(5):
        accept(store, number, START + number * W)
    store.close()
    store = made_store(tmp_path)
    later = loaded(store, 100 * W, START)
    store.close()
    assert [refusal(later, number, START + number * W) for number in range(5)] == ["stale"] * 2 + ["replay"] * 3


def test_a_first_start_knows_everything(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    assert store.was_complete
    assert (tmp_path / MARK).exists()
    assert refusal(memory, "a", START - 50 * NS) == "accepted"
    store.close()


def test_a_start_without_the_mark_trusts_only_what_cannot_have_been_accepted(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    forget_run()
    (tmp_path / MARK).unlink()
    store, memory = opened(tmp_path, START)
    assert store.loss == "state.mark is gone"
    assert refusal(memory, "a", START + W - 1) == "stale"
    assert refusal(memory, "a", START + W) == "accepted"
    store.close()
    store, memory = opened(tmp_path, START + NS)
    assert store.loss is None
    assert refusal(memory, "b", START + W - 1) == "stale", "the floor outlives the next start"
    store.close()


def test_a_lost_database_is_no_first_start_and_costs_what_was_signed_before_the_newest_knock(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a", START + 5)
    store.close()
    (tmp_path / DATABASE).unlink()
    store, memory = opened(tmp_path, START)
    assert store.loss == "state.db is gone or empty"
    assert [refusal(memory, "a", START + 5), refusal(memory, "b", START + 6)] == ["stale", "accepted"]
    store.close()


def test_a_start_that_ends_before_loading_has_not_made_good_what_was_lost(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    (tmp_path / DATABASE).unlink()
    made_store(tmp_path).close()
    assert not made_store(tmp_path).was_complete


def test_where_nothing_is_left_a_server_has_lost_its_memory_unless_one_was_made(tmp_path: Path) -> None:
    assert not has_lived(tmp_path)
    assert made_store(tmp_path).loss == "state.db and state.mark are gone"


@pytest.mark.parametrize(
    "name",
    [
        *("ratchet", ".ratchet.old", "ratchet.damaged-1", "lock", "control", "files.json", "revoked", "revoked.copy"),
        *("hidden_ports", "hidden_ports.damaged-1", DATABASE, f"{DATABASE}-wal", "state.mark", "complete"),
    ],
)
def test_each_file_of_a_server_shows_that_one_has_run(tmp_path: Path, name: str) -> None:
    assert not has_lived(tmp_path)
    (tmp_path / name).touch()
    assert has_lived(tmp_path)


def refused(reason: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(reason)
    error.sqlite_errorcode = code
    return error


def forget_run() -> None:
    """The machine is started anew."""
    for path in RUN.iterdir():
        path.unlink()


@pytest.mark.parametrize("damage", ["garbage", "page", "empty head"])
def test_a_damaged_database_is_set_aside_and_nothing_old_opens(tmp_path: Path, damage: str) -> None:
    store, memory = opened(tmp_path)
    for number in range(200):
        accept(store, number, START + number)
    store.close()
    path = tmp_path / DATABASE
    raw = bytearray(path.read_bytes())
    if damage == "garbage":
        raw = bytearray(b"not a database at all" * 400)
    elif damage == "page":
        for page in range(4096, len(raw), 4096):
            raw[page : page + 200] = b"\xff" * 200
    else:
        raw[:100] = bytes(100)
    path.write_bytes(bytes(raw))
    store, memory = opened(tmp_path, START + NS)
    assert store.damage
    assert not store.was_complete
    assert refusal(memory, 0, START) == "stale"
    assert refusal(memory, "new", START + NS) == "accepted"
    store.close()
    (kept,) = tmp_path.glob(f"{DATABASE}.damaged-*")
    assert kept.read_bytes() == bytes(raw)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert refusal(reopened(tmp_path, START + 2 * NS), 0, START) == "stale"


def test_a_bit_that_makes_the_database_one_for_reading_only_is_damage(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    raw = bytearray((tmp_path / DATABASE).read_bytes())
    raw[18] = 3  # sqlite.org/fileformat2.html: the file format write version
    (tmp_path / DATABASE).write_bytes(raw)
    store, memory = opened(tmp_path)
    assert store.damage
    assert refusal(memory, "a") == "stale"
    accept(store, "b", START + 1)
    assert store.failing is None
    store.close()


def test_a_flipped_bit_in_the_name_of_a_column_is_damage_and_stops_nobody(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    raw = (tmp_path / DATABASE).read_bytes()
    for name in (b"epoch INTEGER", b"public BLOB", b"at REAL", b"last INTEGER", b"expires_at REAL", b"source BLOB NOT"):
        place = raw.index(name)
        (tmp_path / DATABASE).write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        store, memory = opened(tmp_path)
        assert store.damage, name
        assert refusal(memory, "a") == "stale"
        store.ratchet_seen(), store.seen(), list(store.holders()), store.renewals()
        store.close()
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("value", ["text", 1.5, None, b"bytes"])
def test_what_no_digest_covers_may_be_anything(tmp_path: Path, value: object) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    store.renew(KEY, 3000)
    store.flush()
    store.note_ratchet(2951, KEY)
    store.close()
    for statement in (
        "UPDATE OR IGNORE delivered SET last = ?",
        "UPDATE OR IGNORE ratchet SET epoch = ?",
        "UPDATE OR IGNORE ratchet SET public = ?",
        "UPDATE OR IGNORE seen SET client = ?",
        "UPDATE OR IGNORE delivered SET client = ?",
    ):
        with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
            connection.execute(statement, (value,))
        store, memory = opened(tmp_path)
        assert store.loss is None
        assert refusal(memory, "a") == "replay"
        assert all(isinstance(known, tuple | None) for known in store.ratchet_seen())
        assert all(isinstance(key, bytes) for key in (*store.seen(), *store.renewals()))
        assert all(isinstance(last, int) for last in store.renewals().values())
        for epoch, public in filter(None, store.ratchet_seen()):
            assert (type(epoch), type(public)) == (int, bytes)
        store.close()


def test_an_older_mark_beside_a_lost_database_lets_nothing_in_that_was_signed_before_the_start(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    older = (tmp_path / MARK).read_bytes()
    accept(store, "b", START + NS)
    store.close()
    (tmp_path / MARK).write_bytes(older)
    (tmp_path / DATABASE).unlink()
    for path in RUN.iterdir():  # the machine was started anew
        path.unlink()
    memory = reopened(tmp_path, START + 2 * NS)
    assert refusal(memory, "b", START + NS) == "stale"
    assert refusal(memory, "c", START + 2 * NS) == "accepted"


def test_where_neither_database_nor_mark_can_be_written_the_run_directory_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(store._mark_file, "write", refuses)
    store._connection.execute("PRAGMA query_only=1")
    accept(store, "b", START + NS)
    assert store.failing
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    memory = reopened(tmp_path, START + 2 * NS)
    assert refusal(memory, "b", START + NS) == "stale"
    assert refusal(memory, "c", START + 2 * NS) == "accepted"


def refuses(*_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_name_in_the_schema_that_is_no_text_any_more_is_damage(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    raw = (tmp_path / DATABASE).read_bytes()
    for number, place in enumerate(range(raw.index(b"CREATE TABLE nonce") - 20, raw.index(b"CREATE TABLE nonce") + 60)):
        home = tmp_path / str(number)
        home.mkdir()
        (home / DATABASE).write_bytes(raw[:place] + bytes([raw[place] ^ 0x80]) + raw[place + 1 :])
        (home / MARK).write_bytes((tmp_path / MARK).read_bytes())
        read_seen(home)
        again = made_store(home)
        assert refusal(loaded(again, W, START), "a") in {"stale", "replay"}
        again.close()


def test_damage_noticed_and_then_a_crash_is_still_damage(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    (tmp_path / DATABASE).write_bytes(b"garbage" * 999)
    made_store(tmp_path)._connection.close()  # ended before load
    store, memory = opened(tmp_path, START)
    assert refusal(memory, "a") == "stale"
    store.close()


def test_a_database_of_a_newer_openme_is_left_alone(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store._connection.execute("PRAGMA user_version=99")
    store.close()
    (tmp_path / MARK).write_bytes(b"openme mark 2")
    with pytest.raises(StoreError, match="newer openme"):
        made_store(tmp_path)
    assert list(tmp_path.glob("*.damaged-*")) == []


def test_without_a_directory_the_memory_decides_and_says_so(tmp_path: Path) -> None:
    store = made_store(tmp_path / "missing")
    memory = loaded(store, W, START)
    assert store.failing is not None
    assert not store.was_complete
    accept(store, "a", START + W)  # nobody knows what was accepted before, however far it was dated ahead
    assert store.failing is not None
    assert refusal(memory, "a", START + W) == "replay"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_read_now_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path)[0].close()

    def fails(*_: object, **__: object) -> None:
        raise refused("disk I/O error", sqlite3.SQLITE_IOERR)

    monkeypatch.setattr(store_module, "_check", fails)
    store = made_store(tmp_path)
    assert store.failing is not None
    assert "disk I/O error" in store.failing
    assert list(tmp_path.glob("*.damaged-*")) == []
    assert store.loss is not None


def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store, _memory = opened(tmp_path)
        accept(store, "a")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert set(modes) == {DATABASE, f"{DATABASE}-wal", MARK}, (
        "and no shared memory, which a full disk turns into SIGBUS"
    )
    assert set(modes.values()) == {0o600}


class FailingConnection:
    """A connection whose disk is full while `full` is set."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real
        self.full = True

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self.full and sql.startswith(("INSERT", "COMMIT")):
            raise sqlite3.OperationalError("database or disk is full")
        return self._real.execute(sql, *arguments)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        rows = list(rows)
        if self.full and rows:
            raise sqlite3.OperationalError("database or disk is full")
        return self._real.executemany(sql, rows)

    def close(self) -> None:
        self._real.close()


class NoCommit(FailingConnection):
    """All is taken but the end of a transaction."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self.full and sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(sql, *arguments)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        return self._real.executemany(sql, rows)


def test_what_a_transaction_wrote_that_was_rolled_back_is_not_taken_to_be_there(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    accept(store, "a", START)
    failing = NoCommit(store._connection)
    store._connection = failing  # type: ignore[assignment]  # the methods that are used
    accept(store, "b", START + 1)
    failing.full = False
    assert store.failing == "disk I/O error"
    accept(store, "c", START + 2)
    assert store.failing != "disk I/O error"
    store.close()
    again, memory = opened(tmp_path)
    assert again.was_complete
    assert [refusal(memory, label, START + n) for n, label in enumerate("abc")] == ["replay"] * 3


def test_a_full_disk_locks_nobody_out_and_the_next_start_is_strict(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the methods that are used
    accept(store, "a")
    assert store.failing == "database or disk is full"
    assert refusal(memory, "a") == "replay"
    assert refusal(memory, "b") == "accepted"
    full._real.close()  # killed
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "a") == "stale"
    assert refusal(later, "c", START + 1) == "accepted", "the mark knows the newest time"


def test_what_a_full_disk_refused_is_written_when_it_has_room_again(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the methods that are used
    accept(store, "a")
    accept(store, "b")
    full.full = False
    accept(store, "c")
    assert store.failing is None
    assert (tmp_path / MARK).exists()
    store.close()
    later = reopened(tmp_path)
    assert [refusal(later, label) for label in "abc"] == ["replay"] * 3
    assert refusal(later, "d", START - 1) == "accepted"


def test_a_mark_that_cannot_be_made_only_makes_the_next_start_stricter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    store, _memory = opened(tmp_path)
    monkeypatch.setattr(os, "fdatasync", fails)
    accept(store, "a")
    store.close()
    monkeypatch.undo()
    assert refusal(reopened(tmp_path), "a") in {"replay", "stale"}


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100])
def test_reading_beside_the_server_never_fails(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / DATABASE).write_bytes(content)
    assert read_seen(tmp_path) == {}


MNT_DETACH = 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    made = libc.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=512k,mode=700")
    assert made == 0, os.strerror(ctypes.get_errno())
    yield disk
    assert libc.umount2(os.fsencode(disk), MNT_DETACH) == 0


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))


@pytest.mark.root
def test_a_really_full_disk_opens_nothing_twice(small_disk: Path) -> None:
    store, memory = opened(small_disk)
    fill(small_disk)
    number = 0
    while store.failing is None:
        accept(store, number, START + number)
        number += 1
        assert number < 1000
    assert [refusal(memory, n, START + n) for n in range(number)] == ["replay"] * number
    store._connection.close()
    (small_disk / "filler").unlink()
    later = reopened(small_disk, START + NS)
    assert {refusal(later, n, START + n) for n in range(number)} <= {"stale", "replay"}
    assert refusal(later, "new", START + NS) == "accepted"


@pytest.mark.root
def test_a_start_on_a_full_disk_knows_everything_and_sets_nothing_aside(small_disk: Path) -> None:
    store, memory = opened(small_disk)
    accept(store, "a")
    store.close()
    fill(small_disk)
    store, memory = opened(small_disk, START + NS)
    assert store.loss is None
    assert refusal(memory, "a") == "replay"
    while store.failing is None:
        accept(store, os.urandom(9), START + NS)
    ahead = accept(store, "ahead", START + W)
    store._connection.close()
    assert list(small_disk.glob("*.damaged-*")) == []
    (small_disk / "filler").unlink()
    # What was accepted from memory alone is nowhere, so the next start trusts nothing from before the newest.
    forget_run()
    later = reopened(small_disk, START + 2 * NS)
    assert refusal(later, "ahead", ahead.timestamp_ns) == "stale"
    assert refusal(later, "new", ahead.timestamp_ns + 1) == "accepted"


def test_a_floor_that_cannot_be_written_holds_all_the_same(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    (tmp_path / MARK).unlink()
    store = made_store(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the methods that are used
    memory = loaded(store, W, START)
    assert refusal(memory, "a") == "stale"
    full.full = False
    accept(store, "b", START + 1)
    assert store.failing is None
    store.close()
    later = reopened(tmp_path, START + NS)
    assert [refusal(later, "a"), refusal(later, "b", START + 1)] == ["stale", "replay"]


def test_a_knock_dated_ahead_opens_nothing_twice_though_the_memory_is_lost(tmp_path: Path) -> None:
    """A floor at the moment of the start would let it in again: its time is still to come."""
    store, _memory = opened(tmp_path)
    accept(store, "ahead", START + W)
    store._connection.close()  # killed
    (tmp_path / DATABASE).write_bytes(b"garbage" * 1000)
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "ahead", START + W) == "stale"
    assert refusal(later, "new", START + W + 1) == "accepted"


@pytest.mark.parametrize("left", [[], [DATABASE, MARK]])
def test_what_was_put_back_from_a_copy_is_noticed_until_the_machine_is_started_anew(
    tmp_path: Path, left: list[str]
) -> None:
    store, _ = opened(tmp_path)
    accept(store, "before")
    store.close()
    copies = {name: (tmp_path / name).read_bytes() for name in left}
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in copies.items():
        (tmp_path / name).write_bytes(content)
    again = made_store(tmp_path)
    assert again.loss
    later = loaded(again, W, START + NS)
    again.close()
    assert refusal(later, "a") == "stale"
    assert refusal(later, "b", START + 1) == "accepted"


def test_without_anything_left_a_start_refuses_whatever_may_have_been_dated_ahead(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "ahead", START + W)
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    forget_run()
    (tmp_path / "ratchet").touch()  # which shows that a server has lived here
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "new", START + NS + W - 1) == "stale"
    assert refusal(later, "new", START + NS + W) == "accepted"


def test_the_mark_alone_knows_the_newest_time_after_a_reboot_under_a_clock_set_back(tmp_path: Path) -> None:
    year = 365 * 86400 * NS
    store, memory = opened(tmp_path)
    accept(store, "a", START + year)
    store._connection.close()
    (tmp_path / DATABASE).write_bytes(b"")
    forget_run()
    for window, now in ((W, START), (10 * W, START), (1, START - year)):
        store = made_store(tmp_path)
        memory = loaded(store, window, now)
        store.close()
        assert refusal(memory, "a", START + year) == "stale", "neither a clock nor a window lowers the floor"
        assert refusal(memory, "b", START + year + 1) == "accepted"


def test_full_disk_reboot_and_two_restarts_open_nothing_that_was_dated_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path)[0].close()
    forget_run()

    def full(path: Path, *_: object, **__: object) -> None:
        raise refused(f"{path}: database or disk is full", sqlite3.SQLITE_FULL)

    monkeypatch.setattr(store_module, "_connect", full)
    for restart in range(3):
        store = made_store(tmp_path)
        assert store.failing
        memory = loaded(store, W, START + restart * NS)
        if restart == 0:
            accept(store, "ahead", START + 57 * NS)
        assert refusal(memory, "ahead", START + 57 * NS) != "accepted"


def test_a_database_of_the_time_before_the_mark_is_taken_over(tmp_path: Path) -> None:
    """As version 1 of its format left it, a commit in its log."""
    for complete in (True, False):
        home = tmp_path / str(complete)
        home.mkdir()
        with closing(sqlite3.connect(home / DATABASE, isolation_level=None)) as old:
            old.executescript(f"{store_module._SCHEMA} PRAGMA user_version=1;")
            old.execute("INSERT INTO mark VALUES (?, ?, ?)", (KEY, START, START - 2 * W))
            source = bytes(10) + b"\xff\xff" + HOME.packed
            old.execute("INSERT INTO nonce VALUES (?, ?, ?, ?)", (KEY, nonce("a"), START, source))
        if complete:
            (home / COMPLETE).touch()
        store = SqliteStore(home)
        assert (store.loss is None) == complete
        memory = loaded(store, W, START)
        assert refusal(memory, "a") in ({"replay"} if complete else {"stale"})
        store.close()
        assert not (home / COMPLETE).exists()
        again = SqliteStore(home)
        assert again.loss is None
        again.close()


def test_a_floor_under_a_wrong_clock_gives_way_to_the_operators_word_alone(tmp_path: Path) -> None:
    year = 365 * 86400 * NS
    opened(tmp_path)[0].close()
    forget_run()
    for name in (DATABASE, MARK):
        (tmp_path / name).unlink()
    (tmp_path / "ratchet").touch()
    reopened(tmp_path, START + year)
    store, memory = opened(tmp_path, START)
    assert refusal(memory, "b", START + NS) == "stale"
    store.reset_all(START)
    store.close()
    for each in (memory, reopened(tmp_path, START)):
        assert each.floor_ns == START + W
        assert refusal(each, "b", START + W - 1) == "stale"
        assert refusal(each, "b", START + W) == "accepted"


def test_a_client_whose_clock_was_years_ahead_is_reset_and_nothing_opens_twice(tmp_path: Path) -> None:
    year, hour = 365 * 86400 * NS, 3600 * NS
    store, memory = opened(tmp_path)
    accept(store, "before")
    ahead = [START + year, START + year + hour, START + year + 3 * hour]
    for at in ahead:
        accept(store, at, at)
    now = START + 10 * NS
    assert refusal(memory, "honest", now) == "stale"
    done = store.reset(KEY, now)
    assert done is not None
    accept(store, "in between", now + 1)
    store.close()
    for each in (memory, reopened(tmp_path, now)):
        assert refusal(each, "before") == "stale"
        assert refusal(each, "just before", now - 1) == "stale"
        assert [refusal(each, at, at) for at in ahead] == ["stale"] * 3
        assert refusal(each, "honest", now + 2) == "accepted"
        assert refusal(each, "when that time comes", START + year + 2 * hour) == "accepted"
        assert [refusal(each, at, at) for at in ahead] == ["stale"] * 3


@pytest.mark.parametrize("table", ["mark", "nonce", "meta", "chain"])
def test_a_row_that_is_changed_gone_or_new_is_damage(tmp_path: Path, table: str) -> None:
    changes = {
        "mark": ["UPDATE mark SET high_ns = high_ns - 1", "UPDATE mark SET low_ns = 'x'", "DELETE FROM mark"],
        "nonce": ["DELETE FROM nonce WHERE rowid_like = 1", "UPDATE nonce SET nonce = x'00'", "DELETE FROM nonce"],
        "meta": ["INSERT OR REPLACE INTO meta VALUES ('floor_ns', 5)", "INSERT INTO meta VALUES ('x', 5)"],
        "chain": ["DELETE FROM chain", "UPDATE chain SET digest = x'00'", "UPDATE chain SET count = 'x'"],
    }
    for number, change in enumerate(changes[table]):
        home = tmp_path / str(number)
        home.mkdir()
        store, memory = opened(home)
        accept(store, "a")
        store.close()
        with closing(sqlite3.connect(home / DATABASE, isolation_level=None)) as other:
            other.execute(change.replace("rowid_like = 1", "timestamp_ns > 0"))
        again, memory = opened(home)
        assert again.loss, change
        assert again.damage, change
        assert refusal(memory, "a") == "stale"
        again.close()


def test_what_is_not_the_replay_memorys_may_be_damaged_and_costs_one_row(tmp_path: Path) -> None:
    store, _memory = opened(tmp_path)
    accept(store, "a")
    store._connection.execute("UPDATE seen SET source = x'00', name = CAST(x'ff' AS TEXT)")
    store._connection.execute("UPDATE holder SET ports = '22/nothing', address = x'01'")
    store.close()
    store, _ = opened(tmp_path)
    assert store.loss is None
    assert (store.seen(), list(store.holders())) == ({}, [])
    store.close()


def test_a_clock_beyond_what_64_bits_hold_stops_nothing(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    forget_run()
    (tmp_path / MARK).unlink()
    store = made_store(tmp_path)
    assert loaded(store, W, 2**63 + 10**18).floor_ns == 2**63 - 1
    assert store.failing is None
    store.close()
