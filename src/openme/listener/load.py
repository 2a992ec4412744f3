"""What the listener does when more comes than it can work on: whose datagram is next, and which are dropped.

Everything here is bounded, whatever strangers send. A source address may be forged, so that none is ever held against
anybody: it only says in which queue a datagram waits.
"""

import secrets
from collections import OrderedDict, deque

from openme.wire.base import Version
from openme.wire.knock import IPAddress

MAX_OTHERS = 1024  # datagrams from other addresses that wait
MAX_PER_SOURCE = 1024  # datagrams that wait from one familiar address
MAX_FAMILIAR = 16384  # datagrams that wait from all familiar addresses together
MAX_SOURCES = 4096
MAX_COPIES = 64  # of one packet that the keeper is given, which reports a copy from another address
MAX_COPIES_PER_SOURCE = 8
V2_MAX_COPIES = 8  # fewer, as a version 2 copy is recognised by a hash and the keeper needs no more to report it
V2_MAX_COPIES_PER_SOURCE = 2
V2_PACKETS = 16384  # spec wire-v2.md "What the server does with a datagram", step 3

Datagram = tuple[bytes, tuple[str, ...]]
"""A datagram and its source, as `recvfrom` returns them."""


class Waiting:
    """Datagrams that wait: by address where a client has knocked from it, in one bag for all others."""

    def __init__(self) -> None:
        self._familiar: OrderedDict[str, None] = OrderedDict()
        self._of_familiar: OrderedDict[str, deque[Datagram]] = OrderedDict()
        self._familiar_waiting = 0
        self._others: deque[Datagram] = deque()

    def __bool__(self) -> bool:
        return bool(self._of_familiar or self._others)

    def make_familiar(self, source: IPAddress) -> None:
        """A client has knocked from this address: what comes from there waits apart from now on."""
        # As the kernel writes it, also where IPv4 comes in over an IPv6 socket.
        for host in (str(source), f"::ffff:{source}") if source.version == 4 else (str(source),):
            self._familiar[host] = None
            self._familiar.move_to_end(host)
            if len(self._familiar) > 2 * MAX_SOURCES:
                self._familiar.popitem(last=False)

    def add(self, datagram: bytes, sockaddr: tuple[str, ...]) -> bool:
        """Let a datagram wait; False if that has cost the place of one drawn by lot."""
        host = sockaddr[0]
        if host not in self._familiar:
            return _add_by_lot(self._others, (datagram, sockaddr), MAX_OTHERS)
        queue = self._of_familiar.get(host, deque())
        most = MAX_PER_SOURCE if self._familiar_waiting < MAX_FAMILIAR else len(queue)
        if not most:
            return False
        self._of_familiar[host] = queue
        added = _add_by_lot(queue, (datagram, sockaddr), most)
        self._familiar_waiting += added
        return added

    def take_familiar(self) -> Datagram | None:
        """The next datagram from a familiar address, each address in its turn."""
        if not self._of_familiar:
            return None
        host, queue = self._of_familiar.popitem(last=False)
        taken = queue.popleft()
        self._familiar_waiting -= 1
        if queue:
            self._of_familiar[host] = queue
        return taken

    def take_other(self) -> Datagram | None:
        """One of the others."""
        return self._others.popleft() if self._others else None


def _add_by_lot(queue: deque[Datagram], item: Datagram, most: int) -> bool:
    if len(queue) < most:
        queue.append(item)
        return True
    queue[secrets.randbelow(len(queue))] = item
    return False


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
