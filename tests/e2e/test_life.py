"""Start, stop, death and return of the server: what stays in the firewall, what a client and a stranger notice."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from support.kernel_doors import seconds_left, until_shut
from support.netns import until
from support.server import KNOCK_PORT, OPENME, SERVER, ServerWorld, echoes

pytestmark = pytest.mark.root

# Rules as a host has them: chains that openme marks, and chains that it has no business with.
FOREIGN = """
table inet host {
    set banned { type ipv4_addr; flags timeout; elements = { 203.0.113.9 } }
    chain in {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        iif "lo" accept
        ip saddr @banned counter drop
        tcp dport 4000 accept comment "a rule in the middle"
    }
    chain out { type filter hook output priority 0; policy accept; }
}
table ip nat {
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; masquerade; }
}
table netdev early { }
table ip filter {
    chain INPUT { type filter hook input priority filter; policy accept; }
    chain FORWARD { type filter hook forward priority filter; policy drop; }
}
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_stopping_removes_exactly_what_starting_made(world: ServerWorld) -> None:
    world.server.nft(FOREIGN)
    world.server.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "4001", "-j", "ACCEPT", check=False)
    before = world.server.ruleset()
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    assert world.server.ruleset() != before
    world.opens(alice, port=22)
    assert world.state_file.exists()
    assert world.stop() == 0
    assert world.server.ruleset() == before
    assert not world.state_file.exists()


def test_stopping_ends_every_process_in_time(world: ServerWorld) -> None:
    world.start()
    processes = world.pids()
    assert len(processes) == 3, "keeper, listener, guardian"
    assert world.stop() == 0
    assert not any(map(alive, processes))


@pytest.mark.parametrize("whom", ["keeper", "listener", "both"])
def test_after_a_kill_doors_close_on_time_and_ports_stay_hidden(
    make_world: Callable[..., ServerWorld], whom: str
) -> None:
    world = make_world(knock_timeout="2s")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    keeper, listener = world.pids()[:2]
    for pid in {"keeper": [keeper], "listener": [listener], "both": [keeper, listener]}[whom]:
        os.kill(pid, 9)
    until(lambda: not alive(listener))
    assert world.wait() == (1 if whom == "listener" else -9)
    connection = world.connection(world.client, 22)
    until_shut(world.server, at_most=2)
    assert world.tcp(world.client, 22) == "filtered"
    assert echoes(connection)
    hidden = {"22/tcp": "filtered", f"{KNOCK_PORT}/tcp": "filtered"}
    assert world.nmap(world.stranger, "22", str(KNOCK_PORT)) == hidden
    assert world.udp(world.stranger, KNOCK_PORT) == "filtered", "a port unreachable would tell where the knock port was"


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Do something again and again, every few milliseconds, until the block is over."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(0.003):
            action()

    with ThreadPoolExecutor(1) as pool:
        repeating = pool.submit(repeat)
        try:
            yield
        finally:
            over.set()
    repeating.result()


def test_the_next_start_takes_over_without_a_gap(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(knock_timeout="4s")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    left = max(seconds_left(world.server))
    before = world.sessions()[0]
    known: Counter[str] = Counter()
    strange: list[socket.socket] = []

    def attempt() -> None:
        made = world.socket_on(world.stranger, socket.SOCK_STREAM)
        world.stack.callback(made.close)
        made.setblocking(False)  # noqa: FBT003  # the standard library's signature
        made.connect_ex((SERVER[4], 22))
        strange.append(made)

    with meanwhile(attempt), meanwhile(lambda: known.update([world.tcp(world.client, 22)])):
        world.kill()
        world.start()
        world.says("alice: still open")
    assert len(strange) > 20
    assert not select.select([], strange, [], 0.1)[1], "an attempt of the stranger was answered"
    assert set(known) == {"open"}, known
    after = world.sessions()[0]
    assert {key: after[key] for key in ("client_name", "ip", "ports")} == {
        key: before[key] for key in ("client_name", "ip", "ports")
    }
    gained = datetime.fromisoformat(after["expires_at"]) - datetime.fromisoformat(before["expires_at"])
    assert abs(gained.total_seconds()) <= 1
    until_shut(world.server, at_most=left)
    assert world.tcp(world.client, 22) == "filtered"


def test_a_door_of_a_client_revoked_while_no_server_ran_is_closed_by_the_next(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    world.kill()
    world.revoke("alice")
    world.start()
    assert world.tcp(world.client, 22) == "filtered"
    assert world.sessions() == []


def test_a_door_that_allowed_from_forbids_since_no_server_ran_is_closed_by_the_next(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    world.kill()
    assert world.tcp(world.client, 22) == "open"
    text = world.config.read_text()
    world.write_config(text.replace("  alice:\n", "  alice:\n    allowed_from: [198.51.100.0/24]\n", 1))
    world.start()
    assert world.tcp(world.client, 22) == "filtered"
    assert world.sessions() == []


def test_a_knock_from_before_a_kill_opens_nothing_after_it(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start()
    knock = world.packet(alice)
    world.send(knock)
    until(world.sessions)
    world.kill()
    world.start()
    world.ask("close", name="alice")
    world.send(knock)
    world.says("alice: refused: replay")
    assert world.sessions() == []


def test_clean_up_removes_what_a_dead_server_left_and_refuses_beside_a_running_one(world: ServerWorld) -> None:
    world.server.nft(FOREIGN)
    before = world.server.ruleset()
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    running = world.server.ruleset()
    refused = world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=1)
    assert "another server is running" in refused.stderr
    assert "openme: hint:" in refused.stderr
    assert world.server.ruleset() == running
    world.kill()
    assert world.server.ruleset() == running
    world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=0)
    assert world.server.ruleset() == before
    world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=0)


def test_knocks_start_no_process(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start()

    def children(pid: int) -> tuple[str, int]:
        """The living ones, and the memory pages that those which have ended ever touched: more after any fork."""
        pages = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8])
        return Path(f"/proc/{pid}/task/{pid}/children").read_text(), pages

    keeper, listener = world.pids()[:2]
    before = [children(pid) for pid in (keeper, listener)]
    for _ in range(50):
        world.send(world.packet(alice), b"noise")
    until(lambda: world.log().count("alice: opened") == 50)
    world.ask("close", name="alice")
    assert [children(pid) for pid in (keeper, listener)] == before
    assert before[0][0].split()[0] == str(listener)


def test_a_knock_that_comes_while_the_server_starts_is_not_lost(world: ServerWorld) -> None:
    alice = world.add("alice")
    knock = world.packet(alice)
    process = world.begin()
    until(lambda: str(KNOCK_PORT) in world.server.run("ss", "-ulnH"))
    world.send(knock)
    world.says("alice: opened 22/tcp")
    assert process.poll() is None


# -- starts that fail: one clear line with the cure, exit code 1, nothing left behind

WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


def fails(world: ServerWorld, *words: str, prefix: tuple[str, ...] = ()) -> str:
    """Start a server that cannot; the line that it ends with."""
    before = world.server.ruleset()
    command = world.server.command(*prefix, OPENME, "--config", str(world.config), "serve", "--state-file", "", *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1, done.stderr
    assert world.server.ruleset() == before
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert lines[-2].startswith("openme: error: "), done.stderr
    assert lines[-1].startswith("openme: hint: "), done.stderr
    return lines[-2]


def test_without_privilege(world: ServerWorld) -> None:
    assert "needs root" in fails(world, prefix=WITHOUT_RIGHTS)


def test_without_nft(world: ServerWorld) -> None:
    hide = 'for f in $(ldconfig -p | sed -n "s/.*libnftables.so.1.* => //p"); do mount --bind /dev/null "$f"; done'
    assert "libnftables" in fails(world, prefix=("sh", "-c", f'PATH="$PATH:/sbin"; {hide}; exec "$@"', "sh"))


def test_a_second_server(world: ServerWorld, tmp_path: Path) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    assert "another server is running" in fails(world)
    first = world.config.read_text()
    elsewhere = tmp_path / "elsewhere"
    world.edit(state_dir=elsewhere)
    assert f"knock port {KNOCK_PORT}/udp is in use" in fails(world)
    world.write_config(first)
    world.opens(alice, port=22)
    world.stop()
    assert world.server.ruleset() == ""


def test_a_second_server_with_a_port_and_state_of_its_own_leaves_the_table_alone(
    world: ServerWorld, tmp_path: Path
) -> None:
    world.serve(tcp=[22])
    world.start()
    running = world.server.ruleset()
    first = world.config.read_text()
    world.edit(state_dir=tmp_path / "elsewhere", udp_port=KNOCK_PORT + 1, health_port=KNOCK_PORT + 1)
    assert "another server is running on this machine's firewall" in fails(world)
    refused = world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=1)
    assert "another server is running" in refused.stderr
    assert world.server.ruleset() == running
    world.write_config(first)
    world.kill()
    world.start()  # the lock ends with its holder


SQUATTER = """
import os, socket
os.setuid(65534)
name = socket.socket(socket.AF_UNIX)
name.bind(b"\\0openme-firewall")
name.listen()
print("there", flush=True)
name.accept()
name.accept()
"""


def test_a_user_who_takes_the_name_of_the_firewalls_lock_keeps_no_server_from_starting(world: ServerWorld) -> None:
    squatter = world.server.popen(sys.executable, "-c", SQUATTER)
    assert squatter.stdout is not None
    assert squatter.stdout.readline() == "there\n"
    world.start()
    world.stop()


def test_a_knock_port_in_use(world: ServerWorld) -> None:
    world.serve(udp=[KNOCK_PORT])
    assert f"knock port {KNOCK_PORT}" in fails(world)
    assert not (world.state_dir / "control").exists()


def test_a_file_that_others_may_write(world: ServerWorld) -> None:
    world.config.chmod(0o666)
    assert "expected mode 0600, found 0666" in fails(world)


def test_a_broken_config(world: ServerWorld) -> None:
    world.edit(knock_timeuot="3s")
    assert "knock_timeuot" in fails(world)


def test_a_missing_interface_is_waited_for_by_name(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(interface="wg9")
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.says("interface wg9 is not there")
    assert world.tcp(world.client, 22) == "open"
    world.server.run("ip", "link", "set", "eth0", "down")
    world.server.run("ip", "link", "set", "eth0", "name", "wg9")
    world.server.run("ip", "link", "set", "wg9", "up")
    assert world.tcp(world.client, 22) == "filtered"
    world.opens(alice, port=22)
    for command in (["init", "--server", SERVER[4], "--interface", "wg8", "--force"], ["check-config"]):
        world.edit(interface="wg8")
        refused = world.openme(world.server, "--config", world.config, *command, code=1)
        assert "wg8" in refused.stderr
        assert "wg9" in refused.stderr, "the known ones are named"


def test_memory_serves_without_privilege_and_touches_nothing(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world(firewall="memory")
    alice = world.add("alice")
    for path in (world.folder, world.config, world.state_dir, *world.state_dir.iterdir()):
        os.chown(path, 65534, 65534)
    # Nobody, who may read the program wherever it lies, and no more.
    may_read = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    world.start(prefix=("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *may_read))
    assert world.server.ruleset() == ""
    world.send(world.packet(alice))
    world.says("alice: opened 22/tcp")
    assert [session["client_name"] for session in world.sessions()] == ["alice"]
    assert world.stop() == 0


# Asks for the lock until its queue is full, as anybody may, and goes.
_ASK = """
import os, socket
os.setuid(65534)
for _ in range(5000):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(b"\\0openme-firewall")
        except BlockingIOError:
            pass
"""


def test_however_many_have_asked_for_it_a_server_is_seen(world: ServerWorld) -> None:
    """The kernel keeps whoever has asked in a queue of 4,096; another server would take our rules for a dead one's."""
    world.start()
    rules = world.server.ruleset()
    world.server.run(sys.executable, "-c", _ASK)
    refused = world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=1)
    assert "another server is running" in refused.stderr
    assert world.server.ruleset() == rules
