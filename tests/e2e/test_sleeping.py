"""A server that has nothing to do sleeps, and what concerns it wakes it: long before it looks by itself, once a minute.

Every wait here is shorter than that minute, so that it fails where nobody is woken. In a network of its own nobody else
makes devices or rules.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from openme.server.config_watch import LARGE
from openme.server.file_changes import LOOK_INTERVAL, FileChanges
from support.netns import until
from support.server import ServerWorld

pytestmark = pytest.mark.root

REST = 3.0  # seconds; who looks twice a second wakes six times
SOON = 20.0
assert SOON < LOOK_INTERVAL / 2


@pytest.fixture
def asleep(world: ServerWorld) -> ServerWorld:
    """Alice may come in, bob is revoked, port 22 is hidden, and the server sleeps."""
    changes = FileChanges([world.config, world.state_dir / "revoked"])
    told = changes.tells
    changes.close()
    if not told:
        pytest.skip("this machine keeps temporary files where the kernel tells nothing")
    for name in ("alice", "bob"):
        world.add(name)
    world.openme(world.server, "--config", world.config, "revoke", "bob", code=0)
    world.start()
    until(partial(sleeps, world), LOOK_INTERVAL)
    return world


def wakings(world: ServerWorld) -> int:
    """How often the server's processes have gone to sleep."""
    lines = [line for pid in world.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def sleeps(world: ServerWorld) -> bool:
    """Whether none of its processes wakes for a while."""
    before = wakings(world)
    time.sleep(REST)  # that nothing happens can only be seen by waiting
    return wakings(world) == before


def test_with_nothing_to_do_none_of_its_processes_wakes(asleep: ServerWorld) -> None:
    assert len(asleep.pids()) == 3, "keeper, listener, guardian"


def edited(world: ServerWorld) -> None:
    world.edit(knock_timeout="17s")


def edited_in_place(world: ServerWorld) -> None:
    world.config.write_text(world.config.read_text() + "# more\n")


def broken(world: ServerWorld) -> None:
    world.write_config("server: [")


def away(world: ServerWorld) -> None:
    world.config.unlink()


def opened_to_others(world: ServerWorld) -> None:
    world.config.chmod(0o666)


def large(world: ServerWorld) -> None:
    world.write_config(world.config.read_text() + f"# {'x' * LARGE}\n")


def no_more_revoked(world: ServerWorld) -> None:
    (world.state_dir / "revoked").unlink()
    (world.state_dir / "revoked.copy").unlink()


def guardian_killed(world: ServerWorld) -> None:
    os.kill(world.pids()[2], signal.SIGKILL)


def asked(world: ServerWorld) -> None:
    assert world.process is not None
    world.process.send_signal(signal.SIGHUP)


def flushed(world: ServerWorld) -> None:
    world.server.nft("flush ruleset")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (edited, "config in force: "),
        (edited_in_place, "config in force: "),
        (broken, "the config on disk is NOT in force"),
        (away, "the config on disk is NOT in force"),
        (opened_to_others, "the config on disk is NOT in force"),
        (large, "config in force: "),
        (no_more_revoked, "the list of revoked keys is damaged"),
        (guardian_killed, "the guardian was killed"),
        (asked, "asked to look at the config"),
        (flushed, "putting openme's rules back"),
    ],
)
def test_what_concerns_it_wakes_it(asleep: ServerWorld, event: Callable[[ServerWorld], None], said: str) -> None:
    assert said not in asleep.log()
    event(asleep)
    asleep.says(said, SOON)


def test_a_set_of_hidden_ports_that_somebody_removes_is_written_again(asleep: ServerWorld) -> None:
    kept = asleep.state_dir / "hidden_ports"
    kept.unlink()
    until(kept.exists, SOON)


def test_every_further_change_wakes_it_again(asleep: ServerWorld) -> None:
    for changes in range(1, 4):
        asleep.edit(knock_timeout=f"{10 + changes}s")
        until(partial(has_followed, asleep, changes), SOON)


def has_followed(world: ServerWorld, times: int) -> bool:
    return world.log().count("config in force: ") == times
