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
