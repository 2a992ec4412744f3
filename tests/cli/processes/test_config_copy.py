"""A start by the copy that was kept of the config: whatever lies there, only those get in whom the file lets in."""

import base64
import errno
import logging
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from openme import files
from openme.config import server_keys
from openme.config.model import ServerConfig
from openme.config.parsed_copy import FILE_NAME
from openme.config.server import parse_server_config
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import lift_key, revoke_keys
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey, parse_public_key
from openme.server import config_reading, config_watch
from openme.server.config_watch import ConfigWatch
from support.command import until
from support.keeper_process import config_text
from support.knocks import ALICE

BOTH = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"
CAROL = ClientPrivateKey(b"c" * 32).public
NOW = 1_764_000_000.0


def blocks(state_dir: Path, clients: str = BOTH, server: str = "") -> str:
    """A file whose `clients:` is a block, as openme writes it."""
    head, _, listed = config_text(state_dir, clients, server).partition("clients: ")
    entries = "".join(f"  {entry}}}\n" for entry in listed.strip("{}\n").split("}, "))
    return f"{head}clients:\n{entries}"


class World:
    """A config, its `state_dir`, and servers that start with them."""

    def __init__(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.config = root / "config.yaml"
        self.state_dir = root / "state"
        self.state_dir.mkdir(0o700)
        self.copy = self.state_dir / FILE_NAME
        self._caplog = caplog
        self.write()

    def write(self, clients: str = BOTH, server: str = "") -> None:
        self.put(blocks(self.state_dir, clients, server))

    def put(self, text: str) -> None:
        beside = self.config.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(0o600)
        beside.replace(self.config)

    def start(self, *, keep: bool = True) -> ConfigWatch:
        self._caplog.clear()
        watch = ConfigWatch(self.config)
        if keep:
            watch.keep_copy()
        return watch

    def by_copy(self) -> bool:
        """Whether what was read last was read by the copy."""
        return "from the copy that was kept" in [r.getMessage() for r in self._caplog.records if "read" in r.msg][-1]

    def as_read_whole(self) -> ServerConfig:
        return parse_server_config(self.config.read_text(), self.config)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """Every file counts as one of many clients."""
    monkeypatch.setattr(config_watch, "LARGE", -1)
    with caplog.at_level(logging.INFO):
        yield World(tmp_path, caplog)


def settle(watch: ConfigWatch) -> None:
    def over() -> bool:
        watch.refresh()
        return not watch.is_reading

    until(over, "the file is read")


def test_the_second_start_is_by_the_copy_and_the_same(world: World) -> None:
    first = world.start()
    assert not world.by_copy()
    assert stat.S_IMODE(world.copy.stat().st_mode) == 0o600
    second = world.start()
    assert world.by_copy()
    assert second.config == first.config == world.as_read_whole()
    assert second.config.index.by_key(ALICE.public.raw) == first.config.clients["alice"]


def test_a_start_that_has_not_got_its_state_dir_for_itself_writes_nothing(world: World) -> None:
    world.start(keep=False)
    assert list(world.state_dir.iterdir()) == []


def test_a_changed_file_is_read_and_has_a_copy_of_its_own(world: World) -> None:
    watch = world.start()
    before = world.copy.read_bytes()
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    settle(watch)
    assert watch.config.clients.keys() == {"bob"}
    assert world.copy.read_bytes() != before
    assert ALICE.public.raw not in world.copy.read_bytes()
    assert world.start().config.clients.keys() == {"bob"}
    assert world.by_copy()


def test_a_file_that_is_written_again_as_it_was_is_not_read_whole(world: World) -> None:
    """As tools do that look after many machines, every half hour."""
    watch = world.start()
    inode = world.copy.stat().st_ino
    world.write()
    settle(watch)
    assert world.by_copy()
    assert watch.config == world.as_read_whole()
    assert world.copy.stat().st_ino == inode


def test_keys_that_are_in_force_are_not_checked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is half of a reading; and keys that come are checked."""
    world.start()
    monkeypatch.setattr(server_keys.public_key_of, "_known", {})
    watch = world.start()
    assert world.by_copy()
    asked = world.config.with_suffix(".asked")

    def noted(text: str) -> ClientPublicKey:
        with asked.open("a") as file:
            file.write(f"{text}\n")
        return parse_public_key(text)

    monkeypatch.setattr(server_keys, "parse_public_key", noted)
    world.write(BOTH.replace("alice", "eve").replace("KEY_B}}", f"KEY_B}}, carol: {{ed25519_pubkey: {CAROL}}}}}"))
    settle(watch)
    assert watch.config.clients.keys() == {"eve", "bob", "carol"}
    assert asked.read_text() == f"{CAROL}\n"


@pytest.mark.parametrize("helper", ["checks", "dies at once", "dies on the way"])
def test_keys_that_another_process_checks_are_checked(
    world: World, monkeypatch: pytest.MonkeyPatch, helper: str
) -> None:
    """Whatever becomes of that process; a key that must not be used is refused."""
    monkeypatch.setattr(server_keys.public_key_of, "_known", {})
    monkeypatch.setattr(config_reading, "_MANY", 1)
    monkeypatch.setattr(config_reading, "_OWN_SHARE", 20)
    asked = world.config.with_suffix(".asked")
    done: list[str] = []

    def parse(text: str) -> ClientPublicKey:
        done.append(text)
        if len(done) == {"checks": 0, "dies at once": 1, "dies on the way": 3}[helper]:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse_public_key(text)

    def noted(text: str) -> ClientPublicKey:
        with asked.open("a") as file:
            file.write(f"{text}\n")
        return parse_public_key(text)

    monkeypatch.setattr(config_reading, "parse_public_key", parse)
    monkeypatch.setattr(server_keys, "parse_public_key", noted)
    weak = base64.b64encode(bytes(32)).decode()
    keys = [str(ClientPrivateKey(bytes([n]) * 32).public) for n in range(8)]
    entries = "".join(f"  user{n}:\n    ed25519_pubkey: {key}\n" for n, key in enumerate([*keys[:5], weak, *keys[5:]]))
    world.put(blocks(world.state_dir).partition("clients:")[0] + "clients:\n" + entries)
    config = world.start().config
    assert [str(client.public_key) for client in config.clients.values()] == keys
    assert [fault.key for fault in config.client_faults] == ["clients.user5.ed25519_pubkey"]
    here = asked.read_text().split()
    assert weak in here, "what is not said to be good is looked at"
    assert helper != "checks" or here.count(keys[0]) == len(here) - here.count(weak) == 1


# -- attacks


def test_an_edit_that_keeps_size_time_and_inode_is_seen_at_a_start(world: World) -> None:
    world.start()
    status = world.config.stat()
    text = world.config.read_text()
    changed = text.replace("alice:", "mally:")
    assert len(changed) == len(text)
    with world.config.open("r+") as file:
        file.write(changed)
    os.utime(world.config, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert world.config.stat().st_ino == status.st_ino
    assert world.start().config.clients.keys() == {"mally", "bob"}
    assert not world.by_copy()


def test_whoever_is_revoked_while_no_server_runs_is_out_though_the_copy_names_him(world: World) -> None:
    world.start()
    revoke_keys(world.state_dir, [ALICE.public.raw], "alice", NOW)
    watch = world.start()
    assert world.by_copy()
    assert watch.config.clients.keys() == {"bob"}
    assert watch.config.index.by_key(ALICE.public.raw) is None
    assert not watch.config.index.by_key_id(ALICE.public.key_id)
    assert [item.name for item in watch.config.disabled] == ["alice"]
    lift_key(world.state_dir, ALICE.public.raw)
    assert watch.refresh() is watch.config
    assert watch.config.clients.keys() == {"alice", "bob"}


def test_an_old_copy_put_back_brings_nobody_back(world: World) -> None:
    world.start()
    old = world.copy.read_bytes()
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    assert world.start().config.clients.keys() == {"bob"}
    world.copy.write_bytes(old)
    assert world.start().config.clients.keys() == {"bob"}
    assert not world.by_copy()


def test_an_old_file_put_back_with_its_copy_does_not_bring_back_whoever_was_revoked(world: World) -> None:
    world.start()
    shutil.copy2(world.config, world.config.with_suffix(".old"))
    shutil.copy2(world.copy, world.copy.with_suffix(".old"))
    revoke_keys(world.state_dir, [ALICE.public.raw], "alice", NOW)
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    world.start()
    world.config.with_suffix(".old").replace(world.config)
    world.copy.with_suffix(".old").replace(world.copy)
    assert world.start().config.clients.keys() == {"bob"}
    assert world.by_copy()


def test_the_copy_of_another_server_is_none(world: World, tmp_path: Path) -> None:
    """The same clients, but another key of the server, or another `state_dir`."""
    world.start()
    mine = world.copy.read_bytes()
    other = tmp_path / "other"
    other.mkdir(0o700)
    world.put(blocks(other))
    world.start()
    assert not world.by_copy()
    assert (other / FILE_NAME).exists()
    (other / FILE_NAME).write_bytes(mine)
    world.start()
    assert not world.by_copy()


def test_a_link_in_its_place_is_not_followed_and_not_written_through(world: World, tmp_path: Path) -> None:
    world.start()
    aside = world.copy.rename(tmp_path / "aside")
    world.copy.symlink_to(aside)
    before = aside.read_bytes()
    world.start(keep=False)
    assert not world.by_copy()
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    world.start()
    assert aside.read_bytes() == before
    assert not world.copy.is_symlink()


def test_a_broken_file_is_a_fault_though_there_is_a_copy_of_what_was_there_before(world: World) -> None:
    watch = world.start()
    before = world.copy.read_bytes()
    world.put(world.config.read_text() + "clients:\n")
    settle(watch)
    assert "is given a second time" in str(watch.fault)
    assert world.copy.read_bytes() == before
    with pytest.raises(OpenmeError, match="is given a second time"):
        world.start()


def test_the_modes_of_the_file_count_with_a_copy_as_without(world: World) -> None:
    world.start()
    world.config.chmod(0o644)
    with pytest.raises(OpenmeError, match="expected mode 0600"):
        world.start()
    world.config.chmod(0o640)
    assert "its group can read" in world.start().config.warnings[0]
    assert world.by_copy()
    world.config.chmod(0o600)
    assert world.start().config.warnings == ()


# -- what may become of it


def test_a_disk_that_refuses_is_said_and_keeps_nobody_out(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = world.start()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_new", full)
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    settle(watch)
    assert watch.config.clients.keys() == {"bob"}
    assert "the next start has to read all of it" in caplog.text
    assert not world.copy.exists(), "what is there names alice, who has gone"
    assert world.start().config.clients.keys() == {"bob"}
    assert "No space left on device" in caplog.text


def test_of_a_file_that_names_another_state_dir_none_is_kept_until_the_restart(world: World, tmp_path: Path) -> None:
    watch = world.start()
    other = tmp_path / "other"
    other.mkdir(0o700)
    world.put(blocks(other))
    settle(watch)
    assert list(other.iterdir()) == []
    assert not world.copy.exists()


def test_a_small_file_has_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = world.start()
    assert world.copy.exists()
    monkeypatch.setattr(config_watch, "LARGE", 1 << 15)
    world.write("{bob: {ed25519_pubkey: KEY_B}}")
    watch.refresh()
    assert watch.config.clients.keys() == {"bob"}
    assert not world.copy.exists()
    world.copy.touch()
    world.start()
    assert not world.copy.exists()


def test_a_file_of_which_there_can_be_no_copy_is_read_each_time(world: World) -> None:
    world.start()
    world.put(config_text(world.state_dir, BOTH))  # in braces
    for _ in range(2):
        assert world.start().config.clients.keys() == {"alice", "bob"}
        assert not world.by_copy()
        assert not world.copy.exists()


def test_what_the_command_line_says_stands_above_the_copy(world: World) -> None:
    for _ in range(2):
        watch = ConfigWatch(world.config, {"interface": "eth7"})
        watch.keep_copy()
        assert watch.config.interface == "eth7"
    assert world.by_copy()
    assert world.start().config.interface is None
    assert not world.by_copy()
