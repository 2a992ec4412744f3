"""Requests over the control socket, and what the keeper makes of them, with the firewall in memory."""

import base64
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from openme.clocks import Now
from openme.config.content_hash import content_hash
from openme.config.edit import add_client, remove_client
from openme.config.template import render_server_config
from openme.firewall.base import Door, FirewallError, IPAddress, PortList
from openme.firewall.memory import MemoryFirewall
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.revoked_keys import lift_key, revoke_keys
from openme.keeper.rules import rules_for
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import parse_port_spec
from openme.server.config_watch import ConfigWatch
from openme.server.keeper_process import KeeperProcess, Parts
from openme.store.sqlite import SqliteStore
from support.keeper_process import answered

KEY = base64.b64encode(bytes(32)).decode()
SSH = PortList(parse_port_spec("22/tcp"))
HOME = ip_address("192.0.2.7")


class StubbornFirewall(MemoryFirewall):
    """It closes nothing once it has been told to be stubborn."""

    stubborn = False

    def close(self, doors: Iterable[tuple[PortList, IPAddress]]) -> None:
        if self.stubborn:
            raise FirewallError("no such table")
        super().close(doors)


class Desk:
    """A keeper process with alice and bob, that is asked without a socket in between."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.config = folder / "config.yaml"
        self.state = folder / "state"
        self.state.mkdir(0o700)
        self.config.touch(0o600)
        server = ServerPrivateKey(secrets.token_bytes(32))
        self.config.write_text(
            render_server_config(server, host="192.0.2.1", udp_port=54154, firewall="memory", state_dir=self.state)
        )
        self.alice, self.bob = (ClientPrivateKey(secrets.token_bytes(32)).public for _ in range(2))
        add_client(self.config, "alice", {"ed25519_pubkey": str(self.alice)})
        add_client(self.config, "bob", {"ed25519_pubkey": str(self.bob)})
        self.firewall = StubbornFirewall(lambda: 0.0)
        self.watch = ConfigWatch(self.config)
        store = SqliteStore(self.state, folder)
        stack.callback(store.close)
        pair = [stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.keeper = Keeper(self.watch.config, lambda _: False)
        self.firewall.start(rules_for(self.watch.config))
        parts = Parts(self.keeper, store, self.firewall, self.watch, Journal(), pair[0], listening, None)
        self.process = KeeperProcess(parts, lambda: Now(10**18, 0.0))

    def open(self, name: str) -> None:
        """A door for this client, as a knock would open it."""
        client = self.keeper.config.clients[name]
        grant = Grant(client.public_key.raw, name, HOME, SSH.ports, (SSH,), 0.0, 30.0, 30.0)
        self.keeper.grants.add(grant)
        self.firewall.open([Door(SSH, HOME, 30.0)])

    def ask(self, command: str, **fields: object) -> dict[str, Any]:
        """The answer to a request."""
        return answered(self.process, {"command": command, **fields})

    @property
    def clients(self) -> set[str]:
        """Whose knock would open."""
        return set(self.keeper.config.clients)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack, tmp_path)


def test_an_older_command_is_served(desk: Desk) -> None:
    """It removes the entry first, and sends the name alone."""
    desk.open("alice")
    remove_client(desk.config, "alice")
    answer = desk.ask("revoke", name="alice", cut=False)
    assert answer["fault"] is None
    assert desk.firewall.doors() == []
    assert desk.clients == {"bob"}


def test_revoke_drops_the_name_at_once_and_names_the_file(desk: Desk) -> None:
    desk.open("alice")
    answer = desk.ask("revoke", name="alice", keys=[], sha256=content_hash(desk.config))
    assert answer["keys"] == [str(desk.alice)]
    assert (answer["file"], answer["same"], answer["not_closed"]) == (str(desk.config), True, None)
    assert desk.clients == {"bob"}
    assert desk.firewall.doors() == []


def test_revoke_drops_the_keys_that_it_is_given(desk: Desk) -> None:
    """Also where its own file has them under another name, or not at all."""
    desk.ask("revoke", name="somebody", keys=[str(desk.alice), KEY])
    assert desk.clients == {"bob"}
    assert desk.watch.is_revoked([bytes(32)])


def test_what_was_revoked_by_word_stays_out_of_every_file(desk: Desk) -> None:
    desk.ask("revoke", name="alice", keys=[])
    remove_client(desk.config, "alice")
    assert desk.ask("reload")["fault"] is None
    add_client(desk.config, "eve", {"ed25519_pubkey": str(desk.alice)})
    desk.ask("reload")
    assert desk.clients == {"bob"}
    assert desk.ask("reload", lifted=[str(desk.alice)])["lifted"]
    assert desk.clients == {"bob", "eve"}


def test_a_door_that_the_firewall_keeps_open_is_not_said_to_be_closed(desk: Desk) -> None:
    desk.open("alice")
    desk.open("bob")
    desk.firewall.stubborn = True
    assert desk.ask("close", name="bob")["not_closed"] is None  # alice holds it still
    assert desk.ask("revoke", name="alice")["not_closed"] == "no such table"
    assert desk.ask("revoke", name="alice", keys=[str(desk.alice)])["not_closed"] == "no such table"  # still so


def test_a_door_that_stays_open_on_close_is_not_said_to_be_closed(desk: Desk) -> None:
    desk.open("bob")
    desk.firewall.stubborn = True
    assert desk.ask("close", name="bob")["not_closed"] == "no such table"


def test_a_door_that_stays_open_when_the_list_changes_is_not_said_to_be_closed(desk: Desk) -> None:
    """The server has looked at the list by itself, just before it is asked."""
    desk.open("alice")
    desk.firewall.stubborn = True
    revoke_keys(desk.state, [desk.alice.raw], "alice", 0)
    assert desk.ask("revoke", name="alice", keys=[str(desk.alice)])["not_closed"] == "no such table"


def test_the_same_file_is_told_by_its_content(desk: Desk) -> None:
    ours = content_hash(desk.config)
    assert desk.ask("reload", sha256=ours)["same"] is True
    assert desk.ask("reload", sha256="0" * 64)["same"] is False
    assert desk.ask("reload")["same"] is None
    desk.config.unlink()
    assert desk.ask("reload", sha256=ours)["same"] is False


def test_a_relative_name_is_answered_in_full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.config.parent)
    watch = ConfigWatch(Path("config.yaml"))
    assert watch.path == desk.config
    assert watch.path.is_absolute()


def test_the_server_follows_the_list_by_itself_both_ways(desk: Desk) -> None:
    desk.open("alice")
    revoke_keys(desk.state, [desk.alice.raw], "alice", 0)
    desk.process.tick()
    assert desk.clients == {"bob"}
    assert desk.firewall.doors() == []
    lift_key(desk.state, desk.alice.raw)
    desk.process.tick()
    assert desk.clients == {"alice", "bob"}


def test_a_key_that_the_list_names_is_lifted_by_the_list_alone(desk: Desk) -> None:
    revoke_keys(desk.state, [desk.alice.raw], "alice", 0)
    desk.ask("revoke", name="alice", keys=[str(desk.alice)])
    assert desk.ask("reload", lifted=[str(desk.alice)])["lifted"] is False
    assert desk.clients == {"bob"}
    lift_key(desk.state, desk.alice.raw)
    desk.process.tick()
    assert desk.clients == {"alice", "bob"}


def test_what_the_disk_did_not_take_is_known_by_its_name_until_it_does(desk: Desk) -> None:
    desk.ask("revoke", name="alice")
    remove_client(desk.config, "alice")
    desk.process.tick()
    assert desk.ask("client", name="alice")["keys"] == [str(desk.alice)], "though the file names it no more"
    revoke_keys(desk.state, [desk.alice.raw], "alice", 0)
    desk.process.tick()
    assert desk.ask("client", name="alice")["keys"] == []


def test_a_list_that_vanishes_or_breaks_lets_nobody_in(desk: Desk) -> None:
    revoke_keys(desk.state, [desk.alice.raw], "alice", 0)
    desk.process.tick()
    for name in ("revoked", "revoked.copy"):
        (desk.state / name).write_bytes(b"nonsense")
        desk.process.tick()
        assert desk.clients == {"bob"}
    for name in ("revoked", "revoked.copy"):
        (desk.state / name).unlink()
        desk.process.tick()
        assert desk.clients == {"bob"}
    desk.config.write_text(desk.config.read_text() + "# read anew\n")
    desk.process.tick()
    assert desk.clients == {"bob"}
