"""Which real knocks get in while others flood the knock port, and what the flood costs the server?

The flood comes from forged addresses, as fast as one process sends it unless a row says otherwise. Counted are the
knocks that arrived at the host, by a counter of nftables there. A known address is one that its client has knocked
from before; new ones are of 200 networks, as those of people on their way are.
"""

import base64
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np

from bench import frames, fwknop
from bench.arrivals import arrived, count_arrivals
from bench.crowd import knocks, well_formed
from bench.figures import Bars, Goal, Report, Table, mebibytes, number, percent
from bench.frames import Addresses, Bytes, Flood
from bench.load import Paced, as_many_as_it_takes, paced
from bench.subject import Subject
from bench.world import BLOCK, World, world
from openme.wire import v1, v2
from openme.wire.base import Version

TITLE = "Knocks under a flood"
_NEW = IPv4Address("10.16.0.1")
_NEW_NETWORKS = 200
_BEFORE = 0.3  # seconds of flood before anything is measured
_MILLION_FIRST = 0x0B000000


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 500
    rate: float = 200.0
    known: int = 1_000
    new: int = 200
    new_v1_rate: float = 10.0
    new_v1: int = 20
    alone: float = 1.0
    """Seconds of flood without a knock, in which the processor's time is measured."""
    different: int = 1 << 16
    million: int = 1_000_000
    sealed: int = 100_000
    sealed_rate: int = 20_000
    fwknop_rate: float = 10.0
    fwknop: int = 30
    fwknop_gentle: int = 2_000


SMALL = Sizes(
    *(5, 50.0, 10, 5, 10.0, 2, 0.1),
    different=100,
    million=1_000,
    sealed=500,
    sealed_rate=1_000,
    fwknop=5,
)

Source = Callable[[World, Subject, Sizes], tuple[Bytes, Addresses]]


@dataclass(frozen=True)
class Kind:
    """A flood, and who knocks under it. `share` and `cores`: what is to be reached, None where it is only stated."""

    name: str
    payloads: Source
    protocols: str = "[v2]"
    wires: Sequence[Version] = (v2.WIRE,)
    share: float | None = 0.999
    cores: float | None = None
    rate: Callable[[Sizes], int] = lambda _: 0


def _random(_world: World, _subject: Subject, sizes: Sizes) -> tuple[Bytes, Addresses]:
    return frames.noise(sizes.different), frames.forged(frames.FORGED_SOURCES)


def _million(_world: World, _subject: Subject, sizes: Sizes) -> tuple[Bytes, Addresses]:
    return frames.noise(sizes.different), frames.forged(sizes.million, sizes.million, _MILLION_FIRST)


def _shaped(_world: World, _subject: Subject, sizes: Sizes) -> tuple[Bytes, Addresses]:
    return frames.shaped_like_v1(sizes.different), frames.forged(frames.FORGED_SOURCES)


def _copies(hosts: World, subject: Subject, _sizes: Sizes) -> tuple[Bytes, Addresses]:
    captured = knocks([(0, BLOCK)], v2.WIRE, hosts.server_key(v2.WIRE))
    as_many_as_it_takes(subject, captured, 1)
    return frames.same(captured), frames.forged(frames.FORGED_SOURCES)


def _sealed(hosts: World, _subject: Subject, sizes: Sizes) -> tuple[Bytes, Addresses]:
    return frames.same(well_formed(sizes.sealed, hosts.server_key(v2.WIRE), 1)), frames.forged(sizes.sealed)


def _sealed_anywhere(hosts: World, _subject: Subject, sizes: Sizes) -> tuple[Bytes, Addresses]:
    sealed = well_formed(sizes.sealed, hosts.server_key(v2.WIRE), 1)
    return frames.same(sealed), frames.forged_anywhere(sizes.sealed)


KINDS = (
    Kind("random bytes of a knock's length", _random, cores=0.1),
    Kind("the same from a million addresses", _million, cores=0.1),
    Kind("copies of a captured knock", _copies),
    Kind("well-formed packets, by one who holds E_i", _sealed, share=0.99, rate=lambda sizes: sizes.sealed_rate),
    Kind("the same from addresses of all networks", _sealed_anywhere, share=None, rate=lambda sizes: sizes.sealed_rate),
    Kind("the same as fast as it goes", _sealed, share=None),
    Kind("noise shaped like version 1, which is on", _shaped, "[v1, v2]", (v1.WIRE, v2.WIRE), 0.99),
)


@dataclass(frozen=True)
class Survived:
    """One flood: datagrams a second that arrived; the server's processors in use for nothing but it; bytes that its
    processes grew by; what became of knocks from known and from new addresses.
    """

    flood: str
    wire: str
    rate: float
    cores: float
    growth: int
    known: Paced
    new: Paced | None

    @property
    def share(self) -> float:
        """Of all version 2 knocks; of version 1 those from known addresses, as nothing tells others from noise."""
        both = [self.known] if self.new is None or self.wire == v1.WIRE.name else [self.known, self.new]
        return sum(one.opened for one in both) / sum(one.arrived.clients for one in both)


def measure(sizes: Sizes, only: str = "") -> Report:
    """Every flood against openme, and those that fwknop can be given against fwknop.

    `only`: words in the names of those against openme that are to be measured, and no others. ValueError without one.
    """
    kinds = [kind for kind in KINDS if only in kind.name]
    if not kinds:
        raise ValueError(f"no flood's name has {only!r} in it; there are: {'; '.join(kind.name for kind in KINDS)}")
    found: list[Survived] = []
    goals: list[Goal] = []
    for protocols in dict.fromkeys(kind.protocols for kind in kinds):
        with world(sizes.clients, protocols=protocols) as hosts:
            subject = hosts.serve_openme()
            _become_known(hosts, subject, sizes)
            for kind in (kind for kind in kinds if kind.protocols == protocols):
                survived = _survived(hosts, subject, kind, sizes)
                goals += [goal for one in survived for goal in _goals(kind, one)]
                found += survived
    if not only and fwknop.is_there():
        with world(1) as hosts:
            found += _fwknop(hosts, sizes)
    return Report(goals, [_table(found)], [_plot(found)])


def _table(found: Sequence[Survived]) -> Table:
    rows = [
        (
            *(one.flood, one.wire, number(one.rate), _share(one.known), "" if one.new is None else _share(one.new)),
            *(number(one.cores), mebibytes(max(0, one.growth))),
        )
        for one in found
    ]
    return Table(
        (
            *("flood", "knocks", "flood, a second", "opened, from known addresses", "from new addresses"),
            *("cores for the flood alone", "growth"),
        ),
        rows,
        "Shares are of the knocks that arrived at the host; the flood's rate is what arrived there.",
    )


def _share(found: Paced) -> str:
    return f"{percent(found.share)} of {found.arrived.clients:,}"


def _plot(found: Sequence[Survived]) -> Bars:
    bars = {f"{one.flood} ({one.wire})": 100 * one.share for one in found}
    theirs = frozenset(f"{one.flood} ({one.wire})" for one in found if one.wire == "fwknop")
    return Bars("flood", TITLE, "percent of real knocks that opened", bars, theirs)


def _goals(kind: Kind, one: Survived) -> list[Goal]:
    what = f"{one.wire} knocks under {kind.name}"
    measured = f"{percent(one.share)} at {number(one.rate)} a second"
    if one.wire == v1.WIRE.name:
        assert one.new is not None
        measured += f"; from new addresses {percent(one.new.share)}"
        what += ", from known addresses"
    if kind.share is None:
        goals = [Goal(what, "stated", measured, None)]
    else:
        goals = [Goal(what, percent(kind.share), measured, one.share >= kind.share)]
    if kind.cores is not None:
        goals.append(
            Goal(
                f"processor under {kind.name}",
                f"{kind.cores} of a core",
                f"{number(one.cores)} of a core",
                one.cores < kind.cores,
            )
        )
    return goals


def _become_known(hosts: World, subject: Subject, sizes: Sizes) -> None:
    packets = knocks([(n, None) for n in range(sizes.clients)], v2.WIRE, hosts.server_key(v2.WIRE))
    paced(subject, [(packet, BLOCK + n, BLOCK + n) for n, packet in enumerate(packets)], 1_000)


_used_up = iter(range(1 << 15))


def _new_address(number: int) -> IPv4Address:
    return _NEW + ((number % _NEW_NETWORKS << 16) + number // _NEW_NETWORKS)


def _survived(hosts: World, subject: Subject, kind: Kind, sizes: Sizes) -> list[Survived]:
    payloads, sources = kind.payloads(hosts, subject, sizes)
    made = frames.frames(hosts, payloads, sources, subject.port)
    groups = []
    for wire in kind.wires:
        key = hosts.server_key(wire)
        known = [BLOCK + n % sizes.clients for n in range(sizes.known)]
        new = [_new_address(next(_used_up)) for _ in range(sizes.new_v1 if wire is v1.WIRE else sizes.new)]
        groups.append((wire, _signed(known, wire, key, sizes), _signed(new, wire, key, sizes)))
    before = subject.memory()
    with Flood(hosts, made, kind.rate(sizes)):
        rate, cores = _alone(hosts, subject, sizes)
        found = []
        for wire, known_knocks, new_knocks in groups:
            of_known = paced(subject, known_knocks, sizes.rate)
            of_new = paced(subject, new_knocks, sizes.new_v1_rate if wire is v1.WIRE else sizes.rate)
            growth = subject.memory() - before
            found.append(Survived(kind.name, wire.name, rate, cores, growth, of_known, of_new))
    return found


def _signed(
    sources: Sequence[IPv4Address], wire: Version, key: bytes, sizes: Sizes
) -> list[tuple[bytes, IPv4Address, IPv4Address]]:
    packets = knocks([(n % sizes.clients, None) for n in range(len(sources))], wire, key)
    return list(zip(packets, sources, sources, strict=True))


def _alone(hosts: World, subject: Subject, sizes: Sizes) -> tuple[float, float]:
    """Datagrams a second that arrive, and processors that the server uses, while nobody knocks."""
    time.sleep(_BEFORE)
    count_arrivals(hosts, subject.port)
    begin, before, came = time.monotonic(), subject.used(), arrived(hosts)
    time.sleep(sizes.alone)
    seconds = time.monotonic() - begin
    return (arrived(hosts) - came).strangers / seconds, (subject.used() - before).seconds / seconds


def _fwknop(hosts: World, sizes: Sizes) -> list[Survived]:
    size = len(fwknop.Packets().knocks([(0, BLOCK)])[0])
    noise = frames.noise(sizes.different, size)
    encoded = b"".join(base64.b64encode(secrets.token_bytes(size))[:size] for _ in range(sizes.different))
    alphabet = np.frombuffer(encoded, np.uint8).reshape(-1, size)
    return [
        _fwknop_survived(hosts, f"random bytes, {sizes.fwknop_gentle:,} a second", noise, sizes, sizes.fwknop_gentle),
        _fwknop_survived(hosts, "random bytes of its packets' length", noise, sizes),
        _fwknop_survived(hosts, "noise in its packets' alphabet", alphabet, sizes),
        _fwknop_survived(hosts, "copies of a captured packet", None, sizes),
    ]


def _fwknop_survived(hosts: World, flood: str, payloads: Bytes | None, sizes: Sizes, rate: int = 0) -> Survived:
    """Without payloads those of a packet that has opened are sent."""
    with fwknop.Fwknop(hosts, sizes.clients) as subject:
        homes = [BLOCK + n for n in range(sizes.fwknop + 1)]
        captured, *made = fwknop.Packets().knocks([(n % sizes.clients, home) for n, home in enumerate(homes)])
        as_many_as_it_takes(subject, [captured], 1)
        if payloads is None:
            payloads = frames.same([captured])
        sent = frames.frames(hosts, payloads, frames.forged(frames.FORGED_SOURCES), subject.port)
        before = subject.memory()
        with Flood(hosts, sent, rate):
            arriving, cores = _alone(hosts, subject, sizes)
            knocked = paced(subject, list(zip(made, homes[1:], homes[1:], strict=True)), sizes.fwknop_rate)
            return Survived(flood, "fwknop", arriving, cores, subject.memory() - before, knocked, None)
