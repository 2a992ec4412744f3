"""A client's file reaches whoever asked for it, and no other file is lost for it."""

import os
import stat
from pathlib import Path

import pytest
import yaml

from openme.config.server import load_server_config
from support.command import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    return made


def test_the_file_is_whole_private_and_registered(here: Place, tmp_path: Path) -> None:
    out = tmp_path / "alice.yaml"
    done = here.ok("add", "alice", "--out", str(out))
    assert (done.out, stat.S_IMODE(out.stat().st_mode)) == ("", 0o600)
    assert f"wrote {out} (it holds the private key; there is no other copy)" in done.err
    profile = yaml.safe_load(out.read_text())["profiles"]["default"]
    assert str(load_server_config(here.config).clients["alice"].public_key) == profile["public_key"]
    assert profile["private_key"] not in done.err


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
@pytest.mark.parametrize("command", ["add", "renew"])
def test_what_is_there_already_is_never_overwritten(here: Place, tmp_path: Path, kind: str, command: str) -> None:
    out = tmp_path / "there.yaml"
    if command == "renew":
        here.ok("add", "alice")
    if kind == "file":
        out.write_text("the only copy of a key")
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        out.mkdir()
    else:
        os.mkfifo(out)
    before = here.config.read_text()
    done = here.run(command, "alice", "--out", str(out))
    assert (done.code, done.out) == (1, "")
    assert done.error == f"{out} is there already and is not overwritten"
    assert here.config.read_text() == before
    assert kind != "file" or out.read_text() == "the only copy of a key"


@pytest.mark.parametrize("directory", ["missing", "config.yaml"])
def test_a_place_where_no_file_can_be_adds_nobody(here: Place, tmp_path: Path, directory: str) -> None:
    done = here.run("add", "alice", "--out", str(tmp_path / directory / "alice.yaml"))
    assert done.code == 1
    assert str(tmp_path / directory / "alice.yaml") in done.error
    assert "alice" not in load_server_config(here.config).clients


def test_a_full_disk_adds_nobody_and_leaves_no_file(here: Place) -> None:
    here.ok("add", "bob")
    done = here.shell("ulimit -f 0; openme add alice --out alice.yaml")  # no file may grow, as on a full disk
    assert (done.code, done.error) == (1, "alice.yaml: file too large")
    assert not (here.root / "alice.yaml").exists()
    assert "alice" not in load_server_config(here.config).clients


def test_who_cannot_be_registered_leaves_no_file(here: Place, tmp_path: Path) -> None:
    here.ok("add", "alice")
    done = here.run("add", "alice", "--out", str(tmp_path / "alice.yaml"))
    assert "this name is taken; nothing was added" in done.error
    assert not (tmp_path / "alice.yaml").exists()


def test_a_taken_name_comes_with_what_to_do_about_a_lost_file(here: Place) -> None:
    """`openme add kim > kim.yaml` a second time has emptied the only copy of the key before we begin."""
    here.ok("add", "kim")
    done = here.run("add", "kim")
    assert "openme renew kim" in done.err
    assert "openme revoke kim, then openme add kim --out FILE" in done.err


def test_with_sudo_the_file_belongs_to_whoever_called_it_in_their_own_directory(here: Place, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    os.chown(home, 12345, 12346)
    for directory, owner in ((home, (12345, 12346)), (other, (os.geteuid(), os.getegid()))):
        name = directory.name
        done = here.shell(f"export SUDO_UID=12345; openme add {name} --out {directory / 'file.yaml'}")
        assert done.code == 0, done.err
        status = (directory / "file.yaml").stat()
        assert ((status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)) == (owner, 0o600)


def test_renew_writes_a_file_as_well(here: Place, tmp_path: Path) -> None:
    here.ok("add", "alice")
    done = here.ok("renew", "alice", "--out", str(tmp_path / "new.yaml"))
    assert done.out == ""
    assert "private_key" not in yaml.safe_load((tmp_path / "new.yaml").read_text())["profiles"]["default"]
