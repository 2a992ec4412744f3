"""The whole way on this kernel: init, add, serve, knock, a port that opens and that the kernel closes again."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.entries import restrict
from support.netns import until
from support.server import echoes
from support.slow_machine import SlowWorld

pytestmark = pytest.mark.root

SSH = 22


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SlowWorld]:
    with ExitStack() as stack:
        made = SlowWorld(stack, tmp_path, knock_timeout="20s")
        made.serve(tcp=[SSH])
        yield made


@pytest.mark.parametrize("wire", ["v1", "v2"])
def test_the_command_line_opens_a_hidden_port(world: SlowWorld, wire: str) -> None:
    alice = world.add("alice", *(["--v1"] if wire == "v1" else []))
    before = world.server.ruleset()
    world.start()
    assert world.tcp(world.client, SSH) == "filtered"
    world.knock(alice)
    until(lambda: world.tcp(world.client, SSH) == "open")
    assert world.tcp(world.stranger, SSH) == "filtered"
    assert world.stop() == 0
    assert world.server.ruleset() == before


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_closes_the_door_though_nobody_lives_and_a_connection_goes_on(
    world: SlowWorld, version: int
) -> None:
    world.edit(knock_timeout="3s")
    alice = world.add("alice")
    world.start()
    world.knocked(alice, version=version)
    held = world.connection(world.client, SSH, version)
    assert echoes(held)
    for pid in world.pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: world.tcp(world.client, SSH, version) == "filtered")
    assert echoes(held)
    assert world.tcp(world.stranger, SSH, version) == "filtered"


@pytest.mark.parametrize("version", [4, 6])
def test_a_single_use_client_gets_one_connection(world: SlowWorld, version: int) -> None:
    alice = world.add("alice")
    restrict(world, "alice", "single_use: true")
    world.start()
    world.knocked(alice, version=version)
    held = world.connection(world.client, SSH, version)
    assert world.tcp(world.client, SSH, version) == "filtered"
    assert echoes(held)


def test_revoking_closes_the_door(world: SlowWorld) -> None:
    alice = world.add("alice")
    world.start()
    world.knocked(alice)
    assert world.tcp(world.client, SSH) == "open"
    world.revoke("alice")
    assert world.tcp(world.client, SSH) == "filtered"
    world.send(world.packet(alice))
    world.says("refused")
    assert world.tcp(world.client, SSH) == "filtered"


def test_a_flush_of_the_ruleset_is_repaired(world: SlowWorld) -> None:
    alice = world.add("alice")
    world.start()
    world.knocked(alice)
    world.server.nft("flush ruleset")
    until(lambda: world.tcp(world.stranger, SSH) == "filtered")
    until(lambda: world.tcp(world.client, SSH) == "open")
