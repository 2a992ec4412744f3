"""A health port that is another program's: it stays that program's, and it shows by it whether the door is open."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from openme.server.health_port import FILE_NAME
from support.netns import until
from support.server import KNOCK_PORT, ServerWorld

pytestmark = pytest.mark.root

WEB = 8022
MakeWorld = Callable[..., ServerWorld]


def serve_web(world: ServerWorld) -> subprocess.Popen[str]:
    """A program that knows nothing of openme."""
    words = ("-u", "-m", "http.server", "--bind", "0.0.0.0", str(WEB))  # its banner comes once it listens
    process = world.server.popen(sys.executable, *words)
    assert process.stdout is not None
    assert "Serving HTTP" in process.stdout.readline()
    return process


@pytest.mark.parametrize("drop_ports", [True, False])
def test_a_port_that_another_program_holds_is_hidden_as_drop_ports_says(
    make_world: MakeWorld, *, drop_ports: bool
) -> None:
    world = make_world(health_port=WEB, drop_ports=drop_ports)
    alice = world.add("alice", "--v1")
    bob = world.add("bob")
    web = serve_web(world)
    world.start()
    world.says(f"openme does not listen on health_port {WEB}/tcp (it is in use by python")
    assert f"(process {web.pid} of user root)" in world.log()
    before = "filtered" if drop_ports else "open"
    assert world.tcp(world.stranger, WEB) == world.tcp(world.client, WEB) == before
    assert world.status(alice, code=3 if drop_ports else 0).stdout == ("closed\n" if drop_ports else "open\n")
    assert world.knock(alice, "--check").stdout == "open\n"
    assert world.status(alice, code=0).stdout == world.status(bob, code=0).stdout == "open\n"
    assert world.tcp(world.client, WEB) == "open"
    assert world.tcp(world.stranger, WEB) == before


def test_a_receipt_is_never_taken_from_another_program(make_world: MakeWorld) -> None:
    world = make_world(health_port=WEB)
    bob = world.add("bob")
    serve_web(world)
    world.start()
    assert world.knock(bob, "--check", code=3).stdout == "not confirmed\n"
    assert world.status(bob, code=0).stdout == "open\n"


def test_a_service_that_starts_after_openme_finds_its_port_free(make_world: MakeWorld) -> None:
    """As at boot, where sshd is started after openme: a group names the port."""
    world = make_world(health_port=WEB)
    world.set_ports(default=f"[{WEB}/tcp]")
    alice = world.add("alice", "--v1")
    world.start()
    world.says("(named by group default, client alice)")
    serve_web(world)
    assert world.tcp(world.stranger, WEB) == "filtered"
    assert world.knock(alice, "--check").stdout == "open\n"


def test_a_service_seen_once_finds_its_port_free_at_the_next_boot(make_world: MakeWorld) -> None:
    world = make_world(health_port=WEB, drop_ports=False)
    web = serve_web(world)
    world.start()
    assert world.stop() == 0
    web.kill()
    web.wait()
    until(lambda: world.tcp(world.client, WEB) == "closed")
    world.start()
    world.says(f"a service had it at an earlier start; if it shall be openme's: rm {world.state_dir / FILE_NAME}")
    serve_web(world)
    assert world.tcp(world.stranger, WEB) == "open"


def test_a_running_server_leaves_its_port_to_a_group_that_comes_to_name_it(make_world: MakeWorld) -> None:
    world = make_world(drop_ports=False)
    alice = world.add("alice", "--v1")
    world.start()
    assert world.tcp(world.stranger, KNOCK_PORT) == "filtered"
    assert world.knock(alice, "--check").stdout == "open\n"
    world.set_ports(default="[22/tcp]", web=f"[{KNOCK_PORT}/tcp]")
    world.says("(named by group web)")
    assert world.tcp(world.stranger, KNOCK_PORT) == "closed"
    world.serve(tcp=[KNOCK_PORT])
    assert world.tcp(world.stranger, KNOCK_PORT) == "open"
