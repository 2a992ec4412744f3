"""The seam between listener and keeper: a socket pair that keeps message boundaries and carries nothing else."""

import contextlib
import socket
from collections.abc import Iterator

from openme.wire.frame import FRAME_SIZE, ORDER_SIZE


class ChannelClosedError(Exception):
    """The other side is gone, or has sent what it must not: nothing that follows can be trusted."""


def channel() -> tuple[socket.socket, socket.socket]:
    """The listener's end and the keeper's end; sequenced packets, non-blocking."""
    listener_end, keeper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (listener_end, keeper_end):
        end.setblocking(False)  # noqa: FBT003  # the standard library's signature
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return listener_end, keeper_end


def received(end: socket.socket, size: int, most: int) -> Iterator[bytes]:
    """Up to `most` waiting messages of exactly `size` bytes.

    ChannelClosedError at the end of the stream and for a message of another size. `recv` asks for no ancillary data,
    so descriptors that a hostile peer attaches are closed by the kernel unseen.
    """
    for _ in range(most):
        try:
            message = end.recv(size + 1)
        except BlockingIOError:
            return
        except ConnectionError:
            raise ChannelClosedError("closed") from None
        if len(message) != size:
            raise ChannelClosedError("closed" if not message else f"a message of {len(message)} bytes")
        yield message


def send(end: socket.socket, message: bytes) -> bool:
    """Send one message; False if the other side is too busy to take it. ChannelClosedError if it is gone."""
    try:
        end.send(message)
    except BlockingIOError:
        return False
    except ConnectionError:
        raise ChannelClosedError("closed") from None
    return True


__all__ = ["FRAME_SIZE", "ORDER_SIZE", "ChannelClosedError", "channel", "received", "send"]
