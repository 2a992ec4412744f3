"""How much memory do all processes of the server have: at rest, after millions of noise packets, with many grants?"""

import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from bench import frames, fwknop
from bench.arrivals import arrived, count_arrivals
from bench.crowd import KNOCKS_OF_ONE, knocks
from bench.figures import Bars, Goal, Report, Table, mebibytes
from bench.frames import MOST_SECONDS, Flood
from bench.load import as_many_as_it_takes
from bench.processes import proportional_set_size
from bench.subject import Subject
from bench.world import World, world
from openme.wire import v2

TITLE = "Memory"
MANY = IPv4Address("172.20.0.1")
_REST = 1.0  # seconds after which a server that has started or worked is at rest
_AT_ONCE = 25_000  # knocks that are made and sent before their time is over
_BARE = "import sqlite3, monocypher, nacl.bindings, yaml; print(flush=True); input()"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 500
    noise: int = 10_000_000
    grants: int = 100_000
    fwknop_noise: int = 1_000_000


SMALL = Sizes(clients=5, noise=2_000, grants=50, fwknop_noise=2_000)


def measure(sizes: Sizes) -> Report:
    """Openme, a Python with the same libraries, and fwknop."""
    with world(sizes.clients) as hosts:
        subject = hosts.serve_openme()
        idle = _at_rest(subject)
        came = _noise(hosts, subject, sizes.noise)
        after = _at_rest(subject)
        granted = _grants(hosts, subject, sizes)
        full = _at_rest(subject)
        hosts.clear()
        bare = _bare()
        rows = [
            ("openme, at rest", mebibytes(idle)),
            (f"openme, after {came:,} packets of noise", mebibytes(after)),
            (f"openme, with {granted:,} grants", mebibytes(full)),
            ("one Python with the same libraries imported", mebibytes(bare)),
        ]
        theirs = _fwknop(hosts, sizes) if fwknop.is_there() else {}
    rows += [(name, mebibytes(size)) for name, size in theirs.items()]
    bars = dict(zip(("at rest", "after noise", f"{granted:,} grants"), (idle, after, full), strict=True))
    return Report(
        [
            Goal("memory of all processes, at rest", "below 40 MiB", mebibytes(idle), idle < 40 << 20),
            Goal(f"the same after {came:,} packets of noise", "below 40 MiB", mebibytes(after), after < 40 << 20),
            Goal(f"the same with {granted:,} grants", "below 150 MiB", mebibytes(full), full < 150 << 20),
        ],
        [
            Table(
                ("all processes together", "memory"), rows, "Pss: what processes share counts once (proc_pid_smaps(5))."
            )
        ],
        [Bars("memory", "Memory of all processes", "MiB", {name: size / 2**20 for name, size in bars.items()})],
    )


def _at_rest(subject: Subject) -> int:
    time.sleep(_REST)
    return subject.memory()


def _noise(hosts: World, subject: Subject, wanted: int) -> int:
    """Send until so many have arrived, or for as long as a flood may last; how many did."""
    made = frames.frames(hosts, frames.noise(1 << 16), frames.forged(frames.FORGED_SOURCES), subject.port)
    count_arrivals(hosts, subject.port)
    end = time.monotonic() + MOST_SECONDS
    with Flood(hosts, made):
        while arrived(hosts).strangers < wanted and time.monotonic() < end:
            time.sleep(0.2)
    return arrived(hosts).strangers


def _grants(hosts: World, subject: Subject, sizes: Sizes) -> int:
    if sizes.grants > sizes.clients * KNOCKS_OF_ONE:
        raise ValueError(f"{sizes.clients} clients have no {sizes.grants} knocks")
    for start in range(0, sizes.grants, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, sizes.grants))
        wanted = [(number % sizes.clients, MANY + number) for number in numbers]
        as_many_as_it_takes(subject, knocks(wanted, v2.WIRE, hosts.server_key(v2.WIRE)), 60)
    # Two sets for each address: the client's ports, and the health port.
    return hosts.doors() // 2


def _bare() -> int:
    with subprocess.Popen([sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        size = proportional_set_size([process.pid])
        process.communicate(b"\n")
    return size


def _fwknop(hosts: World, sizes: Sizes) -> dict[str, int]:
    with fwknop.Fwknop(hosts, sizes.clients) as subject:
        idle = _at_rest(subject)
        came = _noise(hosts, subject, sizes.fwknop_noise)
        return {"fwknop 2.6, at rest": idle, f"fwknop 2.6, after {came:,} packets of noise": _at_rest(subject)}
