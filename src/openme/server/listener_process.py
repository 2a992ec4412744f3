"""The listener's shell: the sockets that strangers reach, and the channel to the keeper. It answers no datagram."""

import logging
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass

from openme.listener.listener import Listener
from openme.listener.load import Copies, Waiting
from openme.refusals import REPORT_INTERVAL, RefusalCounts
from openme.server.channel import ORDER_SIZE, ChannelClosedError, received, send
from openme.wire.frame import PACKET_SIZE, OrderKind, source_of, unpack_order
from openme.wire.knock import BadPacket, IPAddress, unpack_address

HEALTH_SECONDS = 2.0  # a health connection that says nothing is closed after this
HEALTH_PER_ADDRESS = 16
HEALTH_TOTAL = 512  # so that connections cannot use up the descriptors
_BATCH = 64  # orders or connections taken before the other sockets get their turn
_DRAIN = 256  # datagrams taken from the kernel before some are worked on
_SHARE = 0.001  # seconds of work, for known addresses and for strangers each, before more is taken

_log = logging.getLogger("openme.listener")


def address_of(sockaddr: tuple[str, ...]) -> IPAddress:
    """The address in what `recvfrom` and `accept` return; IPv4 also where it came in over an IPv6 socket."""
    host = sockaddr[0].partition("%")[0]
    if ":" in host:
        return unpack_address(socket.inet_pton(socket.AF_INET6, host))
    return unpack_address(bytes(10) + b"\xff\xff" + socket.inet_aton(host))


@dataclass(slots=True)
class _HealthConnection:
    socket: socket.socket
    address: IPAddress
    deadline: float


class ListenerProcess:
    """Reads datagrams, sends frames, and lets whoever reached the health port see that it is open."""

    def __init__(self, listener: Listener, knock: socket.socket, health: socket.socket, keeper: socket.socket) -> None:
        self._listener = listener
        self._knock = knock
        self._health = health
        self._keeper = keeper
        self._counts = RefusalCounts()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _HealthConnection] = {}
        self._per_address: Counter[IPAddress] = Counter()
        self._waiting = Waiting()
        self._copies = Copies()

    def run(self) -> None:
        """Serve until the keeper is gone."""
        self._selector.register(self._keeper, selectors.EVENT_READ, self._on_order)
        self._selector.register(self._health, selectors.EVENT_READ, self._on_health)
        try:
            while True:
                for key, _ in self._selector.select(self._timeout(time.monotonic())):
                    key.data()
                self._work()
                now = time.monotonic()
                self._close_overdue(now)
                self._counts.report(now, _log)
        except ChannelClosedError:
            return

    def _timeout(self, now: float) -> float:
        if self._waiting:
            return 0.0
        first = next(iter(self._connections.values()), None)
        return REPORT_INTERVAL if first is None else max(0.0, first.deadline - now)

    def _on_order(self) -> None:
        for message in received(self._keeper, ORDER_SIZE, _BATCH):
            order = unpack_order(message)
            if order.kind is OrderKind.KNOWN_SOURCE:
                self._waiting.know(source_of(order))
                continue
            self._listener.obey(order)
            if self._knock not in self._selector.get_map():
                # Until the keeper has said which keys there are, knocks wait in the socket instead of being dropped.
                self._selector.register(self._knock, selectors.EVENT_READ, self._on_datagrams)

    def _on_datagrams(self) -> None:
        """Take what has come and choose later: what is left in the kernel's queue is dropped without a look at it."""
        for _ in range(_DRAIN):
            try:
                # One byte more than a knock, so that a longer datagram is seen to be longer.
                datagram, sockaddr = self._knock.recvfrom(PACKET_SIZE + 1)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error that came back for a socket that never sends is nobody's knock
                _log.debug("receiving: %s", error.strerror)
                return
            if not self._waiting.add(datagram, sockaddr):
                self._counts.add("busy")

    def _work(self) -> None:
        for take in (self._waiting.take_known, self._waiting.take_stranger):
            until = time.monotonic() + _SHARE
            while (item := take()) is not None:
                datagram, sockaddr = item
                self._on_datagram_untrusted(datagram, address_of(sockaddr))
                if time.monotonic() > until:
                    break

    def _on_datagram_untrusted(self, datagram: bytes, source: IPAddress) -> None:
        reason = "copy" if self._copies.too_many(datagram, str(source)) else self._pass_on_untrusted(datagram, source)
        if reason is None:
            return
        self._counts.add(reason)
        if _log.isEnabledFor(logging.DEBUG):
            facts = {"event": "refused", "reason": reason, "source": str(source)}
            _log.debug("refused: %s (from %s)", reason, source, extra={"facts": facts})

    def _pass_on_untrusted(self, datagram: bytes, source: IPAddress) -> str | None:
        """Give the keeper the frame for this datagram; why not, in one word, if there is none or it is too busy."""
        try:
            frame = self._listener.frame_untrusted(datagram, source)
        except BadPacket as bad:
            return bad.reason
        if not send(self._keeper, frame.pack()):
            return "busy"
        self._copies.note(datagram, str(source))
        return None

    def _on_health(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, sockaddr = self._health.accept()
            except OSError:  # nothing waits, or the peer has gone again
                return
            address = address_of(sockaddr)
            if len(self._connections) >= HEALTH_TOTAL or self._per_address[address] >= HEALTH_PER_ADDRESS:
                connection.close()
                continue
            connection.setblocking(False)  # noqa: FBT003  # the standard library's signature
            self._per_address[address] += 1
            number = connection.fileno()
            self._connections[number] = _HealthConnection(connection, address, time.monotonic() + HEALTH_SECONDS)
            # Whatever arrives, data or the end, closes it: version 1 has nothing to say here.
            self._selector.register(connection, selectors.EVENT_READ, lambda number=number: self._close_health(number))

    def _close_health(self, number: int) -> None:
        entry = self._connections.pop(number)
        self._selector.unregister(entry.socket)
        entry.socket.close()
        self._per_address[entry.address] -= 1
        if not self._per_address[entry.address]:
            del self._per_address[entry.address]

    def _close_overdue(self, now: float) -> None:
        # Connections stand in the order of their deadlines, since all get the same time.
        while (first := next(iter(self._connections.items()), None)) and first[1].deadline <= now:
            self._close_health(first[0])
