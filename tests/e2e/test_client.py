"""The client's commands against the real server: what they answer is what holds."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from support.netns import until, v4, v6
from support.server import CLIENT, KNOCK_PORT, OPENME, SERVER, ServerWorld

pytestmark = pytest.mark.root
both_versions = pytest.mark.parametrize("version", [4, 6])
OPEN, SHUT = 0, 3


@both_versions
def test_the_health_port_answers_only_after_a_knock_and_says_nothing(world: ServerWorld, version: int) -> None:
    alice = world.add("alice", server_host=SERVER[version])
    world.start()
    assert world.tcp(world.client, KNOCK_PORT, version) == "filtered"
    world.knock(alice, "--check")
    talkative = world.connection(world.client, KNOCK_PORT, version)
    talkative.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with suppress(ConnectionResetError):
        assert talkative.recv(100) == b""
    silent = world.connection(world.client, KNOCK_PORT, version)
    assert silent.recv(100) == b"", "a connection that says nothing is closed too"
    assert world.tcp(world.stranger, KNOCK_PORT, version) == "filtered"


def test_status_and_check_tell_the_truth(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(knock_timeout="10s")
    alice = world.add("alice")
    nowhere = world.status(alice, code=SHUT)
    assert nowhere.stdout == "closed\n"
    world.start()
    assert world.status(alice, code=SHUT).stdout == "closed\n"
    checked = world.knock(alice, "--check", code=OPEN)
    assert re.fullmatch(rf"open\n22/tcp for {v4(2)} until \S+Z, proven by the server\n", checked.stdout)
    assert checked.stderr.startswith("openme: knocked at ")
    # Asked again without a knock, the server says the same of the last one.
    assert world.status(alice, code=OPEN).stdout == checked.stdout
    until(lambda: not world.sessions(), 15)
    answer = json.loads(world.status(alice, "--json", code=SHUT).stdout)
    assert answer == {
        "profile": "default",
        "answer": "none",
        "open": False,
        "addresses": [{"address": SERVER[4], "open": False}],
        "receipts": [],
    }
    assert world.status(alice, "--knock", code=OPEN).stdout.startswith("open\n22/tcp for ")


def test_status_and_check_of_version_1_go_by_tcp_alone(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(knock_timeout="10s")
    alice = world.add("alice", "--v1")
    world.start()
    assert world.status(alice, code=SHUT).stdout == "closed\n"
    assert world.knock(alice, "--check", code=OPEN).stdout == "open\n"
    assert world.status(alice, code=OPEN).stdout == "open\n"
    until(lambda: not world.sessions(), 15)
    until(lambda: world.status(alice).stdout == "closed\n", 2)
    assert world.status(alice, "--knock", code=OPEN).stdout == "open\n"


def test_a_client_that_may_not_knock_finds_the_door_shut(world: ServerWorld) -> None:
    done = world.folder / "done"
    alice = world.add("alice", lines=f"post_knock: touch {done}")
    world.revoke("alice")
    world.start()
    refused = world.knock(alice, "--check", code=SHUT)
    assert refused.stdout == "closed\n"
    assert "openme: hint: " in refused.stderr
    assert not done.exists(), "post_knock needs an open door where --check asks for one"
    assert world.knock(alice, code=OPEN).stdout == "", "a knock without --check does not wait, and knows nothing"
    assert done.exists()


def test_a_health_port_of_its_own_stands_in_the_profile(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(health_port=54155)
    alice = world.add("alice")
    assert "server_health_port: 54155" in alice.read_text()
    world.start()
    world.knock(alice, "--check", code=OPEN)
    assert world.tcp(world.client, 54155) == "open"


def test_a_name_with_both_families_gets_a_knock_over_each(world: ServerWorld, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{v6(1)} gate.example\n{v4(1)} gate.example\n192.0.2.77 gate.example\n")
    alice = world.add("alice", server_host="gate.example")
    world.serve(tcp=[22])
    world.start()
    knocked = world.knock(alice, "--check", hosts=hosts)
    assert knocked.stdout.startswith("open\n")
    assert {line.split()[2] for line in knocked.stdout.splitlines()[1:]} == {CLIENT[4], str(ip_address(CLIENT[6]))}
    assert world.tcp(world.client, 22, 4) == "open"
    assert world.tcp(world.client, 22, 6) == "open"
    assert knocked.stderr.count("knocked at") == 3, "the stale address gets the same packet as the other one"
    assert len(knocked.stdout.splitlines()) == 3, "one line for each knock, however many addresses it went to"
    assert "open, but not over 192.0.2.77" in knocked.stderr


def test_a_family_that_the_network_lacks_is_no_failure(world: ServerWorld, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"2001:db8:ffff::1 gate.example\n{v4(1)} gate.example\n")
    alice = world.add("alice", server_host="gate.example")
    world.start()
    knocked = world.knock(alice, "--check", hosts=hosts)
    assert knocked.stdout.startswith("open\n")
    assert "no knock to 2001:db8:ffff::1: Network is unreachable" in knocked.stderr


def test_check_says_that_another_address_was_named(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start()
    elsewhere = world.knock(alice, "--ip", v4(3), "--check", code=SHUT)
    assert f"the knock named {v4(3)}: from here the door is shut" in elsewhere.stderr
    assert world.tcp(world.stranger, KNOCK_PORT) == "open"


def test_continuous_keeps_the_door_open_and_runs_post_knock_once(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(knock_timeout="3s")
    done = world.folder / "done"
    alice = world.add("alice", lines=f"post_knock: echo once >> {done}")
    world.serve(tcp=[22])
    world.start()
    knocking = subprocess.Popen(
        world.client.command(OPENME, "--client-config", str(alice), "knock", "--continuous"),
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: world.tcp(world.client, 22) == "open")
        while world.log().count("alice: opened") < 5:  # longer than a door of one knock is open
            assert world.tcp(world.client, 22) == "open"
            time.sleep(0.02)
    finally:
        knocking.send_signal(signal.SIGINT)
    assert knocking.wait(5) == 0
    assert done.read_text() == "once\n"
    until(lambda: world.tcp(world.client, 22) == "filtered", 5)


def test_an_interval_that_outlasts_the_grant_is_kept_to_and_said(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(knock_timeout="3s")
    alice = world.add("alice")
    world.start()
    words = ["--client-config", str(alice), "knock", "--continuous", "--interval", "10m"]
    with subprocess.Popen(
        world.client.command(OPENME, *words), stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as knocking:
        assert knocking.stderr is not None
        try:
            lines = iter(knocking.stderr.readline, b"")
            warning = next(line for line in lines if b"warning" in line)
        finally:
            knocking.send_signal(signal.SIGINT)
    assert warning == (
        b"openme: warning: --interval 10m: the server opens for 3s only, and the door is shut in between; without"
        b" --interval it never is\n"
    )


@pytest.fixture
def roaming(world: ServerWorld) -> Iterator[subprocess.Popen[bytes]]:
    """A client that keeps its door open, with a turn of its own in ten minutes only; it waits for that."""
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    knocking = subprocess.Popen(
        world.client.command(OPENME, "--client-config", str(alice), "knock", "--continuous", "--interval", "10m"),
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: opened(world))
        until(lambda: timer(knocking))
        yield knocking
    finally:
        knocking.send_signal(signal.SIGINT)
        assert knocking.wait(5) == 0


def timer(process: subprocess.Popen[bytes]) -> str:
    """What the kernel says of the timer that a process has set; nothing before."""
    told = ""
    with suppress(OSError):
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            if "timerfd" in str(link.readlink()):
                told = Path(f"/proc/{process.pid}/fdinfo/{link.name}").read_text()
    return told if re.search(r"it_value: \([1-9]", told) else ""


def opened(world: ServerWorld) -> int:
    return world.log().count("alice: opened")


@pytest.mark.usefixtures("roaming")
def test_a_client_that_moves_to_another_address_has_its_door_there_at_once(world: ServerWorld) -> None:
    world.client.run("ip", "address", "delete", f"{v4(2)}/24", "dev", "eth0")
    world.client.run("ip", "address", "add", f"{v4(77)}/24", "dev", "eth0")
    until(lambda: f"for {v4(77)} " in world.log())
    assert world.tcp(world.client, 22) == "open"


@pytest.mark.usefixtures("roaming")
def test_the_same_address_in_another_network_is_knocked_for_again(world: ServerWorld) -> None:
    before = opened(world)
    world.client.run("ip", "address", "delete", f"{v4(2)}/24", "dev", "eth0")
    world.client.run("ip", "address", "add", f"{v4(2)}/24", "dev", "eth0")
    until(lambda: opened(world) > before)


@pytest.mark.usefixtures("roaming")
def test_what_is_no_other_network_is_no_reason_to_knock(world: ServerWorld) -> None:
    """Lifetimes that are renewed, and networks that do not lead to the server. Then one that is a reason."""
    before = opened(world)
    for number in range(5):
        lifetimes = ["valid_lft", f"{1000 + number}", "preferred_lft", f"{900 + number}"]
        world.client.run("ip", "address", "change", f"{v4(2)}/24", "dev", "eth0", *lifetimes)
        world.client.run("ip", "address", "add", f"10.9.9.{number + 1}/24", "dev", "lo")
        world.client.run("ip", "route", "add", f"10.10.{number}.0/24", "dev", "eth0")
    world.client.run("ip", "address", "delete", f"{v4(2)}/24", "dev", "eth0")
    world.client.run("ip", "address", "add", f"{v4(77)}/24", "dev", "eth0")
    until(lambda: f"for {v4(77)} " in world.log())
    assert opened(world) == before + 1


def test_a_client_that_waits_for_its_turn_is_not_woken_before(
    world: ServerWorld, roaming: subprocess.Popen[bytes]
) -> None:
    """It has no time to wait for but its timer's, which counts sleep and is ten minutes away."""
    told = timer(roaming)
    left = re.search(r"it_value: \((\d+), \d+\)", told)
    assert left is not None
    assert 500 < int(left[1]) <= 600
    assert "clockid: 7" in told  # CLOCK_BOOTTIME
    assert opened(world) == 1


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("; exit 7", 1)])
def test_post_knock_has_the_terminal_and_its_end_is_told(world: ServerWorld, ending: str, code: int) -> None:
    alice = world.add("alice", lines=f'post_knock: "test -t 0 && read line && echo got $line{ending}"')
    world.start()
    master, slave = pty.openpty()
    knocking = subprocess.Popen(
        world.client.command(OPENME, "--client-config", str(alice), "knock", "--check"),
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(master, b"typed\n")
    answer, messages = knocking.communicate(timeout=20)
    os.close(master)
    os.close(slave)
    assert answer.startswith("open\n")
    assert answer.endswith("got typed\n")
    assert knocking.returncode == code
    assert ("ended with status 7" in messages) == bool(code)


def test_sessions_tells_who_is_in_and_everybodys_last_knock(world: ServerWorld) -> None:
    world.set_ports(default="[22/tcp]", web="[80, 8080-8090/tcp]")
    alice, bob = world.add("alice", "--ports", "web"), world.add("bob")
    world.start()
    world.opens(bob)
    world.ask("close", name="bob")
    world.opens(alice, version=6)
    # From another network namespace: the commands beside `serve` go by the config and its state_dir.
    shown = world.openme(world.stranger, "--config", world.config, "sessions", code=0).stdout
    inside, others = shown.split("\n\n")
    assert "alice" in inside
    assert "2001:db8::2" in inside
    assert "8080-8090/tcp" in inside
    assert "bob" in others
    value = json.loads(world.openme(world.stranger, "--config", world.config, "sessions", "--json", code=0).stdout)
    # The server writes its file at most once a second.
    until(lambda: value["active_sessions"] == json.loads(world.state_file.read_text())["active_sessions"])
    assert set(value["last_seen"]) == {"alice", "bob"}
    assert world.state_file.stat().st_mode & 0o777 == 0o600
    until(lambda: "192.0.2.2" in world.openme(world.stranger, "--config", world.config, "list", code=0).stdout)
