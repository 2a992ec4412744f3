"""How long after a knock is sent does the port accept a connection, at a fixed rate of knocks?

Every knock comes from an address that has no door. Attempts to connect follow each other faster than anything that is
measured, since TCP would repeat a lost SYN after a second only. Beside it a loop that answers a datagram after the two
syncs of a knock and does nothing else, at the same rate.
"""

import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bench import bare, fwknop
from bench.arrivals import arrived, count_arrivals
from bench.crowd import knocks
from bench.figures import Curves, Goal, Report, Table, cumulative, median, milliseconds, number, percentile
from bench.subject import Subject
from bench.world import BLOCK, PEER, Sender, World, world
from openme.wire import v2

TITLE = "From a knock sent to a port that accepts"
SSH = 22
ATTEMPT = 0.0003
"""Seconds between two attempts to connect."""
_WAIT = 0.0001
_PATIENCE = 3.0
_BACKLOG = 4096


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 500
    knocks: int = 1_000
    rate: float = 100.0
    fwknop_knocks: int = 60
    fwknop_rate: float = 10.0
    syncs: int = 500


SMALL = Sizes(clients=5, knocks=20, fwknop_knocks=5, syncs=20)


def measure(sizes: Sizes) -> Report:
    """Openme, a bare loop and fwknop."""
    syncs = bare.syncs(sizes.syncs)
    with world(sizes.clients, protocols="[v2]") as hosts:
        subject = hosts.serve_openme()
        sources = [BLOCK + 1 + n for n in range(sizes.knocks)]
        packets = knocks([(n % sizes.clients, None) for n in range(sizes.knocks)], v2.WIRE, hosts.server_key(v2.WIRE))
        figures = {"openme": openings(subject, list(zip(packets, sources, strict=True)), sizes.rate)}
        hosts.clear()
        figures["bare loop of two syncs"] = _bare(hosts, sizes)
        if fwknop.is_there():
            figures["fwknop 2.6"] = _fwknop(hosts, sizes)
    rates = dict.fromkeys(figures, sizes.rate) | {"fwknop 2.6": sizes.fwknop_rate}
    rows = [
        (
            *(name, number(rates[name]), f"{len(seconds):,}", milliseconds(median(seconds))),
            *(milliseconds(percentile(seconds, 0.99)), milliseconds(max(seconds))),
        )
        for name, seconds in figures.items()
    ]
    return Report(
        _goals(figures["openme"], figures["bare loop of two syncs"], syncs),
        [
            Table(
                ("server", "knocks a second", "knocks", "median", "99th percentile", "worst"),
                rows,
                f"One sync alone, median: of a log {milliseconds(syncs.log)}, of the mark {milliseconds(syncs.mark)}. "
                "By default fwknopd looks at what has come every 100 ms.",
            )
        ],
        [
            Curves(
                *("latency", TITLE, ("milliseconds", "percent of all knocks")),
                {name: [(x * 1000, y) for x, y in cumulative(seconds)] for name, seconds in figures.items()},
                frozenset(figures) - {"openme"},
                logarithmic=(True, False),
            )
        ],
    )


def _goals(ours: Sequence[float], loop: Sequence[float], syncs: bare.Syncs) -> list[Goal]:
    middle, slow = median(ours), percentile(ours, 0.99)
    most = syncs.log + syncs.mark + 0.0015
    allowed = max(5 * middle, percentile(loop, 0.99))
    return [
        Goal(
            "knock sent to port accepting, median",
            f"{milliseconds(most)} (the two syncs + 1.5 ms)",
            milliseconds(middle),
            middle <= most,
        ),
        Goal(
            "the same, 99th percentile",
            f"{milliseconds(allowed)} (5 medians, or the bare loop's)",
            milliseconds(slow),
            slow <= allowed,
        ),
    ]


@dataclass
class _Opening:
    since: float
    source: IPv4Address
    next: float
    attempts: list[socket.socket] = field(default_factory=list)


def openings(subject: Subject, sent: Sequence[tuple[bytes, IPv4Address]], rate: float) -> list[float]:
    """Seconds from each packet to a connection from its source. SystemExit if one never opens though it arrived."""
    count_arrivals(subject.world, subject.port)
    found: list[float] = []
    with ExitStack() as stack:
        with subject.world.server.entered():
            service = stack.enter_context(closing(socket.create_server(("", SSH), backlog=_BACKLOG)))
        assert service.getsockname()[1] == SSH
        sender = stack.enter_context(Sender(subject))
        look = stack.enter_context(closing(select.epoll()))
        under_way: list[_Opening] = []
        of_number: dict[int, _Opening] = {}
        begin, at, last = time.monotonic(), 0, 0.0
        with subject.world.client.entered():
            while at < len(sent) or under_way:
                now = time.monotonic()
                if at < len(sent) and now >= begin + at / rate:
                    packet, source = sent[at]
                    last = time.monotonic()
                    under_way.append(_Opening(last, source, last))
                    sender.send(packet, source)
                    at += 1
                for one in under_way:
                    if now >= one.next:
                        attempt = _attempt(one.source)
                        look.register(attempt, select.EPOLLOUT)
                        of_number[attempt.fileno()] = one
                        one.attempts.append(attempt)
                        one.next = now + ATTEMPT
                for number_of, _ in look.poll(0):
                    opened = of_number.get(number_of)
                    if opened is None or opened not in under_way:
                        continue
                    found.append(time.monotonic() - opened.since)
                    under_way.remove(opened)
                    for attempt in opened.attempts:
                        of_number.pop(attempt.fileno())
                        attempt.close()
                if at == len(sent) and now > last + _PATIENCE:
                    break
                time.sleep(_WAIT)
        for one in under_way:
            for attempt in one.attempts:
                attempt.close()
    came = arrived(subject.world).clients
    if len(found) < came:
        raise SystemExit(
            f"{subject.name}: of {came} knocks that arrived {len(found)} opened\n{subject.log.read_text()[-500:]}"
        )
    return found


def _attempt(source: IPv4Address) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)  # noqa: FBT003  # the standard library's signature
    made.bind((str(source), 0))
    made.connect_ex((PEER, SSH))
    return made


def _bare(hosts: World, sizes: Sizes) -> list[float]:
    found: list[float] = []
    with (
        bare.echo_after_syncs(hosts.server) as to,
        hosts.client.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.settimeout(_PATIENCE)
        begin = time.monotonic()
        for n in range(sizes.knocks):
            time.sleep(max(0.0, begin + n / sizes.rate - time.monotonic()))
            since = time.monotonic()
            sender.sendto(b"knock", to)
            sender.recv(64)
            found.append(time.monotonic() - since)
    return found


def _fwknop(hosts: World, sizes: Sizes) -> list[float]:
    sources = [BLOCK + 20_000 + n for n in range(sizes.fwknop_knocks)]
    with fwknop.Fwknop(hosts, sizes.clients) as subject:
        packets = fwknop.Packets().knocks([(n % sizes.clients, source) for n, source in enumerate(sources)])
        return openings(subject, list(zip(packets, sources, strict=True)), sizes.fwknop_rate)
