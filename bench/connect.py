"""One gigabyte through `openme connect`, beside `nc` in its place and beside ssh alone: as ratios in one run.

    .venv/bin/python bench/connect.py [ROUNDS]

Needs root, nc (netcat-openbsd) and tools/unpacked openssh-server. Client and server are network namespaces, with
ssh, sshd and `openme serve` in them. Each of ROUNDS (5) takes all the ways by turns, so that what else the machine does
meets them alike; a ratio is the median of those of each round. Above 1 is faster.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.netns import until
from support.server import OPENME, SERVER, ServerWorld
from support.ssh import Ssh

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SIZE = 10**9
GIVES, TAKES = 5001, 5002
SERVICE = f"""
import os, socket, threading
def give(connection):
    block, left = bytes(1 << 20), {SIZE}
    while left:
        left -= connection.send(block[:left])
def take(connection):
    block = bytearray(1 << 20)
    while connection.recv_into(block):
        pass
def serve(port, handle):
    listening = socket.create_server(("", port))
    while True:
        connection, _ = listening.accept()
        with connection:
            handle(connection)
threading.Thread(target=serve, args=({GIVES}, give), daemon=True).start()
print("ready", flush=True)
serve({TAKES}, take)
"""


def timed(world: ServerWorld, script: str) -> float:
    """Seconds that a line of sh took on the client; the run ends if it fails."""
    started = time.perf_counter()
    subprocess.run(world.client.command("sh", "-c", script), check=True)
    return time.perf_counter() - started


def measure(title: str, ways: dict[str, Callable[[], float]], beside: Sequence[str]) -> None:
    """Print a table: each way's median, and its ratio to each of those beside it."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for turn in range(ROUNDS):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            samples[name].append(ways[name]())
    print(f"\n{title:<44}{'seconds':>9}" + "".join(f"{'to ' + name:>12}" for name in beside))
    for name, own in samples.items():
        ratios = [statistics.median(b / a for a, b in zip(own, samples[other], strict=True)) for other in beside]
        print(f"{name:<44}{statistics.median(own):9.3f}" + "".join(f"{ratio:12.2f}" for ratio in ratios), flush=True)


def main() -> None:
    """Print the tables."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = ServerWorld(stack, folder, knock_timeout="1h")
        ssh = Ssh(folder)
        world.set_ports(default=f"[22/tcp, {GIVES}-{TAKES}/tcp]")
        alice = world.add("alice")
        ssh.serve(world.server)
        service = world.server.popen(sys.executable, "-c", SERVICE)
        if service.stdout is None or service.stdout.readline() != "ready\n":
            raise SystemExit("the service did not start")
        world.start()
        world.opens(alice, port=22)
        connect = f"{OPENME} --client-config {alice} connect"
        proxies = {"ssh alone": "none", "ssh through nc": "nc %h %p", "ssh through openme connect": f"{connect} %h %p"}

        def over_ssh(proxy: str, before: str, command: str, after: str) -> Callable[[], float]:
            words = f"{before}ssh -F {ssh.config} -o 'ProxyCommand={proxy}' {SERVER[4]} '{command}'{after}"
            return lambda: timed(world, words)

        def rows(before: str, command: str, after: str) -> dict[str, Callable[[], float]]:
            return {name: over_ssh(proxy, before, command, after) for name, proxy in proxies.items()}

        compared = ("ssh alone", "ssh through nc")
        measure("1 GB from the server", rows("", f"head -c {SIZE} /dev/zero", " > /dev/null"), compared)
        measure("1 GB to the server", rows(f"head -c {SIZE} /dev/zero | ", "cat > /dev/null", ""), compared)
        bare = {"nc": "nc -N", "openme connect": connect}

        def without_ssh(before: str, port: int, after: str) -> dict[str, Callable[[], float]]:
            lines = {name: f"{before} | {way} {SERVER[4]} {port} | {after}" for name, way in bare.items()}
            return {name: partial(timed, world, line) for name, line in lines.items()}

        measure("1 GB from a service, without ssh", without_ssh(":", GIVES, "cat > /dev/null"), ("nc",))
        measure("1 GB to a service, without ssh", without_ssh(f"head -c {SIZE} /dev/zero", TAKES, "cat"), ("nc",))
        measure("ssh that runs `true`, door open", rows("", "true", ""), compared)

        def shut() -> float:
            world.ask("close", name="alice")
            until(lambda: not world.sessions())
            return over_ssh(proxies["ssh through openme connect"], "", "true", "")()

        def shut_and_knock() -> float:
            world.ask("close", name="alice")
            until(lambda: not world.sessions())
            knock = f"{OPENME} --client-config {alice} knock --check > /dev/null 2>&1 && "
            return over_ssh("none", knock, "true", "")()

        ways = {"openme knock --check && ssh": shut_and_knock, "ssh through openme connect": shut}
        measure("ssh that runs `true`, door shut", ways, ("openme knock --check && ssh",))


main()
