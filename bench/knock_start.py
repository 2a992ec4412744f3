"""What `openme knock` takes from start to exit, beside a bare script with the same libraries: as a ratio in one run.

    .venv/bin/python bench/knock_start.py [ROUNDS]

Needs no root. Each of ROUNDS (200) starts every one of the commands once, by turns, so that what else the machine does
meets them alike. The bare script imports PyNaCl, pymonocypher and PyYAML and sends one datagram of a knock's size. All
datagrams go to a socket of this program, which counts them. The last table is one start under `-X importtime`: what
modules take that the bare script does without.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from openme.wire.v2 import PACKET_SIZE
from support.command import OPENME, Place, place

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
MOST_MODULES = 25

BARE = """\
import socket

import monocypher
import nacl.bindings
import yaml

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.connect(("127.0.0.1", {port}))
    udp.send(bytes({size}))
"""


def run_timed(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor that a command took, from before its start to after its exit."""
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    started = time.perf_counter()
    child = os.posix_spawn(words[0], words, environment, file_actions=quiet)
    _, status, used = os.wait4(child, 0)
    took = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(words)}: ended with status {os.waitstatus_to_exitcode(status)}")
    return took, used.ru_utime + used.ru_stime


def import_times(words: list[str], environment: dict[str, str]) -> dict[str, int]:
    """Microseconds that each module took by itself, without those that it imports."""
    done = subprocess.run(
        words,
        env={**environment, "PYTHONPROFILEIMPORTTIME": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if line.count("|") == 2]
    return {name.strip(): int(own) for own, _, name in rows if own.strip().isdigit()}


def received(udp: socket.socket) -> int:
    """How many datagrams of a knock's size have come since the last call."""
    udp.setblocking(False)  # noqa: FBT003  # the standard library's signature
    count = 0
    while True:
        try:
            count += len(udp.recv(2048)) == PACKET_SIZE
        except BlockingIOError:
            return count


def measure(here: Place, udp: socket.socket) -> None:
    """Print the tables."""
    alice = here.client("alice")
    script = here.root / "bare.py"
    script.write_text(BARE.format(port=here.port, size=PACKET_SIZE))
    knock = ["--client-config", str(alice), "knock"]
    commands = {
        "an empty Python": [sys.executable, "-c", ""],
        "the bare script": [sys.executable, str(script)],
        "openme knock": [OPENME, *knock],
        "python -m openme knock": [sys.executable, "-m", "openme", *knock],
    }
    for words in commands.values():  # the disk, and the compiled modules
        run_timed(words, here.environment)
    received(udp)
    samples: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
    order = list(commands)
    for turn in range(ROUNDS):
        for what in order[turn % len(order) :] + order[: turn % len(order)]:
            samples[what].append(run_timed(commands[what], here.environment))
        if (arrived := received(udp)) != len(commands) - 1:
            raise SystemExit(f"{arrived} of {len(commands) - 1} datagrams arrived")
    print(f"{'median of ' + str(ROUNDS) + ' starts by turns':<44}{'ms':>8}{'ratio':>8}{'cpu ms':>9}{'ratio':>8}")
    for what in commands:
        figures = [statistics.median(sample[kind] for sample in samples[what]) * 1e3 for kind in (0, 1)]
        pairs = list(zip(samples[what], samples["the bare script"], strict=True))
        ratios = [statistics.median(own[kind] / bare[kind] for own, bare in pairs) for kind in (0, 1)]
        print(f"{what:<44}{figures[0]:8.1f}{ratios[0]:8.2f}{figures[1]:9.1f}{ratios[1]:8.2f}")
    theirs = import_times(commands["the bare script"], here.environment)
    ours = import_times(commands["openme knock"], here.environment)
    more = sorted(((own, name) for name, own in ours.items() if name not in theirs), reverse=True)
    title = f"modules that only openme knock imports, {len(more)}"
    print(f"\n{title:<44}{sum(own for own, _ in more) / 1e3:8.1f}")
    for own, name in more[:MOST_MODULES]:
        print(f"  {name:<42}{own / 1e3:8.1f}")


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as root, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        here = place(Path(root))
        here.prepare()
        udp.bind(("127.0.0.1", here.port))
        measure(here, udp)


main()
