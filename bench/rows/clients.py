"""What does one knock cost with ten clients, and with a hundred thousand? Both versions, one knock after the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from bench import fwknop
from bench.crowd import knocks
from bench.figures import Curves, Goal, Report, Table, median, microseconds, milliseconds
from bench.subject import Subject
from bench.world import BLOCK, Sender, World, world
from openme.wire import v1, v2
from openme.wire.base import Version

TITLE = "The cost of a knock by the number of clients"
SEEN, NEW = BLOCK + 1, BLOCK + 1_000
_PATIENCE = 20.0
_LAST = 5
"""So many of the last clients knock in turns: of one the replay memory takes no more than 256. Each has an
address of its own, from which it has knocked before."""
_FLAT = 1.5
"""So many times the cost with the fewest clients still counts as flat."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: Sequence[int] = (10, 1_000, 100_000)
    knocks: int = 200
    searched: Sequence[int] = (20, 20, 1)
    """Version 1 knocks from addresses that nobody has knocked from, for each number of clients."""
    fwknop_clients: Sequence[int] = (10, 1_000, 10_000)
    fwknop_knocks: int = 15


SMALL = Sizes(clients=(10, 100), knocks=5, searched=(2, 2), fwknop_clients=(10, 100), fwknop_knocks=2)


@dataclass(frozen=True)
class Cost:
    """Of one knock: seconds of the processor, and until the server says that it has opened."""

    processor: float
    wait: float


def measure(sizes: Sizes) -> Report:
    """Openme and fwknop, each with more and more clients."""
    found: dict[str, dict[int, Cost]] = {}
    for count, searched in zip(sizes.clients, sizes.searched, strict=True):
        with world(count) as hosts:
            for name, cost in _openme(hosts, count, searched, sizes).items():
                found.setdefault(name, {})[count] = cost
    if fwknop.is_there():
        with world(1) as hosts:
            for count in sizes.fwknop_clients:
                found.setdefault("fwknop 2.6", {})[count] = _fwknop(hosts, count, sizes)
    counts = sorted({*sizes.clients, *(sizes.fwknop_clients if fwknop.is_there() else ())})
    rows = [(name, *(_cell(costs.get(count)) for count in counts)) for name, costs in found.items()]
    curves: dict[str, Sequence[tuple[float, float]]] = {
        name: [(count, cost.processor * 1e6) for count, cost in costs.items()] for name, costs in found.items()
    }
    return Report(
        [_goal(name, found[name]) for name in (_V2, _V1_SEEN, _V1_NEW)],
        [
            Table(
                ("processor a knock; from sent to opened, median", *(f"{count:,} clients" for count in counts)),
                rows,
                "Those that knock are the last ones in the file.",
            )
        ],
        [
            Curves(
                *("clients", TITLE, ("clients", "µs of the processor a knock"), curves, frozenset({"fwknop 2.6"})),
                logarithmic=(True, True),
            )
        ],
    )


_V2 = "openme, version 2"
_V1_SEEN = "openme, version 1, from an address seen before"
_V1_NEW = "openme, version 1, from a new address"


def _cell(cost: Cost | None) -> str:
    return "" if cost is None else f"{microseconds(cost.processor)}; {milliseconds(cost.wait)}"


def _goal(name: str, costs: dict[int, Cost]) -> Goal:
    few, many = min(costs), max(costs)
    times = costs[many].processor / costs[few].processor
    cheap, dear = (microseconds(costs[count].processor) for count in (few, many))
    measured = f"{cheap} with {few:,} clients, {dear} with {many:,}"
    flat = None if name == _V1_NEW else times <= _FLAT
    return Goal(f"cost of a knock: {name}", "stated" if flat is None else "flat", measured, flat)


def _openme(hosts: World, count: int, searched: int, sizes: Sizes) -> dict[str, Cost]:
    subject = hosts.serve_openme()

    def cost(version: Version, sources: Sequence[IPv4Address]) -> Cost:
        wanted = [(count - 1 - n % _LAST, None) for n in range(len(sources))]
        packets = knocks(wanted, version, hosts.server_key(version))
        return one_by_one(subject, list(zip(packets, sources, strict=True)))

    homes = [SEEN + n % _LAST for n in range(sizes.knocks)]
    cost(v2.WIRE, homes[:_LAST])
    return {
        _V2: cost(v2.WIRE, homes),
        _V1_SEEN: cost(v1.WIRE, homes),
        _V1_NEW: cost(v1.WIRE, [NEW + n for n in range(searched)]),
    }


def _fwknop(hosts: World, count: int, sizes: Sizes) -> Cost:
    homes = [BLOCK + n for n in range(sizes.fwknop_knocks)]
    with fwknop.Fwknop(hosts, count) as subject:
        packets = fwknop.Packets().knocks([(count - 1, home) for home in homes])
        return one_by_one(subject, list(zip(packets, homes, strict=True)))


def one_by_one(subject: Subject, sent: Sequence[tuple[bytes, IPv4Address]]) -> Cost:
    """Send each packet when the one before it has opened. SystemExit for one that does not."""
    waits = []
    with Sender(subject) as sender:
        log = subject.follow()
        before = subject.used()
        for packet, source in sent:
            since = time.monotonic()
            sender.send(packet, source)
            while not log.look():
                if time.monotonic() > since + _PATIENCE:
                    raise SystemExit(f"{subject.name}: a knock did not open\n{subject.log.read_text()[-500:]}")
                time.sleep(0.0001)
            waits.append(time.monotonic() - since)
        used = subject.used() - before
        log.close()
    return Cost(used.seconds / len(sent), median(waits))
