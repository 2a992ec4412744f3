"""Answers on their way to those who asked over the control socket; nobody waits for one who does not read."""

import selectors
import socket
from collections import OrderedDict
from contextlib import suppress

MOST = 32
"""Answers that wait for their readers; beyond that the one that has waited longest is dropped."""


class Replies:
    """Sends what a requester's socket takes, and the rest when it takes more."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: OrderedDict[socket.socket, memoryview] = OrderedDict()

    def send(self, peer: socket.socket, answer: bytes) -> None:
        """Send an answer and close; whoever has hung up gets none. The socket is ours from here on."""
        peer.setblocking(False)  # noqa: FBT003  # the standard library's signature
        rest = _sent(peer, memoryview(answer))
        if not rest:
            _end(peer)
            return
        self._waiting[peer] = rest
        self._selector.register(peer, selectors.EVENT_WRITE, lambda: self._go_on(peer))
        if len(self._waiting) > MOST:
            self._drop(next(iter(self._waiting)))

    def close(self) -> None:
        """Drop what nobody has read."""
        while self._waiting:
            self._drop(next(iter(self._waiting)))

    def _go_on(self, peer: socket.socket) -> None:
        # Dropped in this very turn of the loop, its event may still be among those that are worked off.
        if peer in self._waiting:
            self._waiting[peer] = _sent(peer, self._waiting[peer])
            if not self._waiting[peer]:
                self._drop(peer)

    def _drop(self, peer: socket.socket) -> None:
        del self._waiting[peer]
        with suppress(KeyError, ValueError):
            self._selector.unregister(peer)
        _end(peer)


def _end(peer: socket.socket) -> None:
    """Let the asker see that this was all, also where a process that was forked meanwhile holds the socket too."""
    with suppress(OSError):
        peer.shutdown(socket.SHUT_WR)
    peer.close()


def _sent(peer: socket.socket, answer: memoryview) -> memoryview:
    """What is left to send; nothing where nobody is there."""
    try:
        while answer:
            answer = answer[peer.send(answer) :]
    except BlockingIOError:
        return answer
    except OSError:
        return answer[:0]
    return answer
