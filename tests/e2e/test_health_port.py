"""The health port is there for nobody who has not knocked: not at the start either, and not at the end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.netns import until
from support.server import KNOCK_PORT, ServerWorld

pytestmark = pytest.mark.root


@contextmanager
def watched(world: ServerWorld) -> Iterator[set[str]]:
    """What a stranger sees of the health port meanwhile, looking again and again."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(world.tcp(world.stranger, KNOCK_PORT))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def test_a_stranger_never_reaches_it_from_before_the_start_until_after_the_end(world: ServerWorld) -> None:
    world.add("alice")
    with watched(world) as seen:
        for _ in range(3):
            world.start()
            until(lambda: "filtered" in seen)
            assert world.stop() == 0
    assert seen == {"closed", "filtered"}


def test_a_dead_servers_rules_are_removed_whatever_the_config_says(world: ServerWorld) -> None:
    world.serve(tcp=[22])
    before = world.server.ruleset()
    world.start()
    busy = world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=1)
    assert "another server is running" in busy.stderr
    world.kill()
    world.write_config("no YAML: [\n")
    assert world.tcp(world.stranger, 22) == "filtered"
    world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=0)
    assert world.server.ruleset() == before
    assert world.tcp(world.stranger, 22) == "open"


def test_a_running_server_is_reached_though_its_config_is_broken(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    world.write_config(world.config.read_text() + "  bad: [\n")
    at = ("--config", world.config)
    assert "alice" in world.openme(world.server, *at, "sessions", code=0).stdout
    world.openme(world.server, *at, "close", "alice", code=0)
    until(lambda: world.tcp(world.client, 22) == "filtered")
    failed = world.openme(world.server, *at, "revoke", "alice", code=1)
    assert "alice is out of the running server; no start lets it in again" in failed.stderr
    assert "its entry still stands in the file" in failed.stderr
    world.send(world.packet(alice))
    world.says("alice: refused: disabled, its key is revoked")
    assert world.tcp(world.client, 22) == "filtered"


def test_a_stopped_guardian_keeps_nobody_from_stopping(world: ServerWorld) -> None:
    world.start()
    guardian = world.pids()[2]
    os.kill(guardian, signal.SIGSTOP)
    try:
        assert world.stop() == 0
    finally:
        os.kill(guardian, signal.SIGKILL)
