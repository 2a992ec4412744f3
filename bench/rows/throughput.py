"""How many version 2 knocks a second are accepted, from socket to the kernel's set, each durable?

All packets are made before, and sent as fast as the server takes them. The same with many doors open. That knocks are
durable is tried in between: all processes are killed, the server is started again, and copies open nothing.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address

from bench import bare, fwknop
from bench.crowd import KNOCKS_OF_ONE, knocks
from bench.figures import Bars, Goal, Report, Table, microseconds, number, percent
from bench.load import Taken, as_many_as_it_takes
from bench.subject import Subject
from bench.world import BLOCK, Sender, World, world
from openme.wire import v2
from support.netns import until

TITLE = "Accepted knocks a second"
HOMES = IPv4Address("172.16.0.1")
"""Of clients that knock again and again."""
MANY = IPv4Address("172.20.0.1")
"""Of doors that stay open."""
_COPIES = 200
_HEADINGS = ("server", "accepted a second", "of one core's arithmetic", "processor, a knock", "arrived", "opened")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 500
    packets: int = 30_000
    seconds: float = 9.0
    doors: int = 20_000
    packets_with_doors: int = 15_000
    fwknop_packets: int = 1_000
    fwknop_seconds: float = 6.0
    fwknop_packets_with_doors: int = 8
    rounds: int = 2_000


SMALL = Sizes(
    clients=5, packets=100, doors=100, packets_with_doors=50, fwknop_packets=20, fwknop_packets_with_doors=3, rounds=20
)


def measure(sizes: Sizes) -> Report:
    """Openme, the bare arithmetic and fwknop."""
    steps = bare.arithmetic(sizes.rounds)
    a_core = 1 / sum(steps.values())
    with world(sizes.clients, protocols="[v2]") as hosts:
        first, filled, second = _openme(hosts, sizes)
        theirs = _fwknop(hosts, sizes) if fwknop.is_there() else []
    rows = [_row("openme, no other doors open", first, a_core)]
    rows.append(_row(f"openme, {sizes.doors:,} other doors open", second, a_core))
    rows.append(_row("openme, each knock for another address", filled, a_core))
    names = ("fwknop 2.6", f"fwknop 2.6, {sizes.doors:,} other doors open")
    rows += [_row(name, taken, a_core) for name, taken in zip(names, theirs, strict=False)]
    shares = ", ".join(f"{name} {microseconds(seconds)}" for name, seconds in steps.items())
    note = f"The bare arithmetic: {number(a_core)} a second on one core ({shares})."
    ours = {"openme": first, f"openme, {sizes.doors:,} doors": second}
    bars = {"bare arithmetic, one core": a_core}
    bars |= {name: taken.rate for name, taken in (*ours.items(), *zip(names, theirs, strict=False))}
    return Report(
        _goals(first, second, a_core, theirs, sizes),
        [Table(_HEADINGS, rows, note)],
        [Bars("throughput", TITLE, "knocks a second", bars, frozenset(bars) - frozenset(ours), logarithmic=True)],
    )


def _row(name: str, taken: Taken, a_core: float) -> tuple[str, ...]:
    cost = microseconds(taken.cost)
    return name, number(taken.rate), percent(taken.rate / a_core), cost, f"{taken.arrived:,}", f"{taken.opened:,}"


def _goals(first: Taken, second: Taken, a_core: float, theirs: Sequence[Taken], sizes: Sizes) -> list[Goal]:
    share, lost = first.rate / a_core, 1 - second.rate / first.rate
    found = [
        Goal(
            f"accepted version 2 knocks a second, {sizes.clients} clients",
            "50% of one core's bare arithmetic",
            f"{number(first.rate)}, which is {percent(share)}",
            share >= 0.5,
        ),
        Goal(
            f"the same with {sizes.doors:,} doors open",
            "within 20% of it",
            f"{number(second.rate)}, which is {percent(1 - lost)} of it",
            lost <= 0.2,
        ),
    ]
    if theirs:
        times = first.rate / theirs[0].rate
        found.insert(1, Goal("the same beside fwknop", "10 times", f"{number(times)} times", times >= 10))
    return found


def _openme(hosts: World, sizes: Sizes) -> tuple[Taken, Taken, Taken]:
    """At first, while each knock opens another door, and with all of these open."""
    packets = _repeated(hosts, sizes, sizes.packets)
    first = as_many_as_it_takes(hosts.serve_openme(), packets, sizes.seconds)
    subject = _are_durable(hosts, packets[: first.sent][-_COPIES:])
    doors = _sealed(hosts, [(n % sizes.clients, MANY + n) for n in range(sizes.doors)])
    filled = as_many_as_it_takes(subject, doors, 60)
    second = as_many_as_it_takes(subject, _repeated(hosts, sizes, sizes.packets_with_doors), sizes.seconds)
    # Two sets for each address: the client's ports, and the health port.
    open_now = hosts.doors()
    if open_now < 2 * filled.opened:
        raise SystemExit(f"{filled.opened} doors were opened, of which the kernel has {open_now // 2}")
    hosts.clear()
    return first, filled, second


def _repeated(hosts: World, sizes: Sizes, count: int) -> list[bytes]:
    if count > sizes.clients * KNOCKS_OF_ONE:
        raise ValueError(f"{sizes.clients} clients have no {count} knocks")
    return _sealed(hosts, [(n % sizes.clients, HOMES + n % sizes.clients) for n in range(count)])


def _sealed(hosts: World, wanted: Sequence[tuple[int, IPv4Address]]) -> list[bytes]:
    return knocks(wanted, v2.WIRE, hosts.server_key(v2.WIRE))


def _are_durable(hosts: World, packets: Sequence[bytes]) -> Subject:
    """Kill the server and start it again; SystemExit if it takes one of these a second time. The new server."""
    hosts.kill()
    subject = hosts.serve_openme()
    fresh = _sealed(hosts, [(0, BLOCK)])
    with closing(subject.follow()) as log, Sender(subject) as sender:
        for packet in (*packets, *fresh):
            sender.send(packet)
        until(log.look, 20)
        if log.count != 1:
            raise SystemExit(f"of {len(packets)} copies {log.count - 1} opened after all processes had been killed")
    return subject


def _fwknop(hosts: World, sizes: Sizes) -> list[Taken]:
    """Each packet for another address: a rule that is there already it would not add."""
    packets = fwknop.Packets()
    server = fwknop.Fwknop(hosts, sizes.clients)

    def taken(first: IPv4Address, count: int) -> Taken:
        wanted = [(n % sizes.clients, first + n) for n in range(count)]
        return as_many_as_it_takes(subject, packets.knocks(wanted), sizes.fwknop_seconds, patience=5)

    with server as subject:
        alone = taken(HOMES, sizes.fwknop_packets)
        server.have_open([MANY + n for n in range(sizes.doors)])
        return [alone, taken(MANY + sizes.doors, sizes.fwknop_packets_with_doors)]
