"""The ratchet file: whole or refused, old or new, and what is replaced does not stay on the disk."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from openme.errors import OpenmeError
from openme.keeper import ratchet_file
from openme.keeper.ratchet_file import (
    FILE_NAME,
    FILE_SIZE,
    DamagedRatchetError,
    new_ratchet,
    read_ratchet,
    set_aside,
    write_ratchet,
)
from openme.keys.ratchet import NS, Ratchet

WEEK = 604_800
KEY = bytes(range(100, 132))


def ratchet(index: int = 2951) -> Ratchet:
    return Ratchet(WEEK, index, bytes(bytearray(KEY)))


def facts(made: Ratchet | None) -> tuple[int, int, bytes]:
    assert made is not None
    key = bytearray(32)
    made.copy_key_to(key, 0)
    return made.length, made.index, bytes(key)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_ratchet(tmp_path, ratchet())
    return tmp_path / FILE_NAME


# -- what it holds


def test_what_is_written_is_read(path: Path) -> None:
    assert facts(read_ratchet(path.parent)) == (WEEK, 2951, KEY)


def test_it_lies_as_its_table_says(path: Path) -> None:
    raw = path.read_bytes()
    assert len(raw) == FILE_SIZE == 4096, "a block: what is smaller may lie in an inode and so in a journal"
    assert raw[:16] == b"openme ratchet 1"
    assert raw[16:32] == WEEK.to_bytes(8, "big") + (2951).to_bytes(8, "big")
    assert raw[32:64] == KEY
    assert raw[64:72] == hashlib.sha256(raw[:64]).digest()[:8]
    assert raw[72:] == bytes(4024)


def test_the_file_of_72_bytes_that_earlier_versions_wrote_is_read(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:72])
    assert facts(read_ratchet(path.parent)) == (WEEK, 2951, KEY)


def test_it_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_ratchet(tmp_path, ratchet())
        write_ratchet(tmp_path, ratchet(2952))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert read_ratchet(tmp_path) is None


def test_a_new_ratchet_begins_with_the_epoch_it_is_made_in_and_is_random() -> None:
    one, two = new_ratchet(WEEK, 2951 * WEEK * NS + 5), new_ratchet(WEEK, 2952 * WEEK * NS - 1)
    assert (one.length, one.index) == (two.length, two.index) == (WEEK, 2951)
    assert facts(one)[2] != facts(two)[2]


# -- what is no ratchet


def test_every_flipped_bit_is_damage(path: Path) -> None:
    raw = path.read_bytes()
    for bit in (*range(8 * 80), *range(640, 8 * len(raw), 997), 8 * len(raw) - 1):
        path.write_bytes(bytes([*raw[: bit // 8], raw[bit // 8] ^ 1 << bit % 8, *raw[bit // 8 + 1 :]]))
        with pytest.raises(DamagedRatchetError):
            read_ratchet(path.parent)


def test_every_part_of_a_file_is_damage(path: Path) -> None:
    raw = path.read_bytes()
    for size in (*range(72), *range(73, FILE_SIZE, 61), FILE_SIZE - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(DamagedRatchetError, match="not a ratchet file"):
            read_ratchet(path.parent)


@pytest.mark.parametrize("content", [b"server:\n", b"x" * 72, bytes(72), bytes(5000)])
def test_a_foreign_file_is_damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedRatchetError) as caught:
        read_ratchet(path.parent)
    assert str(path) in caught.value.message


def test_something_behind_a_ratchet_is_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedRatchetError):
        read_ratchet(path.parent)


@pytest.mark.parametrize(("length", "index"), [(0, 1)])
def test_a_whole_file_with_impossible_numbers_is_damage(path: Path, length: int, index: int) -> None:
    head = b"openme ratchet 1" + length.to_bytes(8, "big") + index.to_bytes(8, "big") + KEY
    path.write_bytes(head + hashlib.sha256(head).digest()[:8])
    with pytest.raises(DamagedRatchetError):
        read_ratchet(path.parent)


def test_damage_is_named_without_a_key(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedRatchetError) as caught:
        read_ratchet(path.parent)
    assert KEY.hex() not in repr(caught.value) + (caught.value.hint or "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(OpenmeError, match="others can read the ratchet") as caught:
        read_ratchet(path.parent)
    assert not isinstance(caught.value, DamagedRatchetError), "a loose mode must not cost the keys"
    assert "chmod 600" in (caught.value.hint or "")


def test_a_link_is_not_followed_for_reading_and_replaced_by_writing(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(OpenmeError):
        read_ratchet(path.parent)
    write_ratchet(path.parent, ratchet(2952))
    assert facts(read_ratchet(path.parent))[1] == 2952
    assert not path.is_symlink()
    assert elsewhere.read_bytes()[32:64] == KEY


def test_a_directory_in_its_place_is_an_error_and_no_damage(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir(0o700)
    with pytest.raises(OpenmeError) as caught:
        read_ratchet(tmp_path)
    assert not isinstance(caught.value, DamagedRatchetError)


def test_what_was_read_is_wiped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[bytearray] = []
    monkeypatch.setattr(ratchet_file, "wipe", wiped.append)
    read_ratchet(path.parent)
    write_ratchet(path.parent, ratchet())
    assert [bytes(content[32:64]) for content in wiped] == [KEY, KEY]


def test_a_damaged_file_is_set_aside_and_not_lost(path: Path) -> None:
    path.write_bytes(b"half")
    kept = set_aside(path.parent)
    assert kept.read_bytes() == b"half"
    assert kept.name.startswith("ratchet.damaged-")
    assert read_ratchet(path.parent) is None


# -- old or new


def test_the_old_content_is_overwritten_where_it_lay(path: Path) -> None:
    with path.open("rb") as old:
        later = ratchet().later(2952)
        write_ratchet(path.parent, later)
        assert old.read() == bytes(FILE_SIZE)
    assert facts(read_ratchet(path.parent)) == facts(later)


def test_what_a_crash_left_half_done_is_overwritten_too(path: Path) -> None:
    """It holds the key of an epoch that is erased one day, and must not outlive that in a block that nobody owns."""
    left = path.with_name(".ratchet.new")
    left.write_bytes(path.read_bytes())
    with left.open("rb") as half_done:
        write_ratchet(path.parent, ratchet(2952))
        assert half_done.read() == bytes(FILE_SIZE)
    assert not left.exists()


def test_what_a_full_disk_refused_is_overwritten_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def refuse(self: Path, target: Path) -> Path:
        held.append(os.open(self, os.O_RDONLY))
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_ratchet(path.parent, ratchet(2952))
    assert os.pread(held[0], FILE_SIZE, 0) == bytes(FILE_SIZE)
    os.close(held[0])


Fault = Callable[[pytest.MonkeyPatch], None]


def _short_write(patch: pytest.MonkeyPatch) -> None:
    real = os.write
    patch.setattr(os, "write", lambda descriptor, content: real(descriptor, bytes(content)[:40]))


def _failing(name: str) -> Fault:
    def fault(patch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, name, refuse)

    return fault


def _failing_rename(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    patch.setattr(Path, "rename", refuse)


@pytest.mark.parametrize("fault", [_short_write, _failing("write"), _failing("link"), _failing_rename])
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(OSError, match=r"No space|Read-only"):
            write_ratchet(path.parent, ratchet(2952))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME]


class Crash(BaseException):
    """The machine stops here."""


def test_a_crash_at_any_step_leaves_a_whole_ratchet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each call that touches the disk, in turn, until one run ends by itself."""
    calls = [(os, "open"), (os, "write"), (os, "fsync"), (os, "pwrite"), (os, "link"), (Path, "rename")]
    calls += [(Path, "unlink")]
    seen: set[int] = set()
    for step in range(40):
        write_ratchet(path.parent, ratchet())
        left = [step]
        with monkeypatch.context() as patch:
            for owner, name in calls:
                _crash_after(patch, owner, name, left)
            try:
                write_ratchet(path.parent, ratchet().later(2952))
                ended = True
            except Crash:
                ended = False
        found = facts(read_ratchet(path.parent))
        seen.add(found[1])
        assert found in {facts(ratchet()), facts(ratchet().later(2952))}
        if ended:
            break
    else:
        pytest.fail("it never ends")
    assert step > 5
    assert seen == {2951, 2952}


def _crash_after(patch: pytest.MonkeyPatch, owner: object, name: str, left: list[int]) -> None:
    real = getattr(owner, name)

    def act(*arguments: object, **named: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        return real(*arguments, **named)

    patch.setattr(owner, name, act)


def test_the_new_file_is_on_the_disk_before_the_old_one_is_overwritten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for owner, name in ((os, "write"), (os, "fsync"), (os, "pwrite"), (os, "link"), (Path, "rename"), (Path, "unlink")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, _noting(real, name, order))
    write_ratchet(path.parent, ratchet(2952))
    assert order == [
        *("write", "fsync"),
        *("link", "fsync"),  # from here on the old content has a name until it is overwritten
        *("rename", "fsync"),
        *("pwrite", "fsync"),
        *("unlink", "fsync"),
    ]


def _noting(real: Callable[..., object], name: str, order: list[str]) -> Callable[..., object]:
    def act(*arguments: object, **named: object) -> object:
        order.append(name)
        return real(*arguments, **named)

    return act
