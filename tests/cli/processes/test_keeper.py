"""The keeper's shell and the processes beside it: what reads a large config, who asks, and how one ended."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openme.processes.listener_reports import Reports, how_it_ended
from openme.server import config_watch
from support.command import until
from support.keeper_process import KeeperWorld, keeper_world
from support.knocks import ALICE, HOME, lines, packet_v2

NAMELESS_USER = 65534


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeeperWorld]:
    with keeper_world(tmp_path) as made:
        yield made


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_peer_of_another_user_is_told_nothing_and_changes_nothing(world: KeeperWorld) -> None:
    """Modes keep him away from the socket; should they be loose one day, his user id does."""
    world.knock(packet_v2())
    world.state_dir.chmod(0o755)
    (world.state_dir / "control").chmod(0o666)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.chdir(world.state_dir)
            os.setgroups([])
            os.setresgid(NAMELESS_USER, NAMELESS_USER, NAMELESS_USER)
            os.setresuid(NAMELESS_USER, NAMELESS_USER, NAMELESS_USER)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect("control")
                peer.sendall(b'{"command": "close", "name": "alice"}')
                peer.shutdown(socket.SHUT_WR)
                os.write(writer, b"connected;")
                try:
                    os.write(writer, peer.recv(100))
                except ConnectionError:
                    os.write(writer, b"")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read(10) == b"connected;"
        world.process.control.on_readable()
        for key, _ in world.process.loop.selector.select(0):
            key.data()
        assert told.read() == b""
    os.waitpid(child, 0)
    assert world.open_for() == {str(HOME)}


def test_what_a_process_of_its_own_read_is_without_the_revoked(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watch, "LARGE", 0)
    world.write_config(server="knock_timeout: 44s")
    assert world.ask("reload")["reading"] is True
    assert world.ask("revoke", name="alice")["keys"] == [str(ALICE.public)]
    assert world.parts.keeper.config.clients.keys() == {"bob"}
    until(lambda: world.ask("reload")["reading"] is False, "the end of the file")
    assert world.parts.keeper.config.knock_timeout == 44
    assert world.parts.keeper.config.clients.keys() == {"bob"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda: os._exit(3), "ended with 3"),
        (lambda: os.kill(os.getpid(), 9), "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), 40), "was killed by signal 40"),
    ],
)
def test_an_end_is_said_in_words(how: Callable[[], None], words: str) -> None:
    child = os.fork()
    if child == 0:
        how()
        os._exit(99)
    assert how_it_ended(os.waitpid(child, 0)[1]) == words


def test_a_guardian_that_is_gone_is_missed_once() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    keeper = Reports(child)
    with lines("openme.keeper", logging.INFO) as records:
        keeper.tick(0.0)
        keeper.tick(1.0)
    assert [record.getMessage().partition(":")[0] for record in records] == ["the guardian was killed"]
