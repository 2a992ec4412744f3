"""`openme connect` before the real server: it knocks when that is needed and no more, and makes one connection."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.netns import until, v4, v6
from support.server import KNOCK_PORT, OPENME, SERVER, ServerWorld

pytestmark = pytest.mark.root
both_versions = pytest.mark.parametrize("version", [4, 6])
MakeWorld = Callable[..., ServerWorld]
DONE, FAILED, SHUT = 0, 1, 3
PORT = 22

COUNT = f"""
table inet seen {{
  counter knocks {{ }}
  counter connections {{ }}
  chain watch {{
    type filter hook prerouting priority -400; policy accept;
    udp dport {KNOCK_PORT} counter name knocks
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    tcp sport {PORT} tcp flags & (syn | ack) == (syn | ack) counter name connections
  }}
}}
"""


def connect(
    world: ServerWorld, profile: Path, *words: object, said: str = "hello", hosts: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`openme connect` on the client; an echo service gives back what it says, and ends when it has."""
    bound = [] if hosts is None else ["sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    return subprocess.run(
        world.client.command(*bound, OPENME, "--client-config", str(profile), "connect", *map(str, words)),
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def counted(world: ServerWorld, name: str) -> int:
    """How many packets a counter of COUNT has seen."""
    rows = json.loads(world.server.run("nft", "--json", "list", "counter", "inet", "seen", name))["nftables"]
    return int(next(row["counter"]["packets"] for row in rows if "counter" in row))


def break_path(world: ServerWorld, name: str, *rules: str) -> None:
    """Have packets to the server dropped or refused by these rules, before openme's see them."""
    chain = "\n".join(("type filter hook prerouting priority -450; policy accept;", *rules))
    world.server.nft(f"table inet {name} {{\nchain c {{\n{chain}\n}}\n}}\n")


def served(world: ServerWorld) -> ServerWorld:
    """With an echo service behind the hidden port, a server, and counters."""
    world.serve(tcp=[PORT])
    world.start()
    world.server.nft(COUNT)
    return world


@both_versions
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_a_hidden_port_is_reached_with_one_knock_and_in_silence(
    make_world: MakeWorld, hidden_as: str, version: int
) -> None:
    world = make_world(hidden_as=hidden_as)
    alice = world.add("alice", server_host=SERVER[version])
    served(world)
    assert outcome(connect(world, alice, SERVER[version], PORT)) == (DONE, "hello", "")
    assert counted(world, "knocks") == 1
    assert counted(world, "connections") == 1, "none but the one that is used"


def test_a_profile_of_version_1_does_as_well(world: ServerWorld) -> None:
    alice = world.add("alice", "--v1")
    served(world)
    assert outcome(connect(world, alice, SERVER[4], PORT)) == (DONE, "hello", "")


def test_a_port_that_is_open_to_us_gets_no_knock(world: ServerWorld) -> None:
    alice = world.add("alice")
    served(world)
    world.opens(alice, port=PORT)
    before = counted(world, "knocks"), counted(world, "connections")
    assert outcome(connect(world, alice, SERVER[4], PORT)) == (DONE, "hello", "")
    assert (counted(world, "knocks"), counted(world, "connections")) == (before[0], before[1] + 1)


def test_once_the_grant_has_run_out_it_knocks_again(make_world: MakeWorld) -> None:
    world = make_world(knock_timeout="1s")
    alice = world.add("alice")
    served(world)
    for knocks in (1, 2):
        assert outcome(connect(world, alice, SERVER[4], PORT)) == (DONE, "hello", "")
        assert counted(world, "knocks") == knocks
        until(lambda: not world.sessions())


def test_a_knock_that_is_lost_is_followed_by_another(world: ServerWorld) -> None:
    alice = world.add("alice")
    served(world)
    break_path(world, "lossy", f"udp dport {KNOCK_PORT} numgen inc mod 1000 < 1 counter drop")
    done = connect(world, alice, SERVER[4], PORT)
    assert (done.returncode, done.stdout) == (DONE, "hello")
    assert done.stderr == f"openme: {SERVER[4]} port {PORT} does not answer yet; knocked again\n"
    assert "packets 1 " in world.server.run("nft", "list", "table", "inet", "lossy")
    assert counted(world, "knocks") == 1, "the other one"


def test_a_grant_that_runs_out_while_it_waits_is_followed_by_another(make_world: MakeWorld) -> None:
    """The path takes no TCP for a while: the first door is shut again by then."""
    world = make_world(knock_timeout="1s")
    alice = world.add("alice")
    served(world)
    break_path(world, "gone", f"tcp dport {PORT} drop")
    waiting = world.client.popen(OPENME, "--client-config", str(alice), "connect", SERVER[4], str(PORT))
    until(lambda: world.log().count("alice: opened") == 2)
    world.server.nft("delete table inet gone")
    out, _ = waiting.communicate("hello", timeout=30)
    assert (waiting.returncode, out) == (DONE, "hello")


@both_versions
def test_a_door_for_a_single_use_serves_the_connection_and_nothing_else(world: ServerWorld, version: int) -> None:
    alice = world.add("alice", server_host=SERVER[version])
    world.write_config(world.config.read_text().replace("  alice:\n", "  alice:\n    single_use: true\n"))
    served(world)
    for knocks in (1, 2):
        assert outcome(connect(world, alice, SERVER[version], PORT)) == (DONE, "hello", "")
        assert counted(world, "knocks") == knocks
        assert counted(world, "connections") == knocks
        assert world.tcp(world.client, PORT, version) == "filtered"


def test_a_door_for_a_single_use_that_is_open_is_used_without_a_knock(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.write_config(world.config.read_text().replace("  alice:\n", "  alice:\n    single_use: true\n"))
    served(world)
    world.opens(alice)  # the health port does not count
    knocks = counted(world, "knocks")
    assert outcome(connect(world, alice, SERVER[4], PORT)) == (DONE, "hello", "")
    assert counted(world, "knocks") == knocks


# What neighbours ask each other is let through: it is the path that is broken.
BROKEN = {
    "silent": ["meta nfproto FAMILY meta l4proto { tcp, udp } drop"],
    "refused": [
        "meta nfproto FAMILY meta l4proto tcp reject with tcp reset",
        "meta nfproto FAMILY udp dport 1-65535 drop",
    ],
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("broken", ["ipv4", "ipv6"])
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_a_family_that_is_broken_is_no_hindrance(
    make_world: MakeWorld, tmp_path: Path, hidden_as: str, broken: str, how: str
) -> None:
    world = make_world(hidden_as=hidden_as)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{v6(1)} gate.example\n{v4(1)} gate.example\n")
    alice = world.add("alice", server_host="gate.example")
    served(world)
    break_path(world, "half", *(rule.replace("FAMILY", broken) for rule in BROKEN[how]))
    assert outcome(connect(world, alice, "gate.example", PORT, hosts=hosts)) == (DONE, "hello", "")
    assert counted(world, "connections") == 1


def test_a_name_without_a_route_for_one_family_is_no_hindrance(world: ServerWorld, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"2001:db8:ffff::1 gate.example\n{v4(1)} gate.example\n")
    alice = world.add("alice", server_host="gate.example")
    served(world)
    assert outcome(connect(world, alice, "gate.example", PORT, hosts=hosts)) == (DONE, "hello", "")


# -- in vain


def test_a_client_that_may_not_knock_is_told_that_the_door_stayed_shut(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.revoke("alice")
    served(world)
    done = connect(world, alice, SERVER[4], PORT)
    assert (done.returncode, done.stdout) == (SHUT, "")
    assert f"openme: error: {SERVER[4]} port {PORT}: no connection after the knock: nothing answers\n" in done.stderr
    assert "openme: hint: on the server, the log says why" in done.stderr
    assert counted(world, "knocks") == 3


def test_a_port_that_the_knock_does_not_open_is_told_by_the_servers_own_word(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.set_ports(default="[22/tcp]", other="[2222/tcp]")
    served(world)
    done = connect(world, alice, SERVER[4], 2222)
    assert (done.returncode, done.stdout) == (SHUT, "")
    assert "port 2222: the knock opened 22/tcp, and not this port: nothing answers\n" in done.stderr
    assert "openme: hint: on the server, add 2222/tcp to the ports of client alice\n" in done.stderr


def test_a_service_that_does_not_run_is_told_from_a_door_that_stays_shut(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start()
    done = connect(world, alice, SERVER[4], PORT)
    assert (done.returncode, done.stdout) == (SHUT, "")
    assert "the knock opened a door, but there is no connection: Connection refused\n" in done.stderr
    assert "openme: hint: see whether the service runs there\n" in done.stderr


def test_a_network_that_is_not_there_is_no_door_that_stayed_shut(world: ServerWorld) -> None:
    alice = world.add("alice", server_host="203.0.113.77")
    done = connect(world, alice, "203.0.113.77", PORT)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "no knock could be sent: 203.0.113.77: Network is unreachable" in done.stderr


# -- other hosts


def test_another_name_of_the_server_is_reached_with_profile_default_which_it_says(world: ServerWorld) -> None:
    """HOST is what ssh was asked for; the knock goes where the profile says."""
    alice = world.add("alice")
    served(world)
    done = connect(world, alice, v6(1), PORT)
    assert (done.returncode, done.stdout) == (SHUT, ""), "an IPv4 knock opens nothing for IPv6"
    hosts = world.folder / "hosts"
    hosts.write_text(f"{v4(1)} alias.example\n")
    done = connect(world, alice, "alias.example", PORT, hosts=hosts)
    assert (done.returncode, done.stdout) == (DONE, "hello")
    assert (
        done.stderr == f"openme: no profile is for alias.example: using profile default, which knocks at {SERVER[4]}\n"
    )
    done = connect(world, alice, "--profile", "default", "alias.example", PORT, hosts=hosts)
    assert outcome(done) == (DONE, "hello", ""), "whoever names the profile knows"


def test_a_name_that_is_this_machine_opens_nothing_for_anybody(world: ServerWorld, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 gate.example\n")
    alice = world.add("alice", server_host="gate.example")
    world.client.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40003")
    done = connect(world, alice, "gate.example", 40002, hosts=hosts)
    assert (done.returncode, done.stdout) == (SHUT, ""), "it would have talked with itself"
    assert "Traceback" not in done.stderr


# -- ends


def test_both_ends_are_passed_on_by_themselves(world: ServerWorld) -> None:
    """Ours is told by `hello`, of which the echo comes after it. Here the service ends first, and still listens."""
    alice = world.add("alice")
    service = world.server.popen(
        "python3",
        "-c",
        "import socket; s = socket.create_server(('', 22)); print('ready', flush=True); c, _ = s.accept();"
        " c.sendall(b'bye'); c.shutdown(socket.SHUT_WR); print(c.recv(100).decode(), flush=True); print(c.recv(1))",
    )
    assert service.stdout is not None
    assert service.stdout.readline() == "ready\n"
    world.start()
    running = world.client.popen(OPENME, "--client-config", str(alice), "connect", SERVER[4], str(PORT))
    assert running.stdout is not None
    assert running.stdin is not None
    assert running.stdout.read() == "bye", "to its end, though the process goes on"
    running.stdin.write("late")
    running.stdin.flush()
    assert service.stdout.readline() == "late\n"
    assert running.poll() is None
    running.stdin.close()
    running.stdin = None
    assert running.wait(10) == DONE
    assert service.stdout.readline() == "b''\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_by_that_signal_in_silence_while_it_waits_and_while_it_carries(
    world: ServerWorld, number: signal.Signals
) -> None:
    alice = world.add("alice")
    break_path(world, "gone", f"tcp dport {PORT} drop")
    waiting = world.client.popen(OPENME, "--client-config", str(alice), "connect", SERVER[4], str(PORT))
    until(lambda: re.search(r":22\s", world.client.run("ss", "-Htn", "state", "syn-sent")))
    waiting.send_signal(number)
    assert waiting.wait(10) == -number
    world.server.nft("delete table inet gone")
    served(world)
    carrying = world.client.popen(OPENME, "--client-config", str(alice), "connect", SERVER[4], str(PORT))
    assert carrying.stdin is not None
    assert carrying.stdout is not None
    carrying.stdin.write("x")
    carrying.stdin.flush()
    assert carrying.stdout.read(1) == "x"
    carrying.send_signal(number)
    assert carrying.wait(10) == -number
    for process in (waiting, carrying):
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_two_at_once_do_not_disturb_each_other(world: ServerWorld) -> None:
    alice = world.add("alice")
    served(world)
    running = [
        world.client.popen(OPENME, "--client-config", str(alice), "connect", SERVER[4], str(PORT)) for _ in range(4)
    ]
    for number, process in enumerate(running):
        out, err = process.communicate(str(number), timeout=30)
        assert (process.returncode, out, err) == (DONE, str(number), "")
