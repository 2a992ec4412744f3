"""What `check-config` says of the host, against what `serve` then does there: real ports, firewalls, capabilities."""

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.server import KNOCK_PORT, OPENME, ServerWorld

pytestmark = pytest.mark.root

MakeWorld = Callable[..., ServerWorld]
STRANGER = 4711


@pytest.fixture
def world(world: ServerWorld) -> ServerWorld:
    world.add("alice")
    return world


def check(
    world: ServerWorld, *words: str, prefix: tuple[str, ...] = (), code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`openme check-config` on the server's host; its answer, one line for each thing that is wrong."""
    openme = world.server.command(*prefix, OPENME, "--config", str(world.config), "check-config", *words)
    done = subprocess.run(openme, capture_output=True, text=True, check=False, timeout=30)
    assert code is None or done.returncode == code, done.stderr
    return done


def refusal(world: ServerWorld, *, prefix: tuple[str, ...] = ()) -> str:
    """What `serve` says as it refuses to start, without the log line's beginning."""
    world.begin(prefix=prefix)
    assert world.wait() == 1
    found = [line for line in world.log().splitlines() if line.startswith("openme: error: ")]
    assert len(found) == 1, world.log()
    return found[0].removeprefix("openme: error: ")


def both_refuse(world: ServerWorld, *, prefix: tuple[str, ...] = ()) -> str:
    """The words in which both do, of which `check-config` says first which file it is about."""
    said = refusal(world, prefix=prefix)
    errors = [line for line in check(world, prefix=prefix, code=1).stderr.splitlines() if "error: " in line]
    assert f"openme: error: {world.config}: {said}" in errors
    return said


def test_a_host_where_nothing_is_wrong_is_fine_before_a_start_and_while_a_server_runs(world: ServerWorld) -> None:
    before = world.server.ruleset()
    assert check(world, code=0).stderr == ""
    assert world.server.ruleset() == before
    world.start()
    serving = world.server.ruleset()
    done = check(world, code=0)
    assert done.stderr == ""
    assert ": fine (clients: 1, " in done.stdout
    assert world.server.ruleset() == serving
    assert "putting" not in world.log()


def test_a_knock_port_that_another_program_has(world: ServerWorld) -> None:
    with closing(world.socket_on(world.server, socket.SOCK_DGRAM, 6)) as held:
        held.bind(("::", KNOCK_PORT))
        said = both_refuse(world)
    assert said.startswith(f"knock port {KNOCK_PORT}/udp is in use by ")
    assert f"(process {os.getpid()} of user root)" in said
    assert not (world.state_dir / "control").exists()


def test_a_running_server_and_a_port_that_is_to_be_its_next_one(world: ServerWorld) -> None:
    world.start()
    with closing(world.socket_on(world.server, socket.SOCK_DGRAM, 6)) as held:
        held.bind(("::", 5000))
        world.edit(udp_port=5000)
        assert "knock port 5000/udp is in use by " in check(world, code=1).stderr


def test_a_health_port_that_another_program_has(world: ServerWorld) -> None:
    world.edit(health_port=8022)
    with closing(world.socket_on(world.server, socket.SOCK_STREAM)) as held:
        held.bind(("127.0.0.1", 8022))
        held.listen()
        told = check(world, code=0).stderr.removeprefix("openme: warning: ").strip()
        assert f"(process {os.getpid()} of user root)" in told
        world.start()
        assert told in world.log()
        assert told in check(world, code=0).stderr
    assert "a service had it at an earlier start" in check(world, code=0).stderr


def test_a_second_server_on_the_same_firewall(world: ServerWorld) -> None:
    world.start()
    other = world.config.read_text().replace(str(world.state_dir), str(world.folder / "other"))
    running, world.config = world.process, world.config.with_name("other.yaml")
    try:
        world.write_config(other)
        world.edit(udp_port=5000, health_port=5000)
        said = both_refuse(world)
    finally:
        world.process = running
    assert said == "another server is running on this machine's firewall"
    assert not (world.folder / "other").exists()


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("setuid", "run_as: without CAP_SETUID and CAP_SETGID, so all processes of openme are the same user"),
        ("kill", "without CAP_KILL the guardian is the listener's user"),
    ],
)
def test_a_capability_without_which_it_serves_with_a_caveat(world: ServerWorld, missing: str, says: str) -> None:
    prefix = ("setpriv", "--bounding-set", f"-{missing}", "--inh-caps", f"-{missing}")
    assert says in check(world, prefix=prefix, code=0).stderr
    world.start(prefix=prefix)
    world.says(says)


def test_a_capability_without_which_it_does_not_serve(world: ServerWorld) -> None:
    prefix = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    assert both_refuse(world, prefix=prefix) == "changing the firewall needs root (CAP_NET_ADMIN)"


def test_a_port_below_1024_without_the_capability_for_it(world: ServerWorld) -> None:
    world.edit(udp_port=554)
    prefix = ("setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service")
    assert both_refuse(world, prefix=prefix).startswith("knock port 554/udp: ports below 1024 need root")


def test_a_state_dir_that_is_somebody_elses(world: ServerWorld) -> None:
    os.chown(world.state_dir, STRANGER, STRANGER)
    assert both_refuse(world) == f"state_dir {world.state_dir} belongs to another user"


@pytest.mark.parametrize("name", ["lock", "ratchet", "others_health_port", "hidden_ports", "revoked", "state.db"])
def test_nothing_in_somebody_elses_state_dir_keeps_whoever_looks(world: ServerWorld, name: str) -> None:
    (world.state_dir / name).unlink(missing_ok=True)
    os.mkfifo(world.state_dir / name, 0o600)
    os.chown(world.state_dir, STRANGER, STRANGER)
    assert f"state_dir {world.state_dir} belongs to another user" in check(world, code=1).stderr


def test_nobody_is_asked_who_listens_in_somebody_elses_state_dir(world: ServerWorld) -> None:
    """He could answer for ever."""
    os.chown(world.state_dir, STRANGER, STRANGER)
    with closing(socket.socket(socket.AF_UNIX)) as theirs:
        theirs.bind(str(world.state_dir / "control"))
        theirs.listen()
        theirs.setblocking(False)  # noqa: FBT003  # the standard library's signature
        assert f"state_dir {world.state_dir} belongs to another user" in check(world, code=1).stderr
        with pytest.raises(BlockingIOError):
            theirs.accept()


def test_a_state_dir_that_cannot_be_made(world: ServerWorld) -> None:
    (world.folder / "file").touch()
    world.edit(state_dir=world.folder / "file" / "state")
    assert "Not a directory" in both_refuse(world)


def test_a_kernel_that_does_not_take_the_rules(world: ServerWorld) -> None:
    """One that lacks what they need is not at hand; a set of ours that is of another kind is refused alike."""
    world.server.nft("table inet openme {\n set cut_v4 {\n type ipv4_addr\n }\n }\n")
    before = world.server.ruleset()
    said = check(world, code=1).stderr
    assert "the firewall refused the rules" in said
    assert world.server.ruleset() == before
    world.begin()
    assert world.wait() == 1
    assert "the firewall refused the rules" in world.log()


def test_without_root_it_says_what_it_has_not_seen_and_the_file_decides(world: ServerWorld) -> None:
    person = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    theirs = Path(world.stack.enter_context(TemporaryDirectory()))
    world.config = world.config.rename(theirs / "config.yaml")
    for path in (theirs, world.config):
        os.chown(path, STRANGER, STRANGER)
    with closing(world.socket_on(world.server, socket.SOCK_DGRAM, 6)) as held:
        held.bind(("::", KNOCK_PORT))
        done = check(world, prefix=person)
        assert (done.returncode, ": fine (clients: 1, " in done.stdout) == (0, True), done.stderr
        assert "openme: not looked at: what only root sees" in done.stderr
        value = check(world, "--json", prefix=person, code=0).stdout
    assert "not_looked_at" in value


def test_a_file_of_another_host_is_judged_alone(world: ServerWorld) -> None:
    world.edit(interface="wan7", run_as="nobody-of-that-name", state_dir="/proc/not/there")
    check(world, code=1)
    done = check(world, "--file-only", code=0)
    assert done.stderr == ""
    world.edit(health_port=22)
    assert "openme does not listen on health_port 22/tcp (named by " in check(world, "--file-only", code=0).stderr
