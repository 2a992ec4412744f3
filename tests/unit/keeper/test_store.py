"""What survives the server: rows that are there after a crash, and a memory that never claims more than it knows."""

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openme.keeper import store as keeper_store
from openme.keeper import store as store_module
from openme.keeper.replay import Remembered, ReplayMemory, ReplayRefusal
from openme.keeper.store import COMPLETE, DATABASE, Accepted, Holder, Seen, Store, StoreError, read_seen
from openme.ports import parse_port_spec
from openme.wire.knock import IPAddress, Knock
from support.knocks import ELSEWHERE, HOME, NS, START, nonce

RUN = Path(tempfile.mkdtemp())
KEY = b"K" * 32
PORTS = parse_port_spec("22/tcp")
W = 60 * NS


def accept(memory: ReplayMemory, store: Store, label: object, at: int = START, *, grant: bool = True) -> Accepted:
    outcome = memory.accept(KEY, Knock(at, nonce(label), None), HOME)
    assert isinstance(outcome, Remembered)
    holder = Holder(KEY, ELSEWHERE, "alice", PORTS, at / NS, at / NS + 30) if grant else None
    accepted = Accepted(outcome, "alice", at / NS, holder)
    store.commit([accepted])
    return accepted


def made_store(directory: Path) -> Store:
    """A store as the server makes it: with a place for what only a restart of the machine loses."""
    RUN.mkdir(exist_ok=True)
    return Store(directory, RUN)


def refusal(memory: ReplayMemory, label: object, at: int = START) -> str:
    outcome = memory.accept(KEY, Knock(at, nonce(label), None), HOME)
    return outcome.reason if isinstance(outcome, ReplayRefusal) else "accepted"


def opened(directory: Path, now: int = START) -> tuple[Store, ReplayMemory]:
    store = made_store(directory)
    return store, store.load(W, now)


def reopened(directory: Path, now: int = START) -> ReplayMemory:
    store, memory = opened(directory, now)
    store.close()
    return memory


def test_an_accepted_knock_is_refused_after_a_restart(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    store.close()
    later = reopened(tmp_path)
    assert refusal(later, "a") == "replay"
    assert refusal(later, "b", START - 2 * W - 1) == "stale"
    assert refusal(later, "c", START - 1) == "accepted"


def test_what_is_committed_is_there_although_nothing_was_closed(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal", COMPLETE):
        shutil.copy(tmp_path / name, copy / name)
    store.close()
    assert refusal(reopened(copy), "a") == "replay"


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    connection = store._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_who_was_in_and_who_was_seen_come_back(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    store.close()
    store = made_store(tmp_path)
    assert store.holders() == [Holder(KEY, ELSEWHERE, "alice", PORTS, START / NS, START / NS + 30)]
    assert store.seen() == read_seen(tmp_path) == {KEY: Seen("alice", START / NS, HOME)}
    store.close()


def given(store: Store, address: IPAddress, ends: float, key: bytes = KEY) -> None:
    """A door for an address that closes so many seconds after the start."""
    holder = Holder(key, address, "alice", PORTS, START / NS, START / NS + ends)
    store.commit([Accepted(Remembered(key, START, nonce(address), HOME, 0), "alice", START / NS, holder)])


def test_of_one_client_the_addresses_whose_doors_closed_last_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_HOLDERS", 3)
    store = made_store(tmp_path)
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
    store = made_store(tmp_path)
    for number, ends in enumerate([30, 31, 32, 33, 34, -1]):
        given(store, ELSEWHERE + number, ends)
    assert [holder.address for holder in store.holders_of(KEY)] == [ELSEWHERE + number for number in range(5)]
    store.close()


def test_holders_that_wait_for_the_disk_are_named_too(tmp_path: Path) -> None:
    store = made_store(tmp_path)
    store._connection = FailingConnection(store._connection)  # type: ignore[assignment]  # the three methods in use
    given(store, ELSEWHERE, 30)
    given(store, HOME, 30, b"B" * 32)
    assert store.failing is not None
    assert [holder.address for holder in store.holders_of(KEY)] == [ELSEWHERE]
    store.close()


def test_a_knock_that_opened_nothing_is_remembered_and_holds_nothing(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "a", grant=False)
    assert store.holders() == []
    store.close()
    assert refusal(reopened(tmp_path), "a") == "replay"


def test_old_nonces_leave_the_disk_as_they_leave_the_memory(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    for number in range(50):
        accept(memory, store, number, START + number * W)
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


def test_a_window_that_grows_over_a_restart_reopens_nothing(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    for number in range(5):
        accept(memory, store, number, START + number * W)
    store.close()
    store = made_store(tmp_path)
    later = store.load(100 * W, START)
    store.close()
    assert [refusal(later, number, START + number * W) for number in range(5)] == ["stale"] * 2 + ["replay"] * 3


def test_a_first_start_knows_everything(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    assert store.was_complete
    assert (tmp_path / COMPLETE).exists()
    assert refusal(memory, "a", START - 50 * NS) == "accepted"
    store.close()


def test_a_start_without_the_mark_trusts_only_what_is_signed_after_it(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    (tmp_path / COMPLETE).unlink()
    store, memory = opened(tmp_path, START)
    assert not store.was_complete
    assert refusal(memory, "a", START - 1) == "stale"
    assert refusal(memory, "a", START) == "accepted"
    store.close()
    assert refusal(reopened(tmp_path, START + NS), "b", START - 1) == "stale", "the floor outlives the next start"


def test_a_lost_database_is_no_first_start(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    (tmp_path / DATABASE).unlink()
    store, memory = opened(tmp_path, START)
    assert not store.was_complete
    assert refusal(memory, "a", START - 1) == "stale"
    store.close()


def test_a_start_that_ends_before_loading_leaves_no_mark_behind(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    (tmp_path / DATABASE).unlink()
    made_store(tmp_path).close()
    assert not made_store(tmp_path).was_complete


@pytest.mark.parametrize("damage", ["garbage", "page", "empty head"])
def test_a_damaged_database_is_set_aside_and_nothing_old_opens(tmp_path: Path, damage: str) -> None:
    store, memory = opened(tmp_path)
    for number in range(200):
        accept(memory, store, number, START + number)
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


def test_damage_noticed_and_then_a_crash_is_still_damage(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    (tmp_path / DATABASE).write_bytes(b"garbage" * 999)
    made_store(tmp_path)._connection.close()  # ended before load
    store, memory = opened(tmp_path, START)
    assert refusal(memory, "a", START - 1) == "stale"
    store.close()


def test_a_database_of_a_newer_openme_is_left_alone(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store._connection.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(StoreError, match="newer openme"):
        made_store(tmp_path)
    assert list(tmp_path.glob("*.damaged-*")) == []


def test_without_a_directory_the_memory_decides_and_says_so(tmp_path: Path) -> None:
    store = made_store(tmp_path / "missing")
    memory = store.load(W, START)
    assert store.failing is not None
    assert not store.was_complete
    accept(memory, store, "a", START + W)  # nobody knows what was accepted before, however far it was dated ahead
    assert store.failing is not None
    assert refusal(memory, "a", START + W) == "replay"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_read_now_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path)[0].close()

    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store_module, "_check", fails)
    store = made_store(tmp_path)
    assert store.failing is not None
    assert "disk I/O error" in store.failing
    assert list(tmp_path.glob("*.damaged-*")) == []
    assert not (tmp_path / COMPLETE).exists()


def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store, memory = opened(tmp_path)
        accept(memory, store, "a")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert set(modes) >= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", COMPLETE}
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

    def close(self) -> None:
        self._real.close()


def test_a_full_disk_locks_nobody_out_and_the_next_start_is_strict(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the three methods that are used
    accept(memory, store, "a")
    assert store.failing == "database or disk is full"
    assert not (tmp_path / COMPLETE).exists()
    assert refusal(memory, "a") == "replay"
    assert refusal(memory, "b") == "accepted"
    full._real.close()  # killed
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "a") == "stale"
    assert refusal(later, "c", START + NS) == "accepted"


def test_what_a_full_disk_refused_is_written_when_it_has_room_again(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the three methods that are used
    accept(memory, store, "a")
    accept(memory, store, "b")
    full.full = False
    accept(memory, store, "c")
    assert store.failing is None
    assert (tmp_path / COMPLETE).exists()
    store.close()
    later = reopened(tmp_path)
    assert [refusal(later, label) for label in "abc"] == ["replay"] * 3
    assert refusal(later, "d", START - 1) == "accepted"


def test_a_mark_that_cannot_be_made_only_makes_the_next_start_stricter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(keeper_store, "sync_directory", fails)
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    store.close()
    monkeypatch.undo()
    assert refusal(reopened(tmp_path), "a") in {"replay", "stale"}


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100])
def test_reading_beside_the_server_never_fails(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / DATABASE).write_bytes(content)
    assert read_seen(tmp_path) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


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
        accept(memory, store, number, START + number)
        number += 1
        assert number < 1000
    assert not (small_disk / COMPLETE).exists()
    assert [refusal(memory, n, START + n) for n in range(number)] == ["replay"] * number
    store._connection.close()
    (small_disk / "filler").unlink()
    later = reopened(small_disk, START + NS)
    assert {refusal(later, n, START + n) for n in range(number)} <= {"stale", "replay"}
    assert refusal(later, "new", START + NS) == "accepted"


@pytest.mark.root
def test_a_start_on_a_full_disk_says_so_and_sets_nothing_aside(small_disk: Path) -> None:
    store, memory = opened(small_disk)
    accept(memory, store, "a")
    store.close()
    fill(small_disk)
    strict = made_store(small_disk)
    assert strict.failing is not None
    assert refusal(strict.load(W, START + NS), "a") == "stale"
    strict.close()
    assert list(small_disk.glob("*.damaged-*")) == []
    (small_disk / "filler").unlink()
    # What was accepted from memory alone is nowhere, so the next start trusts nothing from before it.
    assert refusal(reopened(small_disk, START + 2 * NS), "a") == "stale"


def test_a_floor_that_cannot_be_written_holds_all_the_same(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    (tmp_path / COMPLETE).unlink()
    store = made_store(tmp_path)
    full = FailingConnection(store._connection)
    store._connection = full  # type: ignore[assignment]  # the three methods that are used
    memory = store.load(W, START)
    assert refusal(memory, "a", START - 1) == "stale"
    assert not (tmp_path / COMPLETE).exists()
    full.full = False
    accept(memory, store, "b")
    assert (tmp_path / COMPLETE).exists()
    store.close()
    later = reopened(tmp_path, START + NS)
    assert [refusal(later, "a", START - 1), refusal(later, "b")] == ["stale", "replay"]


def test_a_knock_dated_ahead_opens_nothing_twice_though_the_memory_is_lost(tmp_path: Path) -> None:
    """A floor at the moment of the start would let it in again: its time is still to come."""
    store, memory = opened(tmp_path)
    accept(memory, store, "ahead", START + W)
    store._connection.close()  # killed
    (tmp_path / DATABASE).write_bytes(b"garbage" * 1000)
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "ahead", START + W) == "stale"
    assert refusal(later, "new", START + W + 1) == "accepted"


def test_a_database_that_has_vanished_is_noticed(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    again = made_store(tmp_path)
    assert not again.was_complete
    later = again.load(W, START + NS)
    assert refusal(later, "a") == "stale"
    assert refusal(later, "b", START + NS) == "accepted"


def test_without_anything_left_a_start_refuses_whatever_may_have_been_dated_ahead(tmp_path: Path) -> None:
    store, memory = opened(tmp_path)
    accept(memory, store, "ahead", START + W)
    store.close()
    (tmp_path / COMPLETE).unlink()
    for path in RUN.iterdir():  # the machine was started anew
        path.unlink()
    later = reopened(tmp_path, START + NS)
    assert refusal(later, "new", START + NS + W - 1) == "stale"
    assert refusal(later, "new", START + NS + W) == "accepted"


def test_a_floor_under_a_wrong_clock_gives_way_when_the_clock_is_right_again(tmp_path: Path) -> None:
    year = 365 * 86400 * NS
    store, memory = opened(tmp_path)
    accept(memory, store, "a")
    store.close()
    (tmp_path / COMPLETE).unlink()
    store, memory = opened(tmp_path, START + year)
    assert memory.settle_floor(START + year) is None
    assert refusal(memory, "b", START + NS) == "stale"
    floor = memory.settle_floor(START + NS)
    assert floor == START + NS
    store.set_floor(floor)
    store.close()
    later = reopened(tmp_path, START + 2 * NS)
    assert refusal(later, "a") in {"stale", "replay"}
    assert refusal(later, "b", START + NS) == "accepted"


def test_a_client_whose_clock_was_years_ahead_is_reset_and_nothing_opens_twice(tmp_path: Path) -> None:
    year = 365 * 86400 * NS
    store, memory = opened(tmp_path)
    accept(memory, store, "before")
    accept(memory, store, "ahead", START + year)
    now = START + 10 * NS
    assert refusal(memory, "honest", now) == "stale"
    assert memory.reset(KEY, now)
    store.reset(KEY, now)
    store.close()
    for each in (memory, reopened(tmp_path, now)):
        assert refusal(each, "before") == "stale"
        assert refusal(each, "just before", now - 1) == "stale"
        assert refusal(each, "ahead", START + year) == "replay"
        assert refusal(each, "honest", now) == "accepted"
        assert not each.reset(KEY, now)
