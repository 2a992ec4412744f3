"""Everything at once, for an hour: is a knock lost, a door open too long, or memory kept?

    .venv/bin/python -m bench.soak [--minutes 60] [--into FOLDER]

By hand, since it takes an hour. Knocks of both versions come all the time. Meanwhile there are noise and copies, the
config is read again, clients are added and revoked, epochs of a minute begin and end, and the server is stopped or
killed and started again. Each knock has to open, each revocation to close; every few seconds the kernel's own list of
doors is compared with what may be open, and connections are tried where a door is and where one was.
"""

import argparse
import errno
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import environment, frames, pages
from bench.arrivals import arrived, count_arrivals
from bench.crowd import Crowd, knocks
from bench.figures import Curves, Goal, Report, Table, mebibytes, median, milliseconds, number, percentile
from bench.processes import tree
from bench.subject import Follower
from bench.world import BLOCK, PEER, Sender, World, world
from openme.wire import v1, v2
from support.server import OPENME

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"

CLIENTS = 400
KNOCKING = 200
"""Clients 0 to 199 knock; of the others one after the other is revoked."""
ADDRESSES = 4_000
RATE = 20.0
OPEN_FOR = 20.0
EPOCH = 60
SSH = 22
_LOST = 5.0  # seconds after which a knock that has not opened is lost
_SLACK = 2.0  # between what is opened and what the log says of it, and between two looks
_TRIED = 0.5  # seconds that an attempt to connect gets
_LOOK = 0.001
_CLOSED = rb" (\w+): closed "
_SETTLED = 60.0  # seconds of a run after which memory should grow no more


class Trouble(NamedTuple):
    """Something that should not have happened, and when: seconds since the beginning."""

    at: float
    what: str


class Moment(NamedTuple):
    """What was seen at a time. `memory` in bytes, `waits` in seconds."""

    at: float
    run: int
    age: float
    memory: int
    descriptors: int
    waits: Sequence[float]


@dataclass
class Counts:
    """How often of everything."""

    sent: int = 0
    opened: int = 0
    noise: int = 0
    reloads: int = 0
    closings: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    kills: int = 0
    doors: int = 0
    tried: int = 0


class Soak:
    """The world, what is under way in it, and what was seen."""

    def __init__(self, stack: ExitStack, hosts: World) -> None:
        self.hosts = hosts
        self.counts = Counts()
        self.troubles: list[Trouble] = []
        self.moments: list[Moment] = []
        self._subject = hosts.serve_openme()
        self._sender = stack.enter_context(Sender(self._subject))
        with hosts.server.entered():
            self._service = stack.enter_context(closing(socket.create_server(("", SSH), backlog=64)))
        self._service.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._log = self._subject.follow()
        self._closed = Follower(self._subject.log, _CLOSED)
        self._random = random.Random(1)  # noqa: S311  # which address is tried
        self._begin = self._run_began = time.monotonic()
        self._under_way: dict[str, float] = {}
        self._may_be_open: dict[str, float] = {}
        self._waits: list[float] = []
        self._next_address = self._next_client = 0
        self._revocation: tuple[str, str, float, subprocess.Popen[bytes]] | None = None
        self._revoked: set[str] = set()
        self._attempts: list[tuple[socket.socket, str, bool, float]] = []
        self._guests = 0
        self._captured = b""
        self._flood = stack.enter_context(ExitStack())
        self._is_flooded = False
        self._kinds: list[tuple[Callable[[], frames.Bytes], int]] = [
            (lambda: frames.noise(1 << 15), 50_000),
            (lambda: frames.shaped_like_v1(1 << 12), 1_000),
            (lambda: frames.same([self._captured]), 20_000),
        ]
        self._server_key = hosts.server_key(v1.WIRE)
        count_arrivals(hosts, self._subject.port)

    # -- the hour

    def go(self, minutes: float) -> None:
        """Do everything, each in its own time."""
        duties: list[tuple[float, float, Callable[[], None]]] = [
            (1 / RATE, 0.0, self._knock),
            (1.0, 0.5, self._try_one),
            (5.0, 3.0, self._compare_doors),
            (10.0, 8.0, self._note),
            (20.0, 11.0, self._reload),
            (15.0, 6.0, self._noise),
            (60.0, 31.0, self._revoke),
            (minutes * 15, minutes * 15, self._start_again),
        ]
        due = [self._begin + first for _, first, _ in duties]
        end = self._begin + 60 * minutes
        while (now := time.monotonic()) < end:
            self._look()
            for at, (period, _, duty) in enumerate(duties):
                if now >= due[at]:
                    duty()
                    due[at] = max(due[at] + period, now)
            time.sleep(_LOOK)
        until = time.monotonic() + _LOST
        while self._under_way and time.monotonic() < until:
            self._look()
            time.sleep(_LOOK)
        self._end_noise()
        self._note()

    def _trouble(self, what: str) -> None:
        found = Trouble(time.monotonic() - self._begin, what)
        self.troubles.append(found)
        print(f"{found.at:8.1f} s  {what}", flush=True)

    def _look(self) -> None:
        now = time.monotonic()
        for address in self._log.look():
            since = self._under_way.pop(address, None)
            self._may_be_open[address] = now + OPEN_FOR
            if since is None:
                self._trouble(f"a door for {address}, which has not knocked")
            else:
                self.counts.opened += 1
                self._waits.append(now - since)
        for address in [one for one, since in self._under_way.items() if now > since + _LOST]:
            del self._under_way[address]
            self._trouble(f"a knock of {address} has not opened")
        self._look_at_revocation(now)
        self._look_at_attempts(now)

    # -- knocks

    def _knock(self) -> None:
        self._next_client = (self._next_client + 1) % KNOCKING
        self._send(self._next_client)

    def _send(self, client: int) -> str:
        """A knock from the next address; one in five is of version 1."""
        self._next_address = (self._next_address + 1) % ADDRESSES
        # The same client from the same addresses: version 1 knows it by them.
        source = BLOCK + self._next_address
        if self._next_address % 5:
            (packet,) = knocks([(client, source)], v2.WIRE, self.hosts.server_key(v2.WIRE))
            self._captured = packet
        else:
            (packet,) = knocks([(client, source)], v1.WIRE, self._server_key)
        self._under_way[str(source)] = time.monotonic()
        self._sender.send(packet, source)
        self.counts.sent += 1
        return str(source)

    # -- what goes on meanwhile

    def _noise(self) -> None:
        """Begin with one kind, or end it: each is followed by as long a time without any."""
        if self._is_flooded:
            self._end_noise()
            return
        payloads, rate = self._kinds[0]
        self._kinds.append(self._kinds.pop(0))
        made = frames.frames(self.hosts, payloads(), frames.forged(1 << 15), self._subject.port)
        self._flood.enter_context(frames.Flood(self.hosts, made, rate))
        self._is_flooded = True

    def _end_noise(self) -> None:
        self._flood.close()
        self._is_flooded = False
        self.counts.noise = arrived(self.hosts).strangers

    def _reload(self) -> None:
        """Another client each time, until there are ten, and then none of them."""
        self._guests = (self._guests + 1) % 10
        text = self.hosts.config.read_text().partition("\n  guest0:")[0].rstrip("\n") + "\n"
        for guest in range(self._guests):
            text += f"  guest{guest}:\n    ed25519_pubkey: {Crowd.key(CLIENTS + guest).public}\n"
        self.hosts.write_config(text)
        self.counts.reloads += 1

    def _revoke(self) -> None:
        """A client that has just been let in."""
        client = KNOCKING + len(self._revoked)
        if client == CLIENTS:
            return
        source = self._send(client)
        name = Crowd.name(client)
        self._revoked.add(name)
        limit = time.monotonic() + _LOST
        while source in self._under_way and time.monotonic() < limit:
            self._look()
            time.sleep(_LOOK)
        command = subprocess.Popen(
            self.hosts.server.command(OPENME, "--config", str(self.hosts.config), "revoke", name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._revocation = (name, source, time.monotonic(), command)

    def _look_at_revocation(self, now: float) -> None:
        if self._revocation is None:
            return
        name, source, since, command = self._revocation
        if name in self._closed.look():
            self.counts.closings.append(now - since)
            self._may_be_open[source] = now
        elif now < since + _LOST:
            return
        else:
            self._trouble(f"{name} was revoked, and the door of {source} was not closed")
        assert command.stderr is not None
        if command.wait(_LOST) != 0:
            self._trouble(f"revoke {name}: {command.stderr.read().decode().strip()}")
        command.stderr.close()
        self._revocation = None

    def _start_again(self) -> None:
        """Stopped, then killed, by turns. Knocks pause: nobody can take one while nothing runs.

        So does noise, which would fill the socket for as long as the server has no keys to tell it by.
        """
        self._end_noise()
        limit = time.monotonic() + _LOST
        while self._under_way and time.monotonic() < limit:
            self._look()
        self._note()
        for made, *_ in self._attempts:
            made.close()
        self._attempts.clear()
        is_killed = len(self.counts.starts) % 2 == 1
        self.counts.kills += is_killed
        if is_killed:
            self.hosts.kill()
        elif (code := self.hosts.stop()) != 0:
            self._trouble(f"the server ended with {code}")
        else:
            self._may_be_open.clear()  # who stops the server closes all doors
        began = time.monotonic()
        self._log.close()
        self._closed.close()
        self._subject = self.hosts.serve_openme()
        self.counts.starts.append(time.monotonic() - began)
        self._log, self._closed = self._subject.follow(), Follower(self._subject.log, _CLOSED)
        self._run_began = time.monotonic()

    # -- what is looked at

    def _compare_doors(self) -> None:
        """Every door that the kernel has is one that may be open."""
        now = time.monotonic()
        for address in listed_doors(self.hosts):
            self.counts.doors += 1
            until = self._may_be_open.get(address)
            if until is None and address not in self._under_way:
                self._trouble(f"the kernel has a door for {address}, which nobody opened")
            elif until is not None and now > until + _SLACK and address not in self._under_way:
                self._trouble(f"the door of {address} is open {number(now - until)} s too long")

    def _try_one(self) -> None:
        """A connection from an address whose door is open, and from one whose door has ended."""
        now = time.monotonic()
        ends = {address: until for address, until in self._may_be_open.items() if address not in self._under_way}
        is_open = [address for address, until in ends.items() if until > now + _SLACK]
        ended = [address for address, until in ends.items() if until + _SLACK < now]
        for addresses, expected in ((is_open, True), (ended, False)):
            if addresses:
                address = self._random.choice(addresses)
                self._attempts.append((self._attempt(address), address, expected, now + _TRIED))

    def _attempt(self, address: str) -> socket.socket:
        with self.hosts.client.entered():
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)  # noqa: FBT003  # the standard library's signature
        made.bind((address, 0))
        if (number_of := made.connect_ex((PEER, SSH))) not in (0, errno.EINPROGRESS):
            self._trouble(f"connecting from {address}: {os.strerror(number_of)}")
        return made

    def _look_at_attempts(self, now: float) -> None:
        with suppress(BlockingIOError):
            while True:
                self._service.accept()[0].close()
        while self._attempts and self._attempts[0][3] <= now:
            made, address, expected, _ = self._attempts.pop(0)
            is_there = (
                bool(select.select([], [made], [], 0)[1]) and made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            )
            made.close()
            self.counts.tried += 1
            # Whoever knocked or was revoked meanwhile says nothing.
            until = self._may_be_open[address]
            if is_there and not expected and until < now:
                self._trouble(f"{address} came in, whose door has ended")
            if not is_there and expected and until > now:
                self._trouble(f"{address} did not come in, whose door is open")

    def _note(self) -> None:
        now = time.monotonic()
        pids = tree(self._subject.pid)
        descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)  # noqa: PTH208  # names are enough
        self.moments.append(
            Moment(
                *(now - self._begin, len(self.counts.starts), now - self._run_began),
                *(self._subject.memory(), descriptors, self._waits),
            )
        )
        self._waits = []


def listed_doors(hosts: World) -> set[str]:
    """The single IPv4 addresses in all sets of openme's table, as the kernel lists them."""
    listed = json.loads(hosts.server.run("nft", "-j", "list", "table", "inet", "openme"))["nftables"]
    found: set[str] = set()
    for one in listed:
        for element in one.get("set", {}).get("elem", ()):
            value = element["elem"]["val"] if "elem" in element else element
            parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
            found |= {part for part in parts if isinstance(part, str) and part.startswith(f"{BLOCK.exploded[:5]}")}
    return found


def report(soak: Soak, minutes: float) -> Report:
    """The figures of the hour."""
    counts, moments = soak.counts, soak.moments
    waits = [wait for moment in moments for wait in moment.waits]
    kept = {run: _kept(moments, run) for run in range(len(counts.starts) + 1)}
    grown = max(after - before for before, after in kept.values())
    wrong = [trouble.what for trouble in soak.troubles]
    rows = [
        ("knocks sent, one in five of version 1", f"{counts.sent:,}"),
        ("of these opened", f"{counts.opened:,}"),
        ("from sent to opened: median", milliseconds(median(waits))),
        ("from sent to opened: 99th percentile", milliseconds(percentile(waits, 0.99))),
        ("from sent to opened: longest", milliseconds(max(waits))),
        ("packets of noise and copies that arrived", f"{counts.noise:,}"),
        ("the config was changed", f"{counts.reloads:,} times"),
        (
            f"clients revoked; longest until the door was closed, of {len(counts.closings)}",
            milliseconds(max(counts.closings)) if counts.closings else "none",
        ),
        (f"epochs of {EPOCH} s that began", f"{int(minutes * 60 / EPOCH):,}"),
        (
            f"starts, {counts.kills} of them after a kill; longest until it served",
            f"{len(counts.starts)}; {number(max(counts.starts))} s" if counts.starts else "none",
        ),
        ("doors that the kernel listed, each compared", f"{counts.doors:,}"),
        ("connections tried, half of them where a door had ended", f"{counts.tried:,}"),
        ("memory a minute after each start, and at its end", _runs(kept)),
        ("descriptors at the beginning and at the end", f"{moments[0].descriptors}; {moments[-1].descriptors}"),
        ("what went wrong", f"{len(wrong)}: {wrong[0]}" if wrong else "nothing"),
    ]
    return Report(
        [
            Goal("an hour of mixed load: knocks lost", "none", str(counts.sent - counts.opened), not wrong),
            Goal("the same: memory grows in a run by", "nothing that goes on", mebibytes(grown), None),
        ],
        [Table((f"{number(minutes)} minutes", "measured"), rows)],
        [
            Curves(
                *("soak_memory", "Memory of all processes in an hour of mixed load", ("minutes", "MiB")),
                {
                    f"run {run + 1}": [(one.at / 60, one.memory / 2**20) for one in moments if one.run == run]
                    for run in kept
                },
            ),
            Curves(
                *("soak_latency", "From a knock sent to its door open, in an hour of mixed load"),
                ("minutes", "milliseconds"),
                {
                    name: [(one.at / 60, figure(one.waits) * 1000) for one in moments if one.waits]
                    for name, figure in (("longest of 10 s", max), ("median of 10 s", median))
                },
                logarithmic=(False, True),
            ),
        ],
    )


def _kept(moments: Sequence[Moment], run: int) -> tuple[int, int]:
    """Memory when a run had settled, and at its end."""
    of_run = [one for one in moments if one.run == run]
    settled = next((one for one in of_run if one.age >= _SETTLED), of_run[0])
    return settled.memory, of_run[-1].memory


def _runs(kept: dict[int, tuple[int, int]]) -> str:
    return "; ".join(f"{mebibytes(before)}, {mebibytes(after)}" for before, after in kept.values())


def main() -> int:
    """Run it, print what was found, and keep it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--into", type=Path, default=RESULTS, metavar="FOLDER", help="where table and plots go")
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    with (
        ExitStack() as stack,
        world(CLIENTS, knock_timeout=f"{OPEN_FOR:.0f}s", replay_window="20s", epoch_length=f"{EPOCH}s") as hosts,
    ):
        # The length is fixed when the keys are made, which was before it was set.
        hosts.openme(hosts.server, "--config", hosts.config, "rotate", "ratchet", code=0)
        soak = Soak(stack, hosts)
        soak.go(asked.minutes)
        found = report(soak, asked.minutes)
    print(found.markdown())
    pages.write(asked.into, "soak", found, environment.description())
    if asked.into == RESULTS:
        pages.update(ROOT / "docs" / "performance.md", RESULTS)
    return int(bool(soak.troubles))


if __name__ == "__main__":
    sys.exit(main())
