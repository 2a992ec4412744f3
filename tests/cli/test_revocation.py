"""`openme revoke` and `add` beside a server that hangs, is old, or is not there, and after a kill at any step."""

import argparse
import json
import os
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openme.cli import clients, revocation
from openme.config import edit
from openme.config.content_hash import content_hash
from openme.config.server import load_server_config
from openme.control import asking
from openme.control.forms import key_texts
from openme.control.requests import Client
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import FILE_NAME, read_revoked
from support.another_server import another_server
from support.command import Place, place


class Killed(BaseException):
    """What the process would not have lived to see."""


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    made.client("alice")
    made.client("bob")
    return made


def key_of(here: Place, name: str) -> bytes:
    return load_server_config(here.config).clients[name].public_key.raw


def revoke(here: Place, name: str = "alice") -> int:
    """In this process, so that a step can be made to fail."""
    return revocation.revoke(argparse.Namespace(config=here.config, name=name, cut=False))


def in_force(here: Place, name: str, key: bytes) -> bool:
    """Whether the running server lets this key in."""
    reply = asking.ask(here.state, Client(name=name, keys=frozenset({key})))
    return reply.keys == {key} and not reply.revoked


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", partial(asking.ask, timeout=0.2))


STEPS = [
    (asking, "ask", 1),  # which keys are in force
    (revocation, "revoke_keys", 1),
    (asking, "ask", 2),  # let nobody in
    (revocation, "remove_client", 1),
    (asking, "ask", 3),  # is it the same file
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_killed_at_any_step_it_is_finished_by_the_same_command(
    here: Place, monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool
) -> None:
    place, name, number = STEPS[step]
    real = getattr(place, name)
    calls = 0

    def last(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls < number:
            return real(*args, **kwargs)
        if after:
            real(*args, **kwargs)
        raise Killed

    alice = key_of(here, "alice")
    with here.serving():
        monkeypatch.setattr(place, name, last)
        with pytest.raises(Killed):
            revoke(here)
        monkeypatch.undo()
        is_listed = alice in read_revoked(here.state).keys
        # The order: on the disk before the server lets go, and the server before the file.
        assert is_listed == ((step, after) >= (1, True))
        assert in_force(here, "alice", alice) == (not is_listed)
        is_filed = "alice" in load_server_config(here.config).clients
        assert is_filed == ((step, after) < (3, True))
        if is_filed:
            assert revoke(here) == 0
        else:
            with pytest.raises(OpenmeError, match="no client alice") as caught:
                revoke(here)
            assert "was revoked" in str(caught.value.hint)
        assert not in_force(here, "alice", alice)
    assert alice in read_revoked(here.state).keys
    assert set(load_server_config(here.config).clients) == {"bob"}


@pytest.mark.parametrize(("step", "after"), [(0, False), (0, True), (1, False), (1, True)])
def test_add_killed_at_any_step_leaves_the_key_revoked_or_the_client_whole(
    here: Place, monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool
) -> None:
    alice = load_server_config(here.config).clients["alice"].public_key
    words = ("add", "alice", "--pubkey", str(alice), "--v1")
    here.ok("revoke", "alice")
    name = ("add_client", "lift_key")[step]
    real = getattr(clients, name)

    def last(*args: object) -> None:
        if after:
            real(*args)
        raise Killed

    monkeypatch.setattr(clients, name, last)
    monkeypatch.setattr(clients, "all_or_nothing", lambda do, _undo: do())  # who is killed undoes nothing
    names = dict.fromkeys(("ports", "expires", "profile", "qr_out", "out"))
    key = clients._public_key(str(alice))
    with pytest.raises(Killed):
        clients.ADD.run(argparse.Namespace(config=here.config, name=words[1], pubkey=key, v1=True, qr=False, **names))
    monkeypatch.undo()
    is_filed = "alice" in load_server_config(here.config).clients
    is_listed = alice.raw in read_revoked(here.state).keys
    assert (is_filed, is_listed) == ((step, after) >= (0, True), (step, after) < (1, True))
    if is_listed:
        here.ok(*words)
    else:
        assert here.run(*words).code == 1  # she is a client
    assert alice.raw not in read_revoked(here.state).keys
    assert "alice" in load_server_config(here.config).clients


def test_a_server_that_hangs_is_not_no_server(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is out for good, and not said to be out of the server."""
    alice = key_of(here, "alice")
    impatient(monkeypatch)
    with another_server(here, lambda _: None) as asked, pytest.raises(OpenmeError) as caught:
        revoke(here)
    assert asked == ["client"]  # not once more for each step
    assert "the server did not answer" in caught.value.message
    assert "whether alice is out of it is not known" in caught.value.message
    assert alice in read_revoked(here.state).keys
    assert "alice" not in load_server_config(here.config).clients


def test_a_stopped_server_obeys_as_soon_as_it_goes_on(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = key_of(here, "alice")
    with here.serving() as server:
        server.process.send_signal(signal.SIGSTOP)
        try:
            with monkeypatch.context() as patched:
                impatient(patched)
                with pytest.raises(OpenmeError, match="is not known"):
                    revoke(here)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert not in_force(here, "alice", alice)


@pytest.mark.parametrize("command", [("add", "carol"), ("renew", "bob"), ("rotate", "v1-key")])
def test_a_server_that_hangs_up_costs_other_commands_a_warning(here: Place, command: tuple[str, ...]) -> None:
    with another_server(here, lambda _: b""):
        done = here.ok(*command)
    assert "warning: the server did not answer: it hung up" in done.err
    assert "not known" in done.err
    assert done.err.count("warning") == 1


@pytest.mark.parametrize("command", [("close", "alice"), ("reset", "alice"), ("revoke", "alice"), ("sessions",)])
def test_a_server_that_hangs_up_fails_what_needs_its_answer(here: Place, command: tuple[str, ...]) -> None:
    with another_server(here, lambda _: b""):
        done = here.run(*command)
    assert done.code == 1
    assert "the server did not answer: it hung up" in done.error


def test_check_config_says_that_a_server_did_not_answer(here: Place) -> None:
    with another_server(here, lambda _: b""):
        done = here.ok("check-config")
    assert "it hung up: whether the running server takes this config is not known" in done.err


def test_an_older_server_is_named_as_such(here: Place) -> None:
    """It knows neither `client` nor what file it reads."""

    def answer(request: dict[str, Any]) -> bytes:
        if request["command"] == "client":
            return b'{"error": "the server is of another version than this command: restart it"}'
        if request["command"] == "reset":
            return b"{}"
        return b'{"fault": "hide: unknown key", "reading": false, "closed": []}'

    for command in (["revoke", "alice"], ["close", "bob"], ["reset", "bob"], ["add", "carol"], ["rotate", "v1-key"]):
        with another_server(here, answer):
            done = here.run(*command)
        assert done.code == 1
        assert "of an older version" in done.error
        assert "less alice" not in done.err, "nobody knows"
    assert set(load_server_config(here.config).clients) == {"bob"}


def test_a_firewall_that_refuses_is_said(here: Place) -> None:
    def answer(_: dict[str, Any]) -> bytes:
        reply = {"file": str(here.config), "same": True, "fault": None, "reading": False}
        closed = {"closed": ["192.0.2.7"], "known": True, "near": None}
        return json.dumps({**reply, **closed, "keys": [], "not_closed": "no such table"}).encode()

    for command in ("revoke", "close"):
        with another_server(here, answer):
            done = here.run(command, "alice")
        assert done.code == 1
        assert "the firewall refused to close" in done.error


@pytest.mark.parametrize("text", [None, "clients: [\n", "- a list\n"], ids=["no file", "no YAML", "no map"])
def test_where_no_key_can_be_found_nothing_is_said_to_be_revoked(here: Place, text: str | None) -> None:
    here.config.unlink()
    if text is not None:
        here.write(text)
    done = here.run("revoke", "alice")
    assert done.code == 1
    assert "the key of alice cannot be read there, and so is not revoked" in done.error
    assert not (here.state / "revoked").exists()


def test_an_earlier_key_of_the_name_is_not_taken_for_the_one_that_cannot_be_read(here: Place) -> None:
    here.ok("revoke", "alice")
    here.client("alice")
    here.write("clients: [\n" + here.config.read_text())
    assert "the key of alice cannot be read there, and so is not revoked" in here.run("revoke", "alice").error


def test_one_who_is_not_there_is_named_with_the_nearest(here: Place) -> None:
    for running in (False, True):
        with here.serving() if running else contextmanager(lambda: iter([None]))():
            done = here.run("revoke", "alicia")
        assert done.code == 1
        assert "no client alicia" in done.error
        assert "did you mean alice?" in done.err
    assert read_revoked(here.state).keys == {}


def test_an_entry_at_fault_is_revoked_with_its_key(here: Place) -> None:
    alice = key_of(here, "alice")
    text = here.config.read_text()
    here.write(text.replace("  alice:\n", "  alice:\n    allowed_ports: [no such group]\n"))
    backup = here.config.read_text()
    here.ok("revoke", "alice")
    assert alice in read_revoked(here.state).keys
    assert backup.count("alice") > here.config.read_text().count("alice")


def test_a_full_disk_leaves_the_client_out_of_the_server_and_says_for_how_long(here: Place) -> None:
    alice = key_of(here, "alice")
    with here.serving():
        done = limited(here, "revoke", "alice")
        assert done.code == 1
        assert "alice is out of the running server; the next start of the server lets it in again" in done.error
        assert not in_force(here, "alice", alice)
        # `add` lifts by word what was revoked by word.
        done = here.ok("add", "alice", "--pubkey", key_texts([alice])[0], "--v1")
        assert "no longer revoked" in done.err
        assert in_force(here, "alice", alice)
    assert not (here.state / FILE_NAME).exists() or alice not in read_revoked(here.state).keys


def limited(here: Place, *words: str) -> Any:
    """Run a command that can write no byte to any file (RLIMIT_FSIZE); stderr is a pipe."""
    return here.shell(f"trap '' XFSZ; ulimit -f 0; openme {' '.join(words)}")


def test_list_shows_who_is_disabled(here: Place) -> None:
    backup = here.config.read_text()
    here.ok("revoke", "alice")
    here.write(backup)
    done = here.ok("list")
    (row,) = (line for line in done.out.splitlines() if line.startswith("alice"))
    assert "revoked 20" in row
    assert "openme add alice --pubkey" in done.err
    by_name = {client["name"]: client["revoked"] for client in here.ok("list", "--json").json()}
    assert by_name["bob"] is None
    assert by_name["alice"].startswith("20")
    checked = here.run("check-config")
    assert checked.code == 1
    assert "openme add alice --pubkey" in checked.error
    renewed = here.run("renew", "alice")
    assert renewed.code == 1
    assert "openme add alice --pubkey" in renewed.err
    here.ok("revoke", "alice")
    assert "alice" not in here.config.read_text()


def test_lifting_leaves_ports_and_expiry_as_they_are_or_is_refused(here: Place) -> None:
    alice = load_server_config(here.config).clients["alice"].public_key
    backup = here.config.read_text()
    here.ok("revoke", "alice")
    here.write(backup)
    refused = here.run("add", "alice", "--pubkey", str(alice), "--ports", "23/tcp")
    assert refused.code == 1
    assert alice.raw in read_revoked(here.state).keys
    here.ok("add", "alice", "--pubkey", str(alice))
    assert here.config.read_text() == backup
    assert alice.raw not in read_revoked(here.state).keys
    assert here.run("add", "alice", "--pubkey", str(alice)).code == 1  # taken, as ever


def test_a_removal_by_hand_lists_no_key(here: Place) -> None:
    with here.serving():
        edit.remove_client(here.config, "alice")
        assert asking.ask(here.state, Client(name="alice")).keys == frozenset()
    assert not os.path.lexists(here.state / FILE_NAME)


def test_the_cure_works_for_a_name_that_add_would_not_give(here: Place) -> None:
    here.write(here.config.read_text().replace("  alice:\n", "  alice and eve:\n"))
    backup = here.config.read_text()
    key = key_of(here, "alice and eve")
    here.ok("revoke", "alice and eve")
    here.write(backup)
    (line,) = (line for line in here.ok("list").err.splitlines() if "openme add" in line)
    done = here.shell(line[line.index("openme add") :])
    assert done.code == 0, done.err
    assert key not in read_revoked(here.state).keys


def test_a_file_that_is_edited_between_the_two_looks_is_compared_again(here: Place) -> None:
    """The server has seen the new one, the command the old one: no other file."""

    def answer(request: dict[str, Any]) -> bytes:
        if request["command"] == "close":
            here.write(here.config.read_text() + "# edited\n")
        reply = {"file": str(here.config), "same": content_hash(here.config) == request["sha256"], "fault": None}
        closed = {"closed": [], "known": True, "near": None, "not_closed": None}
        return json.dumps({**reply, **closed, "reading": False}).encode()

    with another_server(here, answer) as asked:
        here.ok("close", "alice")
    assert asked == ["close", "reload"]


@pytest.mark.parametrize(
    ("more", "says"), [((), "alice: refused: disabled, its key is revoked (from "), (("--v1",), "unknown_key")]
)
def test_a_knock_after_a_revocation_is_told_as_such(here: Place, more: tuple[str, ...], says: str) -> None:
    """Under version 2, whose packets name their key; version 1 would have to try every key that was ever revoked."""
    here.ok("revoke", "alice")
    file = here.client("alice", *more)
    with here.serving("--log-level", "debug") as server:
        here.ok("--client-config", str(file), "knock", "--ip", "203.0.113.5")
        server.logs("alice: opened")
        here.ok("revoke", "alice")
        here.ok("--client-config", str(file), "knock", "--ip", "203.0.113.5")
        server.logs(says)
    assert set(load_server_config(here.config).clients) == {"bob"}
