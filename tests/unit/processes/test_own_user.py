"""A user id of one's own: unused by whoever tells, mapped, locked."""

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.errors import OpenmeError
from openme.processes import own_user
from openme.processes.own_user import FIRST, LAST, Places, user_for

pytestmark = pytest.mark.root

ALL = "0 0 4294967295\n"


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root without a user `openme`."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(own_user, "has", lambda *_: True)
    monkeypatch.setattr(own_user, "DEFAULT_NAME", "no-such-user-here")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "proc", tmp_path / "dynamic-uid", tmp_path / "run")
    (made.proc / "self").mkdir(parents=True)
    made.systemd.mkdir()
    for name in ("uid_map", "gid_map"):
        (made.proc / "self" / name).write_text(ALL)
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def taken(stack: ExitStack, places: Places, run_as: str | None = None) -> int:
    user, warning = user_for(stack, run_as, (), places)
    assert warning is None
    assert user is not None
    assert user.uid == user.gid or run_as is not None
    return user.uid


def process(places: Places, *lines: str, pid: int = 7) -> None:
    folder = places.proc / str(pid)
    folder.mkdir()
    (folder / "status").write_text("Name:\tx\n" + "".join(f"{line}\n" for line in lines))


def first(places: Places) -> int:
    """The id that would be taken if nothing spoke against it."""
    with ExitStack() as stack:
        return taken(stack, places)


def test_it_is_in_the_range_and_the_same_at_each_start(places: Places) -> None:
    assert FIRST <= first(places) <= LAST
    assert first(places) == first(places)


@pytest.mark.parametrize(
    "line",
    ["Uid:\t{0}\t0\t0\t0", "Uid:\t0\t{0}\t0\t0", "Uid:\t0\t0\t{0}\t0", "Gid:\t0\t0\t0\t{0}", "Groups:\t5 {0} 7 "],
)
def test_an_id_of_a_running_process_is_passed_over(stack: ExitStack, places: Places, line: str) -> None:
    free = first(places)
    process(places, line.format(free))
    assert taken(stack, places) != free


@pytest.mark.parametrize("what", ["pwd.getpwuid", "grp.getgrgid"])
def test_a_known_id_is_passed_over(
    stack: ExitStack, places: Places, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    free = first(places)

    def known(number: int) -> object:
        if number == free:
            return object()
        raise KeyError

    monkeypatch.setattr(what, known)
    assert taken(stack, places) != free


def test_an_id_that_systemd_has_given_away_is_passed_over(stack: ExitStack, places: Places) -> None:
    free = first(places)
    (places.systemd / f"direct:{free}").symlink_to("some-service")
    second = taken(stack, places)
    assert second != free


@pytest.mark.parametrize("where", ["systemd", "run_dir"])
def test_an_id_that_another_holds_the_lock_of_is_passed_over(stack: ExitStack, places: Places, where: str) -> None:
    free = first(places)
    places.run_dir.mkdir(mode=0o700)
    path = places.systemd / str(free) if where == "systemd" else places.run_dir / f"user-{free}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert taken(stack, places) != free
    os.close(descriptor)


def test_roles_and_servers_have_different_ones(stack: ExitStack, places: Places) -> None:
    assert len({taken(stack, places) for _ in range(5)}) == 5


def test_without_a_place_for_locks_they_differ_too(stack: ExitStack, places: Places) -> None:
    places.systemd.rmdir()
    places.run_dir.write_text("in the way")
    assert len({taken(stack, places) for _ in range(3)}) == 3


def test_it_is_free_again_when_the_stack_closes(places: Places) -> None:
    assert first(places) == first(places)
    assert list(places.systemd.iterdir()) == []
    assert not places.run_dir.exists()


def test_a_lock_that_others_may_write_to_is_none(stack: ExitStack, places: Places) -> None:
    places.systemd.chmod(0o777)
    taken(stack, places)
    assert list(places.systemd.iterdir()) == []


def test_the_owner_of_what_is_ours_is_passed_over(places: Places, tmp_path: Path) -> None:
    config = tmp_path / "folder" / "config.yaml"
    config.parent.mkdir()
    config.touch(mode=0o600)
    with ExitStack() as stack:
        free, _ = user_for(stack, None, (config,), places)
    assert free is not None
    os.chown(config, free.uid, 0)
    with ExitStack() as stack:
        other, _ = user_for(stack, None, (config,), places)
    assert other is not None
    assert other.uid != free.uid


def test_ids_that_are_not_mapped_are_passed_over_and_none_left_is_an_error(stack: ExitStack, places: Places) -> None:
    (places.proc / "self/gid_map").write_text(f"0 100000 10\n{FIRST + 5} 7 1\n")
    assert taken(stack, places) == FIRST + 5
    with pytest.raises(OpenmeError, match="no user id from 61184 to 65519 is free") as caught:
        taken(stack, places)
    assert "useradd" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["uid_map", "gid_map"])
def test_where_one_id_is_mapped_all_keep_ours_with_a_warning(stack: ExitStack, places: Places, name: str) -> None:
    (places.proc / "self" / name).write_text("0 1000 1\n")
    user, warning = user_for(stack, None, (), places)
    assert user is None
    assert warning is not None
    assert "no second user is mapped" in warning
    assert "could signal the others" in warning


def test_not_root_keeps_its_user_with_a_warning(
    stack: ExitStack, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    user, warning = user_for(stack, None, (), places)
    assert user is None
    assert warning is not None
    assert warning.startswith("run_as: not started as root")


def test_the_user_openme_comes_first_where_there_is_one(
    stack: ExitStack, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = pwd.getpwnam("daemon")
    monkeypatch.setattr(own_user, "DEFAULT_NAME", "daemon")
    assert taken(stack, places, "daemon") == daemon.pw_uid
    user, _ = user_for(stack, None, (), places)
    assert user is not None
    assert (user.uid, user.gid) == (daemon.pw_uid, daemon.pw_gid)


@pytest.mark.parametrize(("name", "why"), [("nobody", "shared"), ("root", "is root"), ("nosuchuser", "no user")])
def test_a_name_that_will_not_do_is_an_error(stack: ExitStack, places: Places, name: str, why: str) -> None:
    with pytest.raises(OpenmeError, match=why):
        user_for(stack, name, (), places)


def test_a_lock_whose_file_was_removed_meanwhile_is_none(
    stack: ExitStack, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder has ended between our open and our lock, and a third may have made the file anew."""
    free = first(places)
    path = places.run_dir / f"user-{free}"
    lock = fcntl.flock

    def lock_late(descriptor: int, how: int) -> None:
        path.unlink(missing_ok=True)
        lock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", lock_late)
    assert taken(stack, places) != free


def test_an_id_that_a_process_takes_while_we_lock_it_is_passed_over(
    stack: ExitStack, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = first(places)
    lock = fcntl.flock

    def lock_and_lose(descriptor: int, how: int) -> None:
        lock(descriptor, how)
        if not (places.proc / "7").exists():
            process(places, f"Uid:\t{free}\t0\t0\t0")

    monkeypatch.setattr("fcntl.flock", lock_and_lose)
    assert taken(stack, places) != free
