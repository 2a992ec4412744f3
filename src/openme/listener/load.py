"""What the listener does when more comes than it can work on: whose datagram is next, and which are dropped.

Everything here is bounded, whatever strangers send. A source address may be forged, so that none is ever held against
anybody: it only says in which queue a datagram waits (docs/decisions/0033-who-waits-where.md).
"""

import secrets
from collections import OrderedDict, deque

from openme.seam.messages import MAX_FAMILIAR_ADDRESSES
from openme.wire.base import Version
from openme.wire.knock import IPAddress

MAX_OTHERS = 1024  # datagrams from other addresses that wait
MAX_PER_SOURCE = 1024  # datagrams that wait from one familiar address
MAX_FAMILIAR = 16384  # datagrams that wait from all familiar addresses together
MAX_COPIES = 64  # of one packet that the keeper is given, which reports a copy from another address
MAX_COPIES_PER_SOURCE = 8
V2_MAX_COPIES = 8  # fewer, as a version 2 copy is recognised by a hash and the keeper needs no more to report it
V2_MAX_COPIES_PER_SOURCE = 2
V2_PACKETS = 16384  # spec wire-v2.md "What the server does with a datagram", step 3

Datagram = tuple[bytes, tuple[str, ...]]
"""A datagram and its source, as `recvfrom` returns them."""


class Waiting:
    """Datagrams that wait: each address in its turn where clients have knocked from, else each network in its turn.

    So whoever can forge addresses of some networks, as most can who can at all, is in the way of those in the same
    networks alone, besides what he costs.
    """

    def __init__(self) -> None:
        self._familiar: OrderedDict[str, None] = OrderedDict()
        self._of_familiar = Turns(MAX_PER_SOURCE, MAX_FAMILIAR)
        self._of_others = Turns(MAX_OTHERS, MAX_OTHERS)

    def __bool__(self) -> bool:
        return bool(self._of_familiar) or bool(self._of_others)

    def make_familiar(self, source: IPAddress) -> None:
        """A client has knocked from this address: what comes from there waits apart from now on."""
        # As the kernel writes it, also where IPv4 comes in over an IPv6 socket.
        for host in (str(source), f"::ffff:{source}") if source.version == 4 else (str(source),):
            self._familiar[host] = None
            self._familiar.move_to_end(host)
            if len(self._familiar) > 2 * MAX_FAMILIAR_ADDRESSES:
                self._familiar.popitem(last=False)

    def add(self, datagram: bytes, sockaddr: tuple[str, ...]) -> bool:
        """Let a datagram wait; False if that has cost the place of another."""
        host = sockaddr[0]
        if host in self._familiar:
            return self._of_familiar.add(host, (datagram, sockaddr))
        return self._of_others.add(network_of(host), (datagram, sockaddr))

    def take_familiar(self) -> Datagram | None:
        """The next datagram from a familiar address, each address in its turn."""
        return self._of_familiar.take()

    def take_other(self) -> Datagram | None:
        """The next one of the others, each network in its turn."""
        return self._of_others.take()


def network_of(host: str) -> str:
    """What stands for an address's network, about as large as a provider's: /16 of IPv4, /32 of IPv6."""
    if "." in host:
        return host.rsplit(".", 2)[0]
    return ":".join(host.split(":", 2)[:2])


class Turns:
    """Datagrams in queues by who sent them, and one of each queue in its turn.

    No queue has more than an equal part of all places, so that who sends little finds one whatever others send.
    """

    def __init__(self, most_of_one: int, most: int) -> None:
        """`most_of_one`: datagrams in a queue. `most`: in all of them."""
        self._most_of_one = most_of_one
        self._most = most
        self._queues: OrderedDict[str, deque[Datagram]] = OrderedDict()
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, sender: str, item: Datagram) -> bool:
        """Let it wait. False if that has cost another's place: one of the same sender drawn by lot, if he has his part
        of the places, else the latest of one who has more than his.
        """
        queue = self._queues.get(sender)
        part = max(1, self._most // (len(self._queues) + (queue is None)))
        if queue is not None and len(queue) >= min(self._most_of_one, part):
            queue[secrets.randbelow(len(queue))] = item
            return False
        had_room = self._count < self._most
        if not had_room:
            self._drop(part)
        self._queues.setdefault(sender, deque()).append(item)
        self._count += 1
        return had_room

    def _drop(self, part: int) -> None:
        """Drop one of whoever is the last in turn of those with more than their part; with more senders than places
        nobody may have: then of the last one.
        """
        backwards = reversed(self._queues.items())
        if self._count == len(self._queues):
            sender, queue = next(backwards)
        else:
            sender, queue = next((sender, queue) for sender, queue in backwards if len(queue) > part)
        queue.pop()
        self._count -= 1
        if not queue:
            del self._queues[sender]

    def take(self) -> Datagram | None:
        """The next one; None if none waits."""
        if not self._count:
            return None
        sender, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        self._count -= 1
        if queue:
            self._queues[sender] = queue
        return item


class Copies:
    """How often a packet was worked on, and where from, for the latest thousands of packets.

    A saving, not the replay check (spec wire-v2.md, step 3). A first copy, and the first ones from other addresses, go
    on to the keeper all the same, which names the client and, where they differ, both addresses.
    """

    def __init__(
        self, prefix_size: int, most: int = MAX_COPIES, per_source: int = MAX_COPIES_PER_SOURCE, packets: int = 8192
    ) -> None:
        """A packet is recognised by its first `prefix_size` bytes; see `too_many` for `most` and `per_source`."""
        self._prefix_size = prefix_size
        self._most = most
        self._per_source = per_source
        self._packets = packets
        self._hosts: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()  # one for each copy

    def too_many(self, packet: bytes, host: str) -> bool:
        """Whether enough copies of this one have been worked on: in all, or from this address."""
        hosts = self._hosts.get(packet[: self._prefix_size], ())
        return len(hosts) >= self._most or hosts.count(host) >= self._per_source

    def note(self, packet: bytes, host: str) -> None:
        """It has been worked on."""
        prefix = packet[: self._prefix_size]
        self._hosts[prefix] = (*self._hosts.get(prefix, ()), host)
        if len(self._hosts) > self._packets:
            self._hosts.popitem(last=False)


def copies_of(version: Version) -> Copies:
    """The memory of a version's packets."""
    if version.has_filter:
        return Copies(version.copy_prefix_size, V2_MAX_COPIES, V2_MAX_COPIES_PER_SOURCE, V2_PACKETS)
    return Copies(version.copy_prefix_size)
