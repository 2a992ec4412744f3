"""What is no file where a server keeps one: `check-config` sees it; `serve` refuses in the same words, or goes on."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openme.run_dir import RUN_DIR
from openme.store.places import beside
from support.command import Place, place

BESIDE = "copy of the mark"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    made = place(tmp_path)
    made.prepare()
    made.client("alice")
    yield made
    beside(RUN_DIR, "newest", made.state).unlink(missing_ok=True)


def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def nowhere(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.touch(mode=0o600)
    path.symlink_to(target)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))


def path_of(here: Place, name: str) -> Path:
    return beside(RUN_DIR, "newest", here.state) if name == BESIDE else here.state / name


def put(here: Place, name: str, make: Callable[[Path], None]) -> Path:
    path = path_of(here, name)
    path.unlink(missing_ok=True)
    make(path)
    return path


OPENED = ("state.db", "state.db-journal", "state.db-wal", "state.mark", "files.json", BESIDE)
REMOVED = (".ratchet.new", ".ratchet.old")


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("lock", directory, "a directory"),
        ("lock", pipe, "a pipe"),
        ("lock", nowhere, "a link"),
        ("lock", unix_socket, "a socket"),
        ("control", directory, "a directory"),
        *((name, pipe, "a pipe") for name in (*OPENED, *REMOVED)),
    ],
)
def test_what_a_server_does_not_start_with_is_an_error_of_both(
    here: Place, name: str, make: Callable[[Path], None], kind: str
) -> None:
    path = put(here, name, make)
    said = f"{path} is {kind}, where openme keeps a file"
    checked = here.run("check-config")
    assert (checked.code, checked.error) == (1, f"{here.config}: {said}")
    refused = here.run("serve", "--state-file", "")
    assert (refused.code, refused.error) == (1, said)
    assert f"openme: hint: move it away: mv {path} {path}.away" in refused.err


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        *((name, directory, "a directory") for name in (*OPENED, *REMOVED, "complete")),
        *((name, nowhere, "a link to nothing") for name in ("state.db", "files.json")),
        *((name, nowhere, "a link") for name in ("state.mark", BESIDE)),
        ("state.db", unix_socket, "a socket"),
        ("state.mark", link, "a link"),
    ],
)
def test_what_a_server_goes_on_with_is_a_warning_of_both(
    here: Place, name: str, make: Callable[[Path], None], kind: str
) -> None:
    path = put(here, name, make)
    said = f"{path} is {kind}, where openme keeps a file; move it away: mv {path} {path}.away"
    assert f"openme: warning: {said}\n" in here.ok("check-config").err
    with here.serving() as server:
        assert f"warning: {said}\n" in server.log
        if name == BESIDE and path.is_dir():
            path.rmdir()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(("control", make) for make in (pipe, nowhere, link, unix_socket)),
        *(("complete", make) for make in (pipe, nowhere, unix_socket)),
        *((name, make) for name in REMOVED for make in (nowhere, link, unix_socket)),
        ("state.db", link),
        ("files.json", link),
    ],
)
def test_what_a_server_follows_or_replaces_is_fine(here: Place, name: str, make: Callable[[Path], None]) -> None:
    put(here, name, make)
    assert "where openme keeps a file" not in here.ok("check-config").err
    with here.serving() as server:
        assert "where openme keeps a file" not in server.log


def test_nothing_of_a_server_that_has_run_or_runs_is_told(here: Place) -> None:
    with here.serving():
        assert here.ok("check-config").err == ""
    assert here.ok("check-config").err == ""


def test_a_directory_in_the_place_of_any_file_that_a_server_makes_is_told(here: Place) -> None:
    """A new file in `state_dir` is a row in `server/state_files.py`, or whoever reads it says what it is."""
    with here.serving():
        here.ok("revoke", "alice")
        names = {path.name for path in here.state.iterdir()}
    assert {"lock", "control", "state.db", "state.mark", "ratchet", "revoked", "hidden_ports", "files.json"} <= names
    silent = []
    for name in sorted(names):
        path, away = here.state / name, here.root / "away"
        if path.exists():
            path.rename(away)
        path.mkdir()
        if str(path) not in here.run("check-config").err:
            silent.append(name)
        path.rmdir()
        if away.exists():
            away.rename(path)
    assert silent == []
