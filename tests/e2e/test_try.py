"""`openme try`: hidden for a trial, and undone by itself unless somebody shows that knocking works."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

import pytest

from support.netns import until
from support.server import OPENME, ServerWorld

pytestmark = pytest.mark.root

HOST = """
table inet host {
    chain input { type filter hook input priority filter; policy accept; tcp dport 9 counter drop; }
}
"""


def trial(world: ServerWorld, duration: str, *more: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Begin one, and wait until it serves."""
    world.runs += 1
    command = [OPENME, "--config", str(world.config), "try", duration, "--state-file", str(world.state_file), *more]
    with world.log_path.open("wb") as log:
        world.process = subprocess.Popen(
            world.server.command(*prefix, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    world.says("serving:")
    return world.process


@pytest.mark.parametrize("drop_ports", [True, False])
def test_without_a_knock_it_is_undone(make_world: Callable[..., ServerWorld], *, drop_ports: bool) -> None:
    world = make_world(drop_ports=drop_ports)
    world.add("alice")
    world.serve(tcp=[22])
    world.server.nft(HOST)
    before = world.server.ruleset()
    trial(world, "2s")
    assert world.tcp(world.stranger, 22) == "filtered"
    assert "openme" in world.server.ruleset()
    assert world.wait() == 1
    assert world.server.ruleset() == before
    assert world.tcp(world.stranger, 22) == "open"
    assert "unless a client knocks within 2s, this is undone" in world.log()
    assert "nobody has knocked in time" in world.log()
    assert not world.state_file.exists()


def test_somebody_who_may_not_knock_keeps_nothing(world: ServerWorld) -> None:
    alice = world.add("alice")
    packet = world.packet(alice)
    world.revoke("alice")
    before = world.server.ruleset()
    refused = world.openme(world.server, "--config", world.config, "try", "2s", "--state-file", "")
    assert (refused.returncode, "nobody could end this trial" in refused.stderr) == (1, True)
    assert world.server.ruleset() == before
    trial(world, "2s", "--yes")
    world.send(packet, b"\x01" * 165, b"")
    assert world.wait() == 1
    assert world.server.ruleset() == before


def test_after_a_knock_it_stays_until_it_is_stopped(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.edit(drop_ports=False)
    world.serve(tcp=[22])
    before = world.server.ruleset()
    process = trial(world, "6s")
    world.opens(alice, port=22)
    world.says("alice has knocked: the ports stay hidden until this server is stopped")
    # Its time would be over now.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(7)
    assert world.tcp(world.stranger, 22) == "filtered"
    # Looking at the config again, as after any edit, does not put its `drop_ports: false` in force.
    world.edit(knock_timeout="7s")
    world.says("config in force")
    assert world.tcp(world.stranger, 22) == "filtered"
    assert world.stop() == 0
    assert world.server.ruleset() == before
    assert world.tcp(world.stranger, 22) == "open"


def test_refused_while_a_server_runs(world: ServerWorld) -> None:
    world.add("alice")
    world.serve(tcp=[22])
    world.start()
    before = world.server.ruleset()
    refused = world.openme(world.server, "--config", world.config, "try", "2s", "--state-file", "")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert [line for line in refused.stderr.splitlines() if "error:" in line] == [
        f"openme: error: another server is running on {world.state_dir}"
    ]
    assert "hidden" not in refused.stderr
    assert world.server.ruleset() == before
    assert world.sessions() == []


@pytest.mark.parametrize("duration", ["0s", "soon", "-3s"])
def test_a_duration_that_is_none_is_refused(world: ServerWorld, duration: str) -> None:
    refused = world.openme(world.server, "--config", world.config, "try", duration)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "openme" not in world.server.ruleset()


def test_it_undoes_itself_though_the_terminal_is_gone(world: ServerWorld) -> None:
    """The one who tries it has locked himself out: his terminal hangs up, and its pipes are broken."""
    world.add("alice")
    world.serve(tcp=[22])
    before = world.server.ruleset()
    process = subprocess.Popen(
        world.server.command(OPENME, "--config", str(world.config), "try", "3s", "--state-file", ""),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    world.process = process
    assert process.stderr is not None
    assert process.stdout is not None
    while b"serving:" not in process.stderr.readline():
        assert process.poll() is None
    process.stdout.close()
    process.stderr.close()
    for pid in world.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
    assert world.tcp(world.stranger, 22) == "filtered"
    assert process.wait(10) == 1
    until(lambda: world.server.ruleset() == before)
    assert world.tcp(world.stranger, 22) == "open"


@pytest.mark.parametrize("victim", [0, 1], ids=["keeper", "listener"])
def test_it_is_undone_though_a_process_is_killed(world: ServerWorld, victim: int) -> None:
    world.add("alice")
    world.serve(tcp=[22])
    before = world.server.ruleset()
    trial(world, "1m")
    assert world.tcp(world.stranger, 22) == "filtered"
    os.kill(world.pids()[victim], signal.SIGKILL)
    assert world.wait() != 0
    until(lambda: world.server.ruleset() == before, 5)
    assert world.tcp(world.stranger, 22) == "open"


def test_once_passed_it_survives_kill_9_as_any_server_does(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    trial(world, "1m")
    world.opens(alice, port=22)
    world.says("alice has knocked")
    world.kill()
    assert world.tcp(world.stranger, 22) == "filtered"
