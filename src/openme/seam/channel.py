"""The seam between listener and keeper: a socket pair that keeps message boundaries and carries nothing else."""

import contextlib
import socket
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from openme.keys.erasing import wipe
from openme.seam.messages import Order, Sender, row_of, sizes_from

FRAME_SIZES = sizes_from(Sender.LISTENER)
ORDER_SIZES = sizes_from(Sender.KEEPER)
_BUFFER = 4 << 20  # bytes that may be under way: some hundred receipts
_SO_SNDBUFFORCE = 32  # socket(7): beyond the host's limit, needs CAP_NET_ADMIN
_MAX_WAITING = 4096  # orders


class ChannelClosedError(Exception):
    """The other side is gone, or has sent what it must not: nothing that follows can be trusted."""


def channel() -> tuple[socket.socket, socket.socket]:
    """The listener's end and the keeper's end; sequenced packets, non-blocking."""
    listener_end, keeper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (listener_end, keeper_end):
        end.setblocking(False)  # noqa: FBT003  # the standard library's signature
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        except OSError:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return listener_end, keeper_end


def received(end: socket.socket, sizes: Collection[int], most: int) -> Iterator[bytes]:
    """Up to `most` waiting messages, each of exactly one of these sizes.

    ChannelClosedError at the end of the stream and for a message of another size. `recv` asks for no ancillary data,
    so descriptors that a hostile peer attaches are closed by the kernel unseen.
    """
    for _ in range(most):
        try:
            message = _message(end, max(sizes) + 1)
        except BlockingIOError:
            return
        except ConnectionError:
            raise ChannelClosedError("closed") from None
        if len(message) not in sizes:
            raise ChannelClosedError("closed" if not message else f"a message of {len(message)} bytes")
        yield message


def _message(end: socket.socket, size: int) -> bytes:
    try:
        return end.recv(size)
    except ConnectionResetError:
        # The peer ended with messages of ours unread. That is told first, once; what it had said still waits behind it.
        return end.recv(size)


def send(end: socket.socket, message: bytes) -> bool:
    """Send one message; False if the other side is too busy to take it. ChannelClosedError if it is gone."""
    try:
        end.send(message)
    except BlockingIOError:
        return False
    except ConnectionError:
        raise ChannelClosedError("closed") from None
    return True


class Outbox:
    """Orders on their way to the listener. What it is too busy to take waits, and goes in its turn.

    When too much waits, knocks lose their receipts: the table says which orders may be lost; keys never are.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._waiting: deque[Order] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, orders: Iterable[Order]) -> None:
        """Send these behind those that wait. ChannelClosedError if the listener is gone."""
        group = list(orders)
        if len(self._waiting) >= _MAX_WAITING and all(row_of(type(order)).may_be_lost for order in group):
            for order in group:
                order.wipe()
            return
        self._waiting.extend(group)
        self.flush()

    def flush(self) -> None:
        """Send what the listener takes. Secrets are wiped once they are sent. ChannelClosedError as for `put`."""
        while self._waiting:
            order = self._waiting[0]
            message = order.pack()
            sent = send(self._end, message)
            wipe(message)
            if not sent:
                return
            order.wipe()
            self._waiting.popleft()

    def wipe(self) -> None:
        """Forget what waits, in a process that will not send it."""
        for order in self._waiting:
            order.wipe()


__all__ = ["FRAME_SIZES", "ORDER_SIZES", "ChannelClosedError", "Outbox", "channel", "received", "send"]
