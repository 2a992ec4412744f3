"""Real knocks, sent in two ways: as many as the server takes, or so many a second."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bench.arrivals import Arrived, arrived, count_arrivals
from bench.processes import Used
from bench.subject import Subject
from bench.world import Sender

UNDER_WAY = 512
"""So many knocks wait at most: less than the listener's queues hold, more than a batch."""
_LOOK = 0.0005


@dataclass(frozen=True)
class Taken:
    """What became of knocks that were sent as fast as they were taken."""

    seconds: float
    sent: int
    arrived: int
    opened: int
    used: Used

    @property
    def rate(self) -> float:
        """Accepted knocks a second."""
        return self.opened / self.seconds

    @property
    def cost(self) -> float:
        """Seconds of the processor a knock."""
        return self.used.seconds / self.opened


def as_many_as_it_takes(subject: Subject, packets: Sequence[bytes], seconds: float, patience: float = 1.0) -> Taken:
    """Keep `UNDER_WAY` knocks under way for so long, or until all have been sent.

    `patience`: seconds in which nothing opens and after which what is under way is taken for lost. SystemExit if no
    knock opens at all.
    """
    count_arrivals(subject.world, subject.port)
    with Sender(subject) as sender, closing(subject.follow()) as log:
        before, begin = subject.used(), time.monotonic()
        sent, lost, moved, last = 0, 0, begin, begin
        while (now := time.monotonic()) < moved + patience:
            if log.look():
                moved = last = now
            free = min(len(packets) - sent, UNDER_WAY - (sent - log.count - lost))
            if now >= begin + seconds:
                free = 0
            for packet in packets[sent : sent + free]:
                sender.send(packet)
            sent += free
            if sent == log.count + lost and not free:
                break
            if sent < len(packets) and now > moved + patience / 2 and now < begin + seconds:
                lost, moved = sent - log.count, now
            time.sleep(_LOOK)
        came = arrived(subject.world).clients
        if not log.count:
            raise SystemExit(f"{subject.name}: of {came} knocks none has opened\n{subject.log.read_text()[-500:]}")
        return Taken(last - begin, sent, came, log.count, subject.used() - before)


@dataclass
class Paced:
    """What became of knocks at a fixed rate. `waits`: seconds from sent to opened, by the server's log."""

    sent: int = 0
    seconds: float = 0.0
    arrived: Arrived = field(default_factory=lambda: Arrived(0, 0))
    opened: int = 0
    used: Used = field(default_factory=lambda: Used(0.0, 0))
    waits: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of those that arrived at the host, how many opened."""
        return self.opened / self.arrived.clients

    @property
    def cores(self) -> float:
        """Processors that the server used."""
        return self.used.seconds / self.seconds


def paced(
    subject: Subject, knocks: Sequence[tuple[bytes, IPv4Address, IPv4Address]], rate: float, patience: float = 1.0
) -> Paced:
    """Send (packet, source, the address that it opens for) at a rate, and wait for the last `patience` seconds.

    An address may come again once its knock has opened.
    """
    found = Paced(len(knocks))
    count_arrivals(subject.world, subject.port)
    with Sender(subject) as sender, closing(subject.follow()) as log:
        before, begin = subject.used(), time.monotonic()
        under_way: dict[str, float] = {}
        at = 0
        end = begin + len(knocks) / rate
        while (now := time.monotonic()) < end + patience:
            for address in log.look():
                if (since := under_way.pop(address, None)) is not None:
                    found.waits.append(now - since)
            while at < len(knocks) and now >= begin + at / rate:
                packet, source, opens = knocks[at]
                under_way[str(opens)] = time.monotonic()
                sender.send(packet, source)
                at += 1
            if at == len(knocks) and not under_way:
                break
            time.sleep(_LOOK)
        found.seconds = time.monotonic() - begin
        found.used = subject.used() - before
    found.opened = len(found.waits)
    found.arrived = arrived(subject.world)
    return found
