"""Whose the health port is: what decides it at a start, what is remembered, and how a running server lets go of it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openme.config.model import ServerConfig
from openme.ports import parse_port_spec
from openme.seam.messages import LeaveHealthPort, LeftHealthPort
from openme.server import health_port
from openme.server.health_port import FILE_NAME, own_health_port, why_not_ours, worded
from openme.server.hidden_ports import HiddenPorts
from support.keeper_process import KeeperWorld, keeper_world
from support.knocks import config, lines
from support.ports import free_port

SERVICE_USER, PERSON = 101, 1000


def known(number: int, state_dir: Path, clients: str = "{}", **more: Any) -> ServerConfig:
    return replace(config(clients, server=f"health_port: {number}"), state_dir=state_dir, **more)


@contextmanager
def listening(number: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", number)):
        yield


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Who listens on the health port, as the kernel tells: what a test puts in, this process has nobody else's user."""
    now: list[set[int]] = [set()]
    monkeypatch.setattr(health_port, "listening_users", lambda _: now[0])
    return now


def test_nobodys_port_is_bound(tmp_path: Path) -> None:
    number = free_port()
    health, why = own_health_port(known(number, tmp_path))
    assert why is None
    assert health is not None
    with health:
        assert health.getsockname()[1] == number
    assert not (tmp_path / FILE_NAME).exists()


def test_what_another_program_holds_is_left_to_it_and_it_is_named(tmp_path: Path) -> None:
    number = free_port()
    with listening(number):
        health, why = own_health_port(known(number, tmp_path))
    assert health is None
    assert f"(process {os.getpid()} of user " in str(why)


def test_an_outgoing_connections_port_is_no_refusal_either(tmp_path: Path) -> None:
    """It is no service, but the kernel does not let us bind it."""
    with socket.create_server(("127.0.0.1", 0)) as service, socket.create_connection(service.getsockname()) as client:
        number = client.getsockname()[1]
        health, why = own_health_port(known(number, tmp_path))
    assert health is None
    assert "in use by" in str(why)
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("clients", "changes", "why"),
    [
        ("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [4000-4010/tcp]}}", {}, "named by client alice"),
        ("{}", {"groups": {"web": parse_port_spec("4000")}}, "named by group web"),
        ("{}", {"hide": parse_port_spec("4000/tcp")}, "named by hide:"),
        ("{}", {"hide": parse_port_spec("4000/udp")}, None),
        ("{}", {"health_port": 22, "groups": {}}, "it is SSH's"),
    ],
)
def test_a_services_port_is_not_taken_though_nobody_holds_it_yet(
    clients: str, changes: dict[str, Any], why: str | None, tmp_path: Path, users: list[set[int]]
) -> None:
    assert users == [set()]
    assert why_not_ours(known(4000, tmp_path, clients, **changes)) == why


def test_a_port_that_a_service_had_is_not_taken_at_a_boot_where_openme_is_first(
    tmp_path: Path, users: list[set[int]]
) -> None:
    number = free_port()
    users[0] = {SERVICE_USER}
    assert own_health_port(known(number, tmp_path))[0] is None
    users[0] = set()
    health, why = own_health_port(known(number, tmp_path))
    assert health is None
    assert str(why).endswith(f"rm {tmp_path / FILE_NAME}")
    other = own_health_port(known(free_port(), tmp_path))[0]
    assert other is not None
    other.close()


def test_a_persons_program_keeps_openme_off_the_port_no_longer_than_it_runs(
    tmp_path: Path, users: list[set[int]]
) -> None:
    number = free_port()
    users[0] = {PERSON}
    assert own_health_port(known(number, tmp_path))[0] is None
    users[0] = set()
    health, _ = own_health_port(known(number, tmp_path))
    assert health is not None
    health.close()


def test_a_disk_that_refuses_to_remember_is_no_obstacle(tmp_path: Path, users: list[set[int]]) -> None:
    users[0] = {0}
    with lines("openme.server") as records:
        assert own_health_port(known(4000, tmp_path / "missing"))[0] is None
    assert "4000/tcp cannot be remembered" in records[0].getMessage()


@pytest.mark.parametrize("drop_ports", [True, False])
def test_one_line_says_what_follows(tmp_path: Path, *, drop_ports: bool) -> None:
    line = worded(known(4000, tmp_path, drop_ports=drop_ports), "it is in use by sshd")
    assert line.startswith("openme does not listen on health_port 4000/tcp (it is in use by sshd): there are no")
    assert ("is hidden" in line) is drop_ports


def test_another_programs_health_port_stays_hidden_when_health_port_names_another(tmp_path: Path) -> None:
    theirs = known(4000, tmp_path, drop_ports=True)
    for listens, kept in ((True, False), (False, True)):
        hidden = HiddenPorts()
        hidden.note(theirs.with_health_port(listens=listens))
        assert (parse_port_spec("4000/tcp")[0] in hidden.ports) is kept


# -- while the server runs

NAMED = "{alice: {ed25519_pubkey: KEY_A, allowed_ports: [4000/tcp]}}"
SERVER = "drop_ports: false; health_port: 4000"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeeperWorld]:
    """Of a server that listens on the health port, which is hidden though `drop_ports` is false."""
    with keeper_world(tmp_path, server=SERVER) as made:
        keeper = made.parts.keeper
        keeper.config = keeper.config.with_health_port(listens=True)
        yield made


def left(world: KeeperWorld) -> None:
    world.send(LeftHealthPort().pack())


def hidden(world: KeeperWorld) -> list[str]:
    return [str(item) for item in world.process.doors.rules.hidden]


def test_a_port_that_comes_to_be_named_is_left_and_only_then_shown(world: KeeperWorld) -> None:
    left(world)  # a listener that says so unasked has said nothing
    world.turn()
    world.write_config(NAMED, SERVER)
    world.turn()
    world.turn()
    assert len(world.orders(LeaveHealthPort)) == 1
    assert hidden(world) == ["4000/tcp"]
    assert world.process.doors.rules.always_hidden
    left(world)
    with lines("openme.keeper") as records:
        world.turn()
    assert hidden(world) == []
    assert world.process.doors.rules.always_hidden == ()
    assert "health_port 4000/tcp (named by client alice)" in records[-1].getMessage()


def test_it_is_told_again_until_it_has_left(world: KeeperWorld) -> None:
    """Under a flood its answer may be lost."""
    world.write_config(NAMED, SERVER)
    for _ in range(4):
        world.turn()
        world.clock.advance(0.5)
    assert len(world.orders(LeaveHealthPort)) == 2
    left(world)
    world.turn()
    world.clock.advance(5)
    world.turn()
    assert world.orders(LeaveHealthPort) == []


def test_it_is_not_taken_back_while_the_server_runs(world: KeeperWorld) -> None:
    world.write_config(NAMED, SERVER)
    world.turn()
    left(world)
    world.turn()
    world.write_config(None, SERVER)
    world.turn()
    assert world.parts.keeper.config.listens is False
    assert hidden(world) == []


def test_rules_that_the_firewall_refuses_are_tried_again_once_a_minute(world: KeeperWorld) -> None:
    world.write_config(NAMED, SERVER)
    world.turn()
    left(world)
    world.firewall.refusing.add("apply")
    for _ in range(5):
        world.turn()
    assert world.firewall.calls.count("apply") == 1 + 1  # the config that names it was taken before
    world.firewall.refusing.clear()
    world.clock.advance(65)
    world.turn()
    assert hidden(world) == []
