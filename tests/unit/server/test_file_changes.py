"""What the kernel tells of files, and when they are to be looked at all the same."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from openme.server import file_changes
from openme.server.file_changes import LOOK_INTERVAL, POLL_INTERVAL, FileChanges


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a file."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("old")
    (tmp_path / "beside").write_text("new")
    return tmp_path / "kept"


@pytest.fixture
def changes(folder: Path) -> Iterator[FileChanges]:
    with closing(FileChanges([folder / "file", folder / "another"])) as made:
        if not made.tells:
            pytest.skip("this machine keeps temporary files where the kernel tells nothing")
        yield made


def has_told(changes: FileChanges) -> bool:
    """Whether there is news, which is then taken. The kernel has it at once: nothing is waited for."""
    told = bool(select.select([changes], [], [], 0)[0])
    changes.read()
    assert not select.select([changes], [], [], 0)[0]
    return told


def written(folder: Path) -> None:
    (folder / "file").write_text("new")


def replaced(folder: Path) -> None:
    (folder.parent / "beside").replace(folder / "file")


def made(folder: Path) -> None:
    (folder / "another").touch()


def removed(folder: Path) -> None:
    (folder / "file").unlink()


def moved_away(folder: Path) -> None:
    (folder / "file").rename(folder.parent / "elsewhere")


def shut(folder: Path) -> None:
    (folder / "file").chmod(0)


def linked(folder: Path) -> None:
    (folder / "another").symlink_to(folder / "file")


@pytest.mark.parametrize("change", [written, replaced, made, removed, moved_away, shut, linked])
def test_every_change_is_told(folder: Path, changes: FileChanges, change: Callable[[Path], None]) -> None:
    assert not has_told(changes)
    change(folder)
    assert has_told(changes)
    assert changes.interval == LOOK_INTERVAL


def test_who_reads_or_goes_on_writing_wakes_nobody(folder: Path, changes: FileChanges) -> None:
    """The database in `state_dir` stays open, and each knock writes into it."""
    with (folder / "file").open("r+b", buffering=0) as file:
        file.write(b"more")
        os.fsync(file.fileno())
        (folder / "file").read_bytes()
        (folder / "file").stat()
        assert not has_told(changes)
    assert has_told(changes), "it is closed"


def test_what_a_link_leads_to_is_told_of(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config").symlink_to(folder / "file")
    with closing(FileChanges([tmp_path / "etc/config"])) as changes:
        written(folder)
        assert has_told(changes)
        assert changes.tells
        (tmp_path / "etc/config").unlink()
        assert has_told(changes)
        assert not changes.tells, "a new one may lead where the kernel was not asked to look"


def test_a_link_on_the_way_that_is_set_anew_is_told_of_and_then_it_is_looked_at_as_often_as_any(
    folder: Path, tmp_path: Path
) -> None:
    """Relative, through `..`, and from one link to another: each lies in a directory that is not the file's."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/now").symlink_to(folder)
    (tmp_path / "etc").symlink_to("srv/../srv/now")
    with closing(FileChanges([tmp_path / "etc/file"])) as changes:
        written(folder)
        assert has_told(changes)
        assert changes.tells
        (tmp_path / "next").symlink_to(tmp_path)
        (tmp_path / "next").replace(tmp_path / "srv/now")
        assert has_told(changes)
        assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_links_in_a_circle_are_looked_for_as_often_as_any(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with closing(FileChanges([tmp_path / "one/file"])) as changes:
        assert not changes.tells


def test_a_file_is_told_of_whichever_way_it_is_changed(folder: Path, tmp_path: Path, changes: FileChanges) -> None:
    """One that is mounted on its name, as into a container, is changed in another directory."""
    (tmp_path / "same").hardlink_to(folder / "file")
    assert has_told(changes), "its number of links"
    (tmp_path / "same").write_text("by another name")
    assert has_told(changes)
    replaced(folder)
    assert has_told(changes)
    assert changes.tells


@pytest.mark.parametrize(
    "gone", [lambda f: f.rename(f.with_name("old")), lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir()]
)
def test_a_directory_that_is_not_what_it_was_is_looked_into_as_often_as_any(
    folder: Path, changes: FileChanges, gone: Callable[[Path], object]
) -> None:
    gone(folder)
    assert has_told(changes)
    assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_a_directory_above_that_gets_another_name_is_told_of_too(tmp_path: Path) -> None:
    """As who puts a new release in the place of the old one does: the file's own directory stays in the old one."""
    (tmp_path / "release/etc/openme").mkdir(parents=True)
    (tmp_path / "release/etc/openme/file").write_text("old")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/etc").symlink_to("../release/etc")
    with closing(FileChanges([tmp_path / "links/etc/openme/file"])) as changes:
        (tmp_path / "beside").touch()
        (tmp_path / "release/beside").touch()
        assert not has_told(changes), "what else lies in a directory above concerns nobody"
        assert changes.tells
        (tmp_path / "release").rename(tmp_path / "release.old")
        assert has_told(changes)
        assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_a_directory_that_is_above_one_file_and_has_another_is_told_of_for_both(folder: Path) -> None:
    with closing(FileChanges([folder.parent / "beside", folder / "file"])) as changes:
        (folder.parent / "beside").write_text("newer")
        assert has_told(changes)
        written(folder)
        assert has_told(changes)
        assert changes.tells


def test_a_directory_above_that_may_not_be_read_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, root = FileChanges._add, Path("/")
    monkeypatch.setattr(FileChanges, "_add", lambda self, path, mask: -1 if path == root else add(self, path, mask))
    with closing(FileChanges([folder / "file"])) as changes:
        assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_more_than_the_kernel_keeps_is_news_and_what_was_lost_may_be_a_directory_s_end(
    folder: Path, changes: FileChanges
) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most // 3 + 10):
        path = folder / f"{number % 7}"
        path.touch()
        path.unlink()
    folder.rename(folder.with_name("old"))
    assert has_told(changes)
    assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_where_others_may_write_past_this_kernel_it_is_looked_at_as_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_changes, "_LOCAL", {0x6969: "NFS"})
    with closing(FileChanges([folder / "file"])) as changes:
        assert (changes.tells, changes.interval, changes.fileno()) == (False, POLL_INTERVAL, -1)


def test_a_directory_that_is_not_there_is_looked_for(folder: Path) -> None:
    with closing(FileChanges([folder / "file", folder / "none/file"])) as changes:
        assert (changes.tells, changes.interval) == (False, POLL_INTERVAL)


def test_a_limit_of_watches_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        inotify_init1 = staticmethod(lambda _flags: os.open(os.devnull, os.O_RDONLY))
        inotify_add_watch = staticmethod(lambda *_: -1)
        statfs = staticmethod(file_changes._libc.statfs)

    monkeypatch.setattr(file_changes, "_libc", Refusing)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with closing(FileChanges([folder / "file"])) as changes:
        assert not changes.tells
    assert len(list(Path("/proc/self/fd").iterdir())) == before
