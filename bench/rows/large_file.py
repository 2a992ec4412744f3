"""A config with very many clients: how long a start takes, who waits while it is read again, when a revocation acts."""

import subprocess
import time
from contextlib import closing
from dataclasses import dataclass

import yaml

from bench import fwknop
from bench.crowd import Crowd, knocks
from bench.figures import Bars, Goal, Report, Table, median, milliseconds, number
from bench.load import paced
from bench.subject import Follower, Subject
from bench.world import BLOCK, World, world
from openme.wire import v2
from support.netns import until
from support.server import OPENME

TITLE = "A config with very many clients"
KNOCKING = 50
_MOST_SECONDS = 60.0
_REVOKED = 7
_AT_ONCE = 1.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 100_000
    rate: float = 50.0


SMALL = Sizes(clients=2_000)


@dataclass(frozen=True)
class Reading:
    """Seconds: until the changed file was in force, and what knocks waited meanwhile."""

    seconds: float
    waits: list[float]
    lost: int


def measure(sizes: Sizes) -> Report:
    """Openme, libyaml alone and fwknop."""
    with world(sizes.clients) as hosts:
        begin = time.monotonic()
        yaml.compose(hosts.config.read_text(), Loader=yaml.CSafeLoader)
        bare = time.monotonic() - begin
        first = _start(hosts)
        hosts.stop()
        again = _start(hosts)
        subject = hosts.subject()
        still = _waits(hosts, subject, sizes, 2)
        reading = _read_again(hosts, subject, sizes)
        revoked = _revoked(hosts, subject)
        hosts.clear()
        theirs = _fwknop(hosts, sizes) if fwknop.is_there() else None
    rows = [
        ("libyaml alone reads the file", f"{number(bare)} s"),
        ("first start, until it serves", f"{number(first)} s"),
        ("the next start", f"{number(again)} s"),
        ("a changed file is in force after", f"{number(reading.seconds)} s"),
        ("knocks of others meanwhile: longest wait", milliseconds(max(reading.waits))),
        ("knocks of others meanwhile: median wait", milliseconds(median(reading.waits))),
        ("knocks of others before: longest wait", milliseconds(max(still))),
        ("knocks of others meanwhile: lost", str(reading.lost)),
        ("`openme revoke` during a further reading: doors closed after", f"{number(revoked)} s"),
    ]
    bars = {"libyaml alone": bare, "openme, first start": first, "openme, next start": again}
    if theirs is not None:
        rows.append(("fwknop 2.6 with as many stanzas, until it serves", f"{number(theirs)} s"))
        bars["fwknop 2.6"] = theirs
    longest = max(reading.waits)
    return Report(
        [
            Goal(
                f"config re-read with {sizes.clients:,} clients: knocks of others wait",
                "less than 50 ms",
                f"{milliseconds(longest)} at most, {reading.lost} lost",
                longest < 0.05 and not reading.lost,
            ),
            Goal(
                "`revoke` meanwhile",
                "at once",
                f"{number(revoked)} s after the command was started",
                revoked < _AT_ONCE,
            ),
            Goal(
                f"start with {sizes.clients:,} clients",
                "within 5 s",
                f"{number(first)} s, the next {number(again)} s",
                max(first, again) <= 5,
            ),
        ],
        [Table((f"{sizes.clients:,} clients", "measured"), rows)],
        [
            Bars(
                "large_file",
                f"Start with {sizes.clients:,} clients",
                "seconds",
                bars,
                frozenset(("libyaml alone", "fwknop 2.6")),
            )
        ],
    )


def _start(hosts: World) -> float:
    begin = time.monotonic()
    hosts.serve_openme()
    return time.monotonic() - begin


def _waits(hosts: World, subject: Subject, sizes: Sizes, seconds: int) -> list[float]:
    count = round(sizes.rate * seconds)
    sources = [BLOCK + n % KNOCKING for n in range(count)]
    packets = knocks([(n % KNOCKING, None) for n in range(count)], v2.WIRE, hosts.server_key(v2.WIRE))
    return paced(subject, list(zip(packets, sources, sources, strict=True)), sizes.rate).waits


def _read_again(hosts: World, subject: Subject, sizes: Sizes) -> Reading:
    """Knocks go on until the file, to which a client was added, has been read."""
    begin = time.monotonic()
    hosts.write_config(
        hosts.config.read_text() + f"  one-more:\n    ed25519_pubkey: {Crowd.key(sizes.clients).public}\n"
    )
    waits: list[float] = []
    sent, seconds = 0, 0.0
    with closing(Follower(subject.log, rb"config in force: (\d+) clients")) as log:
        while not seconds or sent < 2 * sizes.rate:
            waits += _waits(hosts, subject, sizes, 1)
            sent += round(sizes.rate)
            if log.look():
                seconds = seconds or time.monotonic() - begin
            if time.monotonic() > begin + _MOST_SECONDS:
                raise SystemExit(f"the changed file is not in force:\n{subject.log.read_text()[-500:]}")
    return Reading(seconds, waits, sent - len(waits))


def _revoked(hosts: World, subject: Subject) -> float:
    """Seconds from the start of the command until the client's door has been closed, while the file is being read."""
    name = Crowd.name(_REVOKED)
    with closing(Follower(subject.log, rb" (%s): closed " % name.encode())) as log:
        # A file that looks changed is read.
        hosts.write_config(hosts.config.read_text() + "\n")
        until(lambda: hosts.ask("reload")["reading"], 5)
        begin = time.monotonic()
        with subprocess.Popen(
            hosts.server.command(OPENME, "--config", str(hosts.config), "revoke", name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as command:
            until(log.look, _MOST_SECONDS)
            seconds = time.monotonic() - begin
            command.terminate()  # what is left is to take the entry out of the file
    return seconds


def _fwknop(hosts: World, sizes: Sizes) -> float:
    server = fwknop.Fwknop(hosts, sizes.clients)
    begin = time.monotonic()
    with server:
        return time.monotonic() - begin
