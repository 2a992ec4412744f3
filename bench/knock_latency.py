"""How long after a knock is sent does the port accept a connection? The real server, the kernel's firewall, two hosts.

    sudo .venv/bin/python bench/knock_latency.py [KNOCKS]

Builds its own network namespaces (tests/support/server.py draws them) and takes them away again. Every knock really
opens: it comes from an address that has none open. The clock runs from just before the datagram is sent until `connect`
has returned. A SYN that comes too early is lost on the closed door, and TCP would repeat it only after a second, so
attempts of their own follow each other every millisecond.
"""

import math
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.netns import v4
from support.server import KNOCK_PORT, SERVER, ServerWorld

PORT = 22
ATTEMPT = 0.001  # seconds between two attempts to connect
GIVE_UP = 5.0
SOURCES = 200  # addresses 192.0.2.10 and on


def opening(world: ServerWorld, packet: bytes, source: str) -> float:
    """Seconds from sending the packet to a connection."""
    attempts: list[socket.socket] = []
    sender = world.socket_on(world.client, socket.SOCK_DGRAM, source=source)
    with ExitStack() as stack, closing(sender):
        started = time.perf_counter()
        sender.sendto(packet, (SERVER[4], KNOCK_PORT))
        while time.perf_counter() < started + GIVE_UP:
            made = stack.enter_context(closing(world.socket_on(world.client, socket.SOCK_STREAM, source=source)))
            made.settimeout(ATTEMPT)
            attempts.append(made)
            try:
                made.connect((SERVER[4], PORT))
            except TimeoutError:
                continue
            return time.perf_counter() - started
    raise SystemExit(f"the door did not open for {source}:\n{world.log()}")


def command(world: ServerWorld, profile: Path) -> float:
    """Seconds that `openme knock --check` takes, from the start of its process to its end."""
    started = time.perf_counter()
    world.knock(profile, "--check")
    return time.perf_counter() - started


def show(what: str, seconds: list[float]) -> None:
    """One line of figures."""
    ordered = sorted(seconds)
    ninety_nine = ordered[math.ceil(0.99 * len(ordered)) - 1]
    print(
        f"{what}: median {statistics.median(ordered) * 1000:.2f} ms, 99th percentile {ninety_nine * 1000:.2f} ms, "
        f"worst {ordered[-1] * 1000:.2f} ms ({len(ordered)} times)"
    )


def main() -> None:
    """Measure and print."""
    knocks = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = ServerWorld(stack, folder)
        alice = world.add("alice")
        world.serve(tcp=[PORT])
        world.start(log_level="info")
        sources = [v4(number) for number in range(10, 10 + SOURCES)]
        lines = "".join(f"address add {source}/24 dev eth0\n" for source in sources)
        world.client.run("ip", "-batch", "-", stdin=lines)
        figures: list[float] = []
        for number in range(knocks):
            source = sources[number % SOURCES]
            if number and number % SOURCES == 0:
                world.ask("close", name="alice")
            if world.tcp(world.client, PORT, source=source) != "filtered":
                raise SystemExit(f"{source} had a door open before its knock")
            figures.append(opening(world, world.packet(alice), source))
        show("from sending a knock to an accepted connection", figures)
        commands: list[float] = []
        for _ in range(20):
            world.ask("close", name="alice")
            commands.append(command(world, alice))
        show("openme knock --check, its process included", commands)


if __name__ == "__main__":
    main()
