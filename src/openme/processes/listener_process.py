"""The listener's shell: the sockets that strangers reach, and the channel to the keeper. It answers no datagram."""

import selectors
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from openme.kernel_filter.filter import KernelFilter
from openme.keys.erasing import wipe
from openme.listener.listener import Listener
from openme.listener.load import Datagram, Waiting, copies_of
from openme.listener.receipts import Receipts
from openme.processes.listener_reports import Reporter, tell
from openme.reasons import Reason
from openme.seam.channel import ORDER_SIZES, ChannelClosedError, received, send
from openme.seam.handlers import Handlers
from openme.seam.messages import (
    PACKET_SIZE,
    FamiliarAddress,
    ForgetReceipt,
    KnockNotOpened,
    KnockOpened,
    LeaveHealthPort,
    LeftHealthPort,
    ReceiptPart,
    Sender,
    Serve,
    Serving,
    row_of,
    unpack_order,
)
from openme.wire.base import RECEIPT_ID_SIZE, Version
from openme.wire.knock import BadPacket, IPAddress, unpack_address
from openme.wire.versions import VERSIONS

HEALTH_SECONDS = 2.0  # a health connection that says nothing is closed after this
HEALTH_PER_ADDRESS = 16
HEALTH_TOTAL = 512  # so that connections cannot use up the descriptors
RECEIPT_PATIENCE = 0.5  # seconds for a receipt to be made whose knock came just before the question for it
_BACKLOG = 128
_BATCH = 64  # orders or connections taken before the other sockets get their turn
_DRAIN = 256  # datagrams taken from the kernel before some are worked on
_SHARE = 0.001  # seconds of work, for familiar addresses and for others each, before more is taken


def address_of(sockaddr: tuple[str, ...]) -> IPAddress:
    """The address in what `recvfrom` and `accept` return; IPv4 also where it came in over an IPv6 socket."""
    host = sockaddr[0].partition("%")[0]
    if ":" in host:
        return unpack_address(socket.inet_pton(socket.AF_INET6, host))
    return unpack_address(bytes(10) + b"\xff\xff" + socket.inet_aton(host))


@dataclass(slots=True)
class _HealthConnection:
    """`said`: what the peer has sent, at most a receipt id. `answer`: what it is still to be told.

    `has_ended`: it has said that it says no more, before it could have read anything.
    """

    socket: socket.socket
    address: IPAddress
    deadline: float
    said: bytes = b""
    has_ended: bool = False
    answer: memoryview | None = None


class ListenerProcess:
    """Reads datagrams, sends frames, and lets whoever reached the health port see that it is open."""

    def __init__(
        self,
        listener: Listener,
        knock: socket.socket,
        health: socket.socket | None,
        keeper: socket.socket,
        kernel_filter: KernelFilter | None = None,
    ) -> None:
        """`health`: the health port, bound; None where it is another program's. `kernel_filter`: that of
        `knock`, which the `listener` tells its keys.
        """
        self._listener = listener
        self._kernel_filter = kernel_filter
        self._knock = knock
        self._health = health
        self._keeper = keeper
        self._reporter = Reporter(keeper, dropped=None if kernel_filter is None else kernel_filter.dropped)
        self._counts = self._reporter.counts
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _HealthConnection] = {}
        self._per_address: Counter[IPAddress] = Counter()
        self._receipts = Receipts()
        self._waiting = {version.number: Waiting() for version in VERSIONS}
        self._copies = {version.number: copies_of(version) for version in VERSIONS}

        self._handlers = Handlers(
            Sender.KEEPER,
            listener.handlers
            | {
                KnockOpened: self._on_opened,
                KnockNotOpened: self._receipts.not_opened,
                ReceiptPart: self._receipts.part,
                ForgetReceipt: self._receipts.forget,
                FamiliarAddress: self._on_familiar_address,
                Serve: self._serve,
                LeaveHealthPort: self._leave_health_port,
            },
        )

    def run(self) -> None:
        """Serve until the keeper is gone."""
        self._selector.register(self._keeper, selectors.EVENT_READ, self._on_orders)
        try:
            while True:
                timeout = self._timeout(time.monotonic())
                if timeout != 0.0:
                    self._emptied()  # whoever sleeps is woken by what is let through alone
                for key, _ in self._selector.select(timeout):
                    key.data()
                self._work()
                now = time.monotonic()
                self._close_overdue(now)
                self._receipts.forget_overdue(now)
                self._reporter.report(now)
        except ChannelClosedError:
            return

    def _timeout(self, now: float) -> float | None:
        """Seconds until something is to be done that nobody asks for; None: for ever."""
        if any(self._waiting.values()):
            return 0.0
        deadlines = (connection.deadline for connection in self._connections.values())
        first = min((self._reporter.next_at, self._receipts.next_at, *deadlines))
        return None if first == inf else max(0.0, first - now)

    def _on_orders(self) -> None:
        for message in received(self._keeper, ORDER_SIZES, _BATCH):
            order = unpack_order(message)
            self._handlers.take(order)
            if row_of(type(order)).wiped:
                wipe(message)

    def _on_opened(self, order: KnockOpened) -> None:
        if (receipt_id := self._receipts.opened(order, time.monotonic())) is not None:
            self._tell_who_waits(receipt_id)

    def _on_familiar_address(self, order: FamiliarAddress) -> None:
        for waiting in self._waiting.values():
            waiting.make_familiar(order.address)
        if self._kernel_filter is not None:
            self._kernel_filter.make_familiar(order.address)

    def _serve(self, _order: Serve) -> None:
        """Let strangers in. Until now knocks waited in the socket, and the health port was not there to be seen."""
        if self._health is not None:
            self._listen(self._health)
        if self._kernel_filter is not None:
            self._kernel_filter.judge()
        self._selector.register(self._knock, selectors.EVENT_READ, self._on_datagrams)
        tell(self._keeper, [Serving()])

    def _listen(self, health: socket.socket) -> None:
        try:
            health.listen(_BACKLOG)
        except OSError as error:
            # A user of this host can hold the same address as long as nobody listens. That costs receipts, no knock.
            self._reporter.no_health_port(error)
        else:
            self._selector.register(health, selectors.EVENT_READ, lambda: self._on_health(health))

    def _leave_health_port(self, _order: LeaveHealthPort) -> None:
        """Leave it to the service that it belongs to now. Whoever has connected already is served to the end."""
        if self._health is not None:
            if self._health in self._selector.get_map():
                self._selector.unregister(self._health)
            self._health.close()
            self._health = None
        tell(self._keeper, [LeftHealthPort()])

    # -- knocks

    def _on_datagrams(self) -> None:
        """Take what has come and choose later: what is left in the kernel's queue is dropped without a look at it."""
        for _ in range(_DRAIN):
            try:
                # One byte more than a knock, so that a longer datagram is seen to be longer.
                datagram, sockaddr = self._knock.recvfrom(PACKET_SIZE + 1)
            except BlockingIOError:
                self._emptied()
                return
            except OSError as error:  # an ICMP error that came back for a socket that never sends is nobody's knock
                self._reporter.receiving_failed(error)
                return
            try:
                waiting = self._waiting[self._listener.version_untrusted(datagram)]
            except BadPacket as bad:
                self._reporter.refused(bad.reason, address_of(sockaddr))
                continue
            if not waiting.add(datagram, sockaddr):
                self._reporter.refused(Reason.BUSY)

    def _emptied(self) -> None:
        """Nothing waits in the socket: let as many more come as may wait there."""
        if self._kernel_filter is not None:
            self._kernel_filter.emptied()

    def _work(self) -> None:
        # Version 1 waits until no version 2 packet does (spec wire-v2.md "Both versions on one port").
        for version in VERSIONS:
            waiting = self._waiting[version.number]
            for take in (waiting.take_familiar, waiting.take_other):
                until = time.monotonic() + _SHARE
                while (item := take()) is not None:
                    self._on_datagram_untrusted(item, version)
                    if time.monotonic() > until:
                        break
            if waiting:
                return

    def _on_datagram_untrusted(self, item: Datagram, version: Version) -> None:
        datagram, sockaddr = item
        source = address_of(sockaddr)
        copies, host = self._copies[version.number], sockaddr[0]
        if copies.too_many(datagram, host):
            reason: Reason | None = Reason.COPY
        else:
            reason = self._pass_on_untrusted(datagram, source, version)
            if reason != Reason.BUSY and (reason is None or version.has_filter):
                copies.note(datagram, host)
        if reason is not None:
            self._reporter.refused(reason, source)

    def _pass_on_untrusted(self, datagram: bytes, source: IPAddress, version: Version) -> Reason | None:
        """Give the keeper the frame for this datagram; why not, in one word, if there is none or it is too busy."""
        try:
            frame, receipt = self._listener.frame_untrusted(datagram, source)
        except BadPacket as bad:
            return bad.reason
        message = frame.pack()
        sent = send(self._keeper, message)
        if receipt is not None:
            # What would open this knock later is not to be found in this process's memory.
            wipe(message)
            frame.wipe()
            if sent:
                self._receipts.expect(datagram[: version.representative_size], receipt, time.monotonic())
            else:
                receipt.wipe()
        return None if sent else Reason.BUSY

    # -- the health port

    def _on_health(self, health: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                connection, sockaddr = health.accept()
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
            self._selector.register(
                connection, selectors.EVENT_READ, lambda number=number: self._on_question_untrusted(number)
            )

    def _on_question_untrusted(self, number: int) -> None:
        """A receipt id is answered; anything else closes the connection, on which version 1 says nothing."""
        entry = self._connections.get(number)
        if entry is None:  # a verdict in the same round of the loop has answered and closed it
            return
        try:
            # One byte more than is missing, so that whoever says too much is seen to.
            said = entry.socket.recv(RECEIPT_ID_SIZE + 1 - len(entry.said))
        except BlockingIOError:
            return
        except OSError:
            self._close_health(number)
            return
        if not said and len(entry.said) == RECEIPT_ID_SIZE:
            self._selector.unregister(entry.socket)  # it has said what it wants, and waits
            return
        entry.said += said
        if not said or len(entry.said) > RECEIPT_ID_SIZE:
            self._close_health(number)
            return
        now = time.monotonic()
        if len(entry.said) == RECEIPT_ID_SIZE and not self._answer(number, entry, now):
            # Its knock may still be on its way to the keeper.
            entry.deadline = min(entry.deadline, now + RECEIPT_PATIENCE)

    def _tell_who_waits(self, receipt_id: bytes) -> None:
        for number, entry in list(self._connections.items()):
            if entry.said == receipt_id:
                self._answer(number, entry, time.monotonic())

    def _answer(self, number: int, entry: _HealthConnection, now: float) -> bool:
        """Begin to say what there is to be said for this receipt id; False if there is nothing."""
        answer = self._receipts.answer(entry.said, now)
        if answer is None or entry.answer is not None:
            return entry.answer is not None
        with suppress(OSError):  # nothing waits
            entry.has_ended = not entry.socket.recv(1, socket.MSG_PEEK)
        entry.answer = memoryview(answer)
        if entry.socket in self._selector.get_map():
            self._selector.unregister(entry.socket)
        self._selector.register(entry.socket, selectors.EVENT_WRITE, lambda: self._on_writable(number))
        self._on_writable(number)
        return True

    def _on_writable(self, number: int) -> None:
        entry = self._connections[number]
        if entry.answer is not None:
            try:
                entry.answer = entry.answer[entry.socket.send(entry.answer) :]
            except BlockingIOError:
                return
            except OSError:
                entry.answer = None
        if entry.answer is None:
            self._close_health(number)
        elif not entry.answer:
            self._wait_for_end(number, entry)

    def _wait_for_end(self, number: int, entry: _HealthConnection) -> None:
        """All is said. The peer's end, without a reset, is its word that it has read that; it has the usual time.

        One that ended before it could read anything has given no such word.
        """
        self._selector.unregister(entry.socket)
        entry.deadline = time.monotonic() + HEALTH_SECONDS
        with suppress(OSError):
            entry.socket.shutdown(socket.SHUT_WR)
        self._selector.register(entry.socket, selectors.EVENT_READ, lambda: self._on_end_untrusted(number))

    def _on_end_untrusted(self, number: int) -> None:
        entry = self._connections[number]
        try:
            ended = not entry.socket.recv(1)
        except BlockingIOError:
            return
        except OSError:
            ended = False
        if ended and not entry.has_ended and (knock := self._receipts.knock_of(entry.said)) is not None:
            self._reporter.delivered(knock)
        self._close_health(number)

    def _close_health(self, number: int) -> None:
        entry = self._connections.pop(number)
        if entry.socket in self._selector.get_map():
            self._selector.unregister(entry.socket)
        entry.socket.close()
        self._per_address[entry.address] -= 1
        if not self._per_address[entry.address]:
            del self._per_address[entry.address]

    def _close_overdue(self, now: float) -> None:
        for number in [n for n, entry in self._connections.items() if entry.deadline <= now]:
            self._close_health(number)
