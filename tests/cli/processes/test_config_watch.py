"""The config file as the keeper follows it: what is in force, whatever becomes of the file."""

import logging
import os
import pickle
import signal
from pathlib import Path
from typing import BinaryIO

import pytest

from openme.config.model import ServerConfig
from openme.errors import OpenmeError
from openme.interrupts import ENDINGS
from openme.processes.roles import Role
from openme.server import config_reading, config_watch
from openme.server.config_watch import LARGE, ConfigWatch
from support.command import until
from support.keeper_process import config_text
from support.knocks import lines

ALICE, BOB = "alice: {ed25519_pubkey: KEY_A}", "bob: {ed25519_pubkey: KEY_B}"


class File:
    """A config that is replaced as an editor does it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "config.yaml"
        self._root = root
        self.write(ALICE, BOB)

    def write(self, *clients: str, server: str = "") -> None:
        self.put(config_text(self._root, f"{{{', '.join(clients)}}}", server))

    def put(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(0o600)
        beside.replace(self.path)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as one of many clients, which a process of its own reads."""
    monkeypatch.setattr(config_watch, "LARGE", -1)


def settled(watch: ConfigWatch) -> ServerConfig | None:
    """What comes of the reading that is under way."""
    outcome: list[ServerConfig | None] = []

    def over() -> bool:
        outcome.append(watch.refresh())
        return not watch.is_reading

    until(over, "the file is read")
    return outcome[-1]


def test_a_change_is_news_once(file: File) -> None:
    watch = ConfigWatch(file.path)
    assert watch.refresh() is None
    file.write(ALICE)
    changed = watch.refresh()
    assert changed is not None
    assert changed is watch.config
    assert changed.clients.keys() == {"alice"}
    assert watch.refresh() is None


@pytest.mark.parametrize("filler", [0, 2 * LARGE])
def test_a_change_that_widens_a_clients_rights_is_told_once_and_narrowing_is_not(file: File, filler: int) -> None:
    narrow = "alice: {ed25519_pubkey: KEY_A, allowed_from: [192.0.2.0/24], single_use: true}"
    text = config_text(file.path.parent, f"{{{ALICE}}}", "") + f"# {'x' * filler}\n"
    file.write(narrow)
    watch = ConfigWatch(file.path)
    with lines("openme.config", logging.WARNING) as records:
        file.put(text)
        watch.refresh()
        if filler:
            settled(watch)
        assert not watch.config.clients["alice"].single_use
        file.write(narrow)
        watch.refresh()
    told = [record.getMessage() for record in records]
    (line,) = told
    assert line.startswith(f"{file.path}: client alice may do more than before: allowed_from is gone")
    assert line.endswith("(it was 192.0.2.0/24); single_use is gone")


@pytest.mark.parametrize("text", ["", "clients: [", "server: {}\n", "\x00"])
def test_a_file_that_does_not_load_leaves_the_last_good_one_in_force(file: File, text: str) -> None:
    watch = ConfigWatch(file.path)
    good = watch.config
    file.put(text)
    with lines("openme.config", logging.ERROR) as records:
        for _ in range(5):
            assert watch.refresh() is None
    assert watch.config is good
    assert str(file.path) in str(watch.fault)
    assert len(records) == 1
    file.write(BOB)
    assert watch.refresh() is watch.config
    assert watch.fault is None
    assert watch.config.clients.keys() == {"bob"}


def test_a_file_that_is_gone_leaves_the_last_good_one_in_force(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.path.unlink()
    assert watch.refresh() is None
    assert watch.fault is not None
    assert "no such file" in watch.fault
    assert watch.config.clients.keys() == {"alice", "bob"}


def test_a_mode_that_lets_others_read_is_a_change_and_not_taken(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.path.chmod(0o644)
    assert watch.refresh() is None
    assert watch.fault is not None
    assert "0644" in watch.fault


def test_a_broken_file_is_named_again_after_a_minute_and_not_before(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("openme.server.config_watch.time.monotonic", lambda: now[0])
    watch = ConfigWatch(file.path)
    file.put("clients: [")
    with lines("openme.config", logging.ERROR) as records:
        for step in (0.0, 59.0, 0.9, 0.2, 0.1, 59.8):
            now[0] += step
            watch.refresh()
    assert len(records) == 2


def test_what_the_command_line_said_stands_above_the_file_after_every_change(file: File) -> None:
    watch = ConfigWatch(file.path, {"interface": "eth7"})
    file.write(ALICE, server="interface: eth0")
    changed = watch.refresh()
    assert changed is not None
    assert changed.interface == "eth7"


def test_the_first_file_must_load(file: File) -> None:
    file.put("clients: [")
    with pytest.raises(OpenmeError):
        ConfigWatch(file.path)


@pytest.mark.parametrize("broken", [False, True])
def test_whoever_is_revoked_is_out_also_while_the_file_is_broken(file: File, broken: bool) -> None:  # noqa: FBT001
    watch = ConfigWatch(file.path)
    if broken:
        file.put("clients: [")
        watch.refresh()
        assert watch.fault is not None
    less = watch.revoke("alice")
    assert less is not None
    assert less.clients.keys() == {"bob"}
    assert watch.config is less
    assert watch.revoke("alice") is None  # nothing changes once more
    assert watch.config is less


@pytest.mark.usefixtures("slow")
def test_a_large_file_is_read_meanwhile_and_then_in_force(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.write(BOB)
    assert watch.refresh() is None
    assert watch.is_reading
    assert watch.config.clients.keys() == {"alice", "bob"}
    changed = settled(watch)
    assert changed is watch.config
    assert watch.config.clients.keys() == {"bob"}


@pytest.mark.usefixtures("slow")
def test_whoever_is_revoked_while_the_file_is_being_read_does_not_come_back_with_it(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.write(ALICE, BOB, server="knock_timeout: 44s")  # as it was before the revocation
    assert watch.refresh() is None
    less = watch.revoke("alice")
    assert less is not None
    assert less.clients.keys() == {"bob"}
    settled(watch)
    assert watch.config.knock_timeout == 44
    assert watch.config.clients.keys() == {"bob"}


@pytest.mark.usefixtures("slow")
def test_whoever_stands_in_a_later_file_again_is_in_again_once_that_is_said(file: File) -> None:
    """A backup would bring a revoked client back as well."""
    watch = ConfigWatch(file.path)
    key = watch.keys_of("alice")
    file.write(BOB)
    watch.refresh()
    watch.revoke("alice")
    settled(watch)
    file.write(ALICE, BOB)
    watch.refresh()
    settled(watch)
    assert watch.config.clients.keys() == {"bob"}
    lifted = watch.lift(key)
    assert lifted is watch.config
    assert watch.config.clients.keys() == {"alice", "bob"}


@pytest.mark.usefixtures("slow")
def test_a_change_while_the_file_is_being_read_is_seen_afterwards(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.write(ALICE)
    watch.refresh()
    file.write(BOB)
    settled(watch)
    watch.refresh()
    settled(watch)
    assert watch.config.clients.keys() == {"bob"}


@pytest.mark.usefixtures("slow")
def test_a_large_file_that_does_not_load_is_a_fault_in_the_same_words(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.put("clients: [")
    watch.refresh()
    assert settled(watch) is None
    read_apart = watch.fault
    with pytest.raises(OpenmeError) as caught:
        ConfigWatch(file.path)
    assert read_apart == caught.value.message


@pytest.mark.usefixtures("slow")
def test_a_reader_that_dies_is_a_fault_and_no_end(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ConfigWatch(file.path)

    def dies(_role: Role) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config_reading, "take_on", dies)
    monkeypatch.setattr("sys.stderr", None)
    file.write(BOB)
    watch.refresh()
    assert settled(watch) is None
    assert watch.fault == "the process that was reading the config has died"
    assert watch.config.clients.keys() == {"alice", "bob"}


@pytest.mark.usefixtures("slow")
def test_a_request_to_end_that_reaches_the_reader_too_does_not_keep_it_from_reading(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal's Ctrl-C is for all processes; what the server does about it is the server's affair."""
    watch = ConfigWatch(file.path)

    def asked(_role: Role) -> None:
        for number in ENDINGS:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(config_reading, "take_on", asked)
    file.write(BOB)
    watch.refresh()
    assert settled(watch) is not None
    assert watch.fault is None


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "short of memory"])
def test_half_of_a_config_is_none(file: File, monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> None:
    """The process that reads may end at any moment, also while it writes what it has read."""

    def half(outcome: object, result: BinaryIO, protocol: int) -> None:
        result.write(pickle.dumps(outcome, protocol)[:-1])
        result.flush()
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError

    watch = ConfigWatch(file.path)
    good = watch.config
    monkeypatch.setattr(pickle, "dump", half)
    file.write(ALICE)
    assert settled(watch) is None
    assert watch.config is good
    assert watch.fault == "the process that was reading the config has died"


def test_a_large_file_is_read_beside_however_few_clients_were_known_before(file: File) -> None:
    watch = ConfigWatch(file.path)
    file.put(config_text(file.path.parent) + "# one comment line among very many\n" * 1000)
    assert watch.refresh() is None
    assert watch.is_reading
    assert settled(watch) is not None
    file.write(ALICE)
    assert watch.refresh() is not None, "a small one is read at once, also after a large one"
