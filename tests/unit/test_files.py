"""A file is the old or the new one, whatever fails on the way."""

import errno
import os
import stat
from pathlib import Path

import pytest

from openme import files


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_a_new_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_new(tmp_path / "a", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_bytes() == b"secret"


@pytest.mark.parametrize("there", ["file", "link", "dangling link"])
def test_what_is_there_is_never_written_into(tmp_path: Path, there: str) -> None:
    path, victim = tmp_path / "a", tmp_path / "victim"
    if there != "dangling link":
        victim.write_text("theirs")
    if there == "file":
        path.write_text("theirs")
    else:
        path.symlink_to(victim)
    before = listing(tmp_path)
    with pytest.raises(FileExistsError):
        files.write_new(path, b"ours")
    assert listing(tmp_path) == before
    assert not victim.exists() or victim.read_text() == "theirs"


@pytest.mark.parametrize("fails", ["write", "fsync", "fchmod", "close"])
def test_a_new_file_that_cannot_be_finished_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    real = os.close

    def close(descriptor: int) -> None:
        real(descriptor)
        refuse()

    monkeypatch.setattr(os, fails, close if fails == "close" else refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_new(tmp_path / "a", b"ours")
    monkeypatch.undo()
    assert listing(tmp_path) == []


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_a_file_that_cannot_be_replaced_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(OSError, match="No space"):
        files.replace_file(path, b"new")
    monkeypatch.undo()
    assert (listing(tmp_path), path.read_text()) == (["a"], "old")


def test_a_write_in_parts_is_whole_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    files.replace_file(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_content_and_name_are_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        assert (tmp_path / "a").exists() == synced[-1]
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.replace_file(tmp_path / "a", b"new")
    assert synced == [False, True]
    files.replace_file(tmp_path / "a", b"newer", durable=False)
    assert synced == [False, True]


def test_a_lone_writer_leaves_one_file_at_most_however_often_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        files.replace_file(tmp_path / "a", b"new", own_name="me")
    assert listing(tmp_path) == [".a.me"]
    monkeypatch.undo()
    files.replace_file(tmp_path / "a", b"new", own_name="me")
    assert listing(tmp_path) == ["a"]


def test_the_owner_is_kept(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        return
    path = tmp_path / "a"
    path.write_text("old")
    os.chown(path, 12345, 54321)
    files.replace_file(path, b"new", owner=path.stat())
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


# -- piece by piece


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_a_file_of_pieces_is_the_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o666)
    before = os.umask(mask)
    try:
        with files.replacing(path, "me") as put:
            assert stat.S_IMODE((tmp_path / ".a.me").stat().st_mode) == 0o600
            put(b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"secret"


def test_pieces_are_whole_in_the_end_and_until_then_readers_see_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a", os.write
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    with path.open("rb") as reader:
        with files.replacing(path, "me") as put:
            for piece in (b"0123456789", b"", b"abcdef"):
                put(piece)
                assert path.read_bytes() == b"old"
        assert reader.read() == b"old"
    assert (listing(tmp_path), path.read_bytes()) == (["a"], b"0123456789abcdef")


@pytest.mark.parametrize("hard", [False, True])
def test_pieces_go_into_nothing_that_somebody_put_in_the_way(tmp_path: Path, hard: bool) -> None:  # noqa: FBT001
    path, victim, trap = tmp_path / "a", tmp_path / "victim", tmp_path / ".a.me"
    victim.write_text("theirs")
    if hard:
        trap.hardlink_to(victim)
    else:
        trap.symlink_to(victim)
    with files.replacing(path, "me") as put:
        put(b"secret")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("theirs", "secret", False)
    assert listing(tmp_path) == ["a", "victim"]


@pytest.mark.parametrize("fails", ["write", "fchmod", "replace", "caller"])
def test_pieces_that_fail_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    if fails != "caller":
        monkeypatch.setattr(Path if fails == "replace" else os, fails, refuse)

    def write() -> None:
        with files.replacing(path, "me") as put:
            put(b"new")
            if fails == "caller":
                refuse()

    with pytest.raises(OSError, match="No space"):
        write()
    monkeypatch.undo()
    assert (listing(tmp_path), path.read_text()) == (["a"], "old")


def test_a_place_for_pieces_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), files.replacing(tmp_path / "missing" / "a", "me"):
        pytest.fail("there is nothing to write to")
