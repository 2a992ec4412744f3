"""In force is what the firewall took: the keeper's shell with a firewall that refuses, and a clock of its own."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from openme.clocks import Now
from openme.config.template import render_server_config
from openme.firewall.base import Door, FirewallError, PortList, Rules
from openme.firewall.memory import MemoryFirewall
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.policy import client_lists
from openme.keeper.rules import rules_for
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from openme.netlink.routes import Link
from openme.ports import PortRange, port
from openme.server import interfaces
from openme.server.config_watch import ConfigWatch
from openme.server.hidden_ports import HiddenPorts, read_hidden_ports
from openme.server.interfaces import InterfaceWatch
from openme.server.keeper_process import KeeperProcess, Parts
from openme.store.sqlite import SqliteStore
from support.keeper_process import answered

NS = 10**9
START = 1_900_000_000
ADDRESS = ip_address("192.0.2.7")
KEYS = {name: ClientPrivateKey(bytes([number]) * 32).public for number, name in enumerate(("alice", "bob"), 1)}


class Moody(MemoryFirewall):
    """Refuses to change rules while `refusal` says why; counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: str | None = None
        self.asked = 0

    def apply(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        self.asked += 1
        if self.refusal is not None:
            raise FirewallError(self.refusal)
        super().apply(rules, doors)


@dataclass
class Desk:
    """A keeper's shell whose loop the test turns by hand."""

    folder: Path
    firewall: Moody = field(default_factory=Moody)
    now: Now = field(default_factory=lambda: Now(START * NS, 1000.0))

    def __post_init__(self) -> None:
        self.path = self.folder / "config.yaml"
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)

    def write(self, *names: str, extra: str = "", group: str = "[22/tcp]", drop_ports: bool = True) -> None:
        key = ServerPrivateKey(b"\x01" * 32)
        text = render_server_config(key, firewall="memory", state_dir=self.state)
        text = text.replace("server:\n", f"server:\n{extra}", 1).replace("[22/tcp]\n", f"{group}\n")
        text = text.replace("drop_ports: true", f"drop_ports: {str(drop_ports).lower()}")
        text = text.replace("protocols: [v1, v2]", "protocols: [v1]")
        clients = "".join(
            f"  {name}: {{ed25519_pubkey: {KEYS[name]}, allowed_ports: [{port_of(name)}]}}\n" for name in names
        )
        self.write_text(text.replace("clients: {}\n", f"clients:\n{clients}" if clients else "clients: {}\n"))

    def write_text(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(text)
        beside.replace(self.path)

    def open(self, stack: ExitStack, interfaces: InterfaceWatch | None = None) -> None:
        self.watch = ConfigWatch(self.path)
        config = self.watch.config
        store = SqliteStore(self.state, self.folder)
        stack.callback(store.close)
        self.keeper = Keeper(config, lambda _: False)
        self.hidden = HiddenPorts(self.state)
        self.hidden.note(config)
        ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for end in (end for pair in ends for end in pair):
            end.setblocking(False)  # noqa: FBT003  # the standard library's signature
            stack.callback(end.close)
        indexes = () if interfaces is None else interfaces.indexes
        self.firewall.start(rules_for(config, self.hidden.ports, indexes))
        self.firewall.asked = 0
        self.process = KeeperProcess(
            Parts(
                keeper=self.keeper,
                store=store,
                firewall=self.firewall,
                watch=self.watch,
                journal=Journal(),
                listener=ends[0][0],
                control=ends[1][0],
                state_file=None,
                hidden=self.hidden,
                interfaces=interfaces,
            ),
            clocks=lambda: self.now,
        )

    def turn(self, seconds: float = 0.0) -> None:
        self.now = Now(self.now.unix_ns + round(seconds * NS), self.now.monotonic + seconds)
        self.process.tick()

    def ask(self, command: str, **values: object) -> dict[str, Any]:
        return answered(self.process, {"command": command, **values})

    def let_in(self, name: str) -> PortList:
        client = self.keeper.config.clients[name]
        lists = client_lists(client, self.keeper.config.health_port)
        grant = Grant(
            KEYS[name].raw,
            name,
            ADDRESS,
            client.ports,
            lists,
            self.now.unix,
            self.now.unix + 30,
            self.now.monotonic + 30,
        )
        assert self.process.doors.open([grant], self.now)
        return lists[0]

    def open_lists(self) -> set[PortList]:
        return {door.port_list for door in self.firewall.doors()}

    @property
    def hides(self) -> set[str]:
        assert self.firewall.rules is not None
        return {str(item) for item in self.firewall.rules.hidden}


def port_of(name: str) -> str:
    return {"alice": "8001/tcp", "bob": "8002/tcp"}[name]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path, stack: ExitStack) -> Desk:
    made = Desk(tmp_path)
    made.write("alice", "bob")
    made.open(stack)
    made.turn()
    return made


def test_what_the_firewall_takes_is_in_force(desk: Desk) -> None:
    desk.write("alice", group="[2222/tcp]")
    desk.turn(1)
    assert set(desk.keeper.config.clients) == {"alice"}
    assert {"22/tcp", "2222/tcp"} <= desk.hides
    assert "8001-8002/tcp" in desk.hides, "bob's port stays hidden"
    assert desk.watch.fault is None


def test_what_an_edit_has_named_stays_hidden_after_the_next_one(desk: Desk) -> None:
    for group in ("[2222/tcp]", "[2223/tcp]", "[]"):
        desk.write("alice", "bob", group=group)
        desk.turn(1)
    assert {"22/tcp", "2222-2223/tcp"} <= desk.hides
    assert PortRange("tcp", 2222, 2223) in (read_hidden_ports(desk.state) or ())


def test_what_it_refuses_is_not_and_the_last_good_config_decides_whole(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    before = desk.firewall.rules
    desk.firewall.refusal = "no such thing"
    desk.write("alice", "bob", group="[2222/tcp]")
    desk.turn(1)
    assert desk.firewall.rules == before
    assert desk.process.doors.rules == before, "a repair puts back what was taken"
    assert "2222/tcp" not in str(desk.keeper.config.groups)
    assert desk.ask("reload")["fault"] == "no such thing"
    assert read_hidden_ports(desk.state) == desk.hidden.ports == (port("tcp", 22), PortRange("tcp", 8001, 8002))
    assert caplog.text.count("NOT in force") == 1
    desk.firewall.refusal = None
    desk.turn(1)
    assert "2222/tcp" in desk.hides
    assert desk.ask("reload")["fault"] is None


def test_a_refused_config_still_takes_clients_away_and_closes_what_they_have_open(desk: Desk) -> None:
    alices, bobs = desk.let_in("alice"), desk.let_in("bob")
    desk.firewall.refusal = "not now"
    desk.write("alice", group="[2222/tcp]")
    desk.turn(1)
    assert set(desk.keeper.config.clients) == {"alice"}
    assert alices in desk.open_lists()
    assert bobs not in desk.open_lists()
    assert [grant.client_name for grant in desk.keeper.grants] == ["alice"]
    # Nor does a file that is broken afterwards bring him back.
    desk.write_text("server: [\n")
    desk.turn(1)
    assert set(desk.keeper.config.clients) == {"alice"}


def test_a_client_with_another_key_is_another_one(desk: Desk) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", group="[2222/tcp]")
    desk.write_text(desk.path.read_text().replace(str(KEYS["bob"]), str(ClientPrivateKey(b"\x09" * 32).public)))
    desk.turn(1)
    assert set(desk.keeper.config.clients) == {"alice"}, "neither the old key, which is gone, nor the new one, not yet"


def test_it_is_tried_again_ever_more_rarely_and_said_once_a_minute(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", group="[2222/tcp]")
    for _ in range(600):
        desk.turn(0.5)
    assert 7 <= desk.firewall.asked <= 12
    assert caplog.text.count("NOT in force") == 1, "the reminder goes by another clock"
    desk.firewall.refusal = None
    desk.turn(64)
    assert "2222/tcp" in desk.hides


def test_what_a_refused_try_has_left_in_the_firewall_is_put_right(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.firewall.rules
    monkeypatch.setattr(desk.firewall, "intact", lambda: desk.firewall.rules == before)

    def half(rules: Rules, doors: Iterable[Door] = ()) -> None:
        MemoryFirewall.apply(desk.firewall, rules, doors)
        raise FirewallError("not whole")

    with monkeypatch.context() as patched:
        patched.setattr(desk.firewall, "apply", half)
        desk.write("alice", "bob", group="[2222/tcp]", drop_ports=False)
        desk.turn(0)
    assert desk.firewall.rules != before
    desk.turn(0.1)
    assert desk.firewall.rules == before


def test_a_revocation_meanwhile_does_not_end_the_tries(desk: Desk) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", group="[2222/tcp]")
    desk.turn(0)
    desk.firewall.refusal = None
    desk.ask("revoke", name="bob")
    assert set(desk.keeper.config.clients) == {"alice"}
    desk.turn(64)
    assert "2222/tcp" in desk.hides
    assert desk.watch.fault is None


def test_the_same_refusal_of_a_later_edit_is_said_again(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for tries in (1, 2):
        desk.firewall.refusal = "not now"
        desk.write("alice", "bob", group=f"[{2222 + tries}/tcp]")
        desk.turn(1)
        assert caplog.text.count("NOT in force") == tries
        desk.firewall.refusal = None
        desk.write("alice", "bob")
        desk.turn(1)
        assert desk.watch.fault is None


def test_a_new_edit_is_tried_at_once(desk: Desk) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", group="[2222/tcp]")
    for _ in range(200):
        desk.turn(0.5)
    desk.firewall.refusal = None
    desk.write("alice", "bob", group="[2223/tcp]")
    desk.turn(0)
    assert {"2223/tcp"} <= desk.hides
    assert "2222/tcp" not in desk.hides, "never in force, so never hidden"


def test_a_file_that_is_broken_after_a_refusal_is_not_read_again_and_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", group="[2222/tcp]")
    desk.turn(1)
    desk.write_text("server: [\n")
    for _ in range(200):
        desk.turn(0.5)
    assert caplog.text.count("NOT in force") == 2, "one for the refusal, one for the file"
    assert "not now" not in (desk.watch.fault or "")


def test_a_refusal_does_not_empty_the_set(desk: Desk) -> None:
    desk.firewall.refusal = "not now"
    desk.write("alice", "bob", drop_ports=False)
    desk.turn(1)
    assert read_hidden_ports(desk.state)
    assert "22/tcp" in desk.hides
    desk.firewall.refusal = None
    desk.turn(1)
    assert read_hidden_ports(desk.state) is None
    assert desk.hides == {"54154/tcp"}


def test_unhide_takes_effect_at_once_and_is_durable_first(desk: Desk) -> None:
    desk.write("alice")
    desk.turn(1)
    assert desk.ask("sessions")["hidden_though_unnamed"] == ["8002/tcp"]
    assert "still named by client alice" in desk.ask("unhide", ports=["8001/tcp"])["error"]
    assert desk.ask("unhide", ports=["8002/tcp"])["shown"] == ["8002/tcp"]
    assert "8001/tcp" in desk.hides
    assert read_hidden_ports(desk.state) == (port("tcp", 22), port("tcp", 8001))
    assert desk.ask("unhide", ports=["8002/tcp"])["shown"] == []


@pytest.mark.parametrize("ports", [None, 7, "8002/tcp", [8002], ["x"], [["8002"]]])
def test_unhide_of_nonsense_changes_nothing(desk: Desk, ports: object) -> None:
    before = desk.hides
    answer = desk.ask("unhide", ports=ports)
    assert answer == {"error": "the server did not understand the request"}
    assert desk.hides == before


def test_unhide_though_hide_is_in_force_still(desk: Desk) -> None:
    """The last good config still lists the port where the edited file is not in force."""
    desk.write_text(desk.path.read_text().replace("clients:", "hide: [9999/tcp]\nclients:"))
    desk.turn(1)
    assert "9999/tcp" in desk.hides
    desk.write_text("server: [\n")
    desk.turn(1)
    answer = desk.ask("unhide", ports=["9999/tcp"])
    assert answer["shown"] == ["9999/tcp"]
    assert answer["fault"] == desk.watch.fault is not None
    assert "9999/tcp" not in desk.hides
    desk.ask("revoke", name="bob")
    assert "9999/tcp" not in desk.hides


def test_unhide_waits_for_a_file_that_is_being_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still list the port, and would have it kept again."""
    desk.write("alice")
    desk.turn(1)
    monkeypatch.setattr(ConfigWatch, "is_reading", True)
    waiting = desk.ask("unhide", ports=["8002/tcp"])
    assert waiting["reading"] is True
    assert waiting["shown"] == []
    assert "8001-8002/tcp" in desk.hides
    monkeypatch.undo()
    answer = desk.ask("unhide", ports=["8002/tcp"])
    assert (answer["reading"], answer["shown"]) == (False, ["8002/tcp"])
    assert "8001/tcp" in desk.hides


def test_the_rules_follow_a_device_that_gets_a_new_name(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = [Link(2, "eth0")]
    monkeypatch.setattr(interfaces, "links_now", lambda: links)
    watch = InterfaceWatch()
    watch.look("eth0", 0.0)
    desk = Desk(tmp_path)
    desk.write("alice", extra="  interface: eth0\n")
    desk.open(stack, watch)

    def indexes() -> tuple[int, ...]:
        assert desk.firewall.rules is not None
        return desk.firewall.rules.interface_indexes

    desk.turn(1)
    assert (indexes(), desk.firewall.asked) == ((2,), 0)
    links[:] = [Link(2, "wan0"), Link(9, "eth0")]
    watch._changed = True
    desk.firewall.refusal = "not now"
    desk.turn(1)
    assert indexes() == (2,)
    desk.firewall.refusal = None
    desk.turn(1)
    assert indexes() == (2, 9)
    assert "is called wan0 now" in desk.ask("sessions")["warnings"][0]
    desk.write("alice", extra="  interface: wan0\n")
    desk.turn(1)
    assert indexes() == (2,)
    assert desk.ask("sessions")["warnings"] == []
    desk.write("alice", extra="  interface: dsl0\n")
    desk.process.switch.follow(desk.now)
    assert "interface dsl0 is not there" in desk.process._interface.warnings[0], "with the config, not a turn later"
