"""Carrying bytes between a connection and two descriptors of this process, both ways, until each has ended by itself.

Where both descriptors are pipes and the system has splice(2), as for the ProxyCommand of ssh on Linux, the bytes stay
in the kernel and one loop serves both ways. Anywhere else one way has a thread: Windows cannot wait for a pipe, and a
terminal's or a file's descriptor, which others share, must not be made one that never blocks.
"""

import errno
import os
import select
import socket
import stat
from contextlib import suppress

from openme.client.errors import BrokenError

_SPLICED, _COPIED = 1 << 20, 1 << 18
"""Bytes that are moved at once, at most; a pipe takes 64 KiB unless somebody has made it larger."""


def relay(connection: socket.socket, source: int, sink: int) -> None:
    """Carry what `source` gives to the peer, and what the peer sends to `sink`.

    Either end is passed on as such while the other way goes on: the peer gets a FIN, and `sink` becomes a descriptor
    of /dev/null, so that whoever reads there sees the end. Returns once both have ended, and also when nobody reads the
    sink any more. BrokenError if the connection ends otherwise, after all that came before has been written.
    """
    if hasattr(os, "splice") and all(stat.S_ISFIFO(os.fstat(end).st_mode) for end in (source, sink)):
        _splice(connection, source, sink)
    else:
        _copy(connection, source, sink)


class _Way:
    """One direction; `is_full` while it waits for room at its sink, and not for what its source has."""

    __slots__ = ("is_full", "is_open", "sink", "source")

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        self.is_open, self.is_full = True, False

    def wait(self) -> tuple[int, int]:
        """The descriptor that it waits for, and the event of poll(2)."""
        return (self.sink, select.POLLOUT) if self.is_full else (self.source, select.POLLIN)

    def move(self) -> bool:
        """Move what there is; False at the source's end. EAGAIN does not say of which end: the other is asked next."""
        try:
            return os.splice(self.source, self.sink, _SPLICED, flags=os.SPLICE_F_NONBLOCK) > 0
        except BlockingIOError:
            self.is_full = not self.is_full
            return True


def _splice(connection: socket.socket, source: int, sink: int) -> None:
    """See `relay`; SPLICE_F_NONBLOCK keeps the pipes from blocking, whose own flag others may share."""
    connection.setblocking(False)  # noqa: FBT003  # the standard library's signature
    peer = connection.fileno()
    up, down = _Way(source, peer), _Way(peer, sink)
    poll, waiting = select.poll(), dict[int, int]()
    is_gone, failure = False, 0
    while up.is_open or down.is_open:
        # That the reader or the peer is gone is told unasked, and again and again: each is asked for until it is known.
        wanted = {} if is_gone else {peer: 0}
        if down.is_open:
            wanted[sink] = 0
        for way in (up, down):
            if way.is_open:
                end, event = way.wait()
                wanted[end] = wanted.get(end, 0) | event
        for end in waiting.keys() - wanted.keys():
            poll.unregister(end)
        for end, events in wanted.items():
            if waiting.get(end) != events:
                poll.register(end, events)
        waiting = wanted
        ready = dict(poll.poll())
        if down.is_open and ready.get(sink, 0) & select.POLLERR:
            return
        if not is_gone and ready.get(peer, 0) & (select.POLLERR | select.POLLHUP):
            is_gone, up.is_open = True, False
            failure = failure or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if up.is_open and _has_come(up, ready):
            try:
                up.is_open = up.move()
            except OSError as error:
                up.is_open, failure = False, error.errno or 0
            else:
                if not up.is_open:
                    _shut(connection)
        if down.is_open and _has_come(down, ready):
            try:
                down.is_open = down.move()
            except BrokenPipeError:
                return
            except OSError as error:
                raise _broken(error.errno or 0) from None
            if not down.is_open:
                _end(sink)
                if _is_broken(failure):
                    raise _broken(failure)


def _has_come(way: _Way, ready: dict[int, int]) -> bool:
    """Whether what it waits for has, or will not any more: that its source has ended, or its sink."""
    end, event = way.wait()
    return bool(ready.get(end, 0) & (event | select.POLLERR | select.POLLHUP))


def _copy(connection: socket.socket, source: int, sink: int) -> None:
    """See `relay`; that the peer has gone after its own end is only noticed with the next byte for it."""
    import threading  # noqa: PLC0415  # the loop above does without

    failures: list[int] = []

    def carry_up() -> None:
        with suppress(OSError):  # of a terminal that is gone: its end
            while data := os.read(source, _COPIED):
                try:
                    connection.sendall(data)
                except OSError as error:
                    failures.append(error.errno or 0)
                    return
        _shut(connection)

    connection.setblocking(True)  # noqa: FBT003  # the standard library's signature
    thread = threading.Thread(target=carry_up, daemon=True)
    thread.start()
    while True:
        try:
            data = connection.recv(_COPIED)
        except OSError as error:
            raise _broken(error.errno or 0) from None
        if not data:
            break
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(sink, rest) :]
        except ConnectionError:  # a socket with something unread in it is not closed, but reset
            return
    _end(sink)
    if any(map(_is_broken, failures)):
        raise _broken(failures[0])
    thread.join()


def _shut(connection: socket.socket) -> None:
    """Tell the peer that nothing more comes; one that is gone need not be told."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _end(sink: int) -> None:
    """Let the sink's reader see the end; its number stays taken, so that nothing else that is opened gets it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sink)
    os.close(null)


def _is_broken(failure: int) -> bool:
    """Whether the peer has cut the connection off: EPIPE says that it had ended it, and wants nothing more."""
    return failure not in {0, errno.EPIPE}


def _broken(failure: int) -> BrokenError:
    return BrokenError(f"the connection broke: {os.strerror(failure)}")
