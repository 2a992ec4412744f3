"""Bytes go both ways until each has ended by itself: over pipes with splice(2), and over anything without it."""

import errno
import hashlib
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from openme.client import relaying
from openme.client.errors import BrokenError
from openme.client.relaying import relay

SECONDS = 30
BIG = 24 << 20  # far beyond what pipes and sockets hold
RESET = struct.pack("ii", 1, 0)


class Ends:
    """A relay in a thread of its own: `peer` at its connection, `write` and `read` where ssh would be."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.connection = stack.enter_context(socket.create_connection(listener.getsockname()))
        self.peer = listener.accept()[0]
        self.peer.settimeout(SECONDS)
        if kind == "sockets":
            pairs = [socket.socketpair(), socket.socketpair()]
            self.source, self.write = pairs[0][0].detach(), pairs[0][1].detach()
            self.read, self.sink = pairs[1][0].detach(), pairs[1][1].detach()
        else:
            self.source, self.write = os.pipe()
            self.read, self.sink = os.pipe()
        self._outer = {self.write, self.read}
        for own in (self.source, self.sink):
            stack.callback(os.close, own)
        self.problem: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        stack.callback(self.end)
        self.thread.start()

    def end(self) -> None:
        """Everybody else goes, whereupon the relay does."""
        for end in list(self._outer):
            self.close(end)
        self.peer.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        try:
            relay(self.connection, self.source, self.sink)
        except (BrokenError, OSError) as error:
            self.problem = error
        self.connection.close()

    def close(self, end: int) -> None:
        self._outer.discard(end)
        os.close(end)

    def ended(self) -> BaseException | None:
        """Why it has, if not in order."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self.problem

    def says(self, data: bytes) -> None:
        """What ssh writes."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.write, rest) :]

    def hears(self, size: int) -> bytes:
        """What ssh reads; fewer bytes at the end."""
        parts = []
        while size:
            assert select.select([self.read], [], [], SECONDS)[0], "nothing came"
            if not (part := os.read(self.read, size)):
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def heard_by_peer(peer: socket.socket, size: int) -> bytes:
    parts = []
    while size and (part := peer.recv(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@pytest.fixture(params=["pipes", "pipes without splice", "sockets"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    used: list[str] = []
    for name in ("_splice", "_copy"):
        monkeypatch.setattr(relaying, name, noting(getattr(relaying, name), name, used))
    if request.param == "pipes without splice":
        monkeypatch.delattr(os, "splice")
    with ExitStack() as stack:
        yield Ends(stack, request.param)
    assert used == ["_splice" if request.param == "pipes" else "_copy"]


def noting(function: Callable[..., None], name: str, used: list[str]) -> Callable[..., None]:
    def noted(*arguments: Any) -> None:
        used.append(name)
        function(*arguments)

    return noted


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_what_is_written_arrives_at_once_both_ways(ends: Ends) -> None:
    for word in (b"a", b"bc", b"d" * 1000):
        ends.says(word)
        assert heard_by_peer(ends.peer, len(word)) == word
        ends.peer.sendall(word[::-1])
        assert ends.hears(len(word)) == word[::-1]
    ends.close(ends.write)
    assert ends.peer.recv(1) == b""
    ends.peer.close()
    assert ends.hears(1) == b""
    assert ends.ended() is None


def test_our_end_is_told_and_the_answer_still_comes(ends: Ends) -> None:
    ends.says(b"question")
    ends.close(ends.write)
    assert heard_by_peer(ends.peer, 100) == b"question"
    ends.peer.sendall(b"answer")
    ends.peer.close()
    assert ends.hears(100) == b"answer"
    assert ends.ended() is None


def test_the_peers_end_is_told_and_what_we_say_still_goes(ends: Ends) -> None:
    ends.peer.sendall(b"welcome")
    ends.peer.shutdown(socket.SHUT_WR)
    assert ends.hears(100) == b"welcome"
    ends.says(b"late")
    assert heard_by_peer(ends.peer, 4) == b"late"
    ends.close(ends.write)
    assert ends.peer.recv(1) == b""
    assert ends.ended() is None


def test_much_goes_both_ways_at_once_and_nothing_is_lost(ends: Ends) -> None:
    chance = random.Random(1)
    ours, theirs = (chance.randbytes(BIG) for _ in range(2))
    found: dict[str, bytes] = {}
    threads = [
        in_thread(lambda: ends.says(ours)),
        in_thread(lambda: ends.peer.sendall(theirs)),
        in_thread(lambda: found.update(peer=heard_by_peer(ends.peer, BIG))),
        in_thread(lambda: found.update(us=ends.hears(BIG))),
    ]
    for thread in threads:
        thread.join(SECONDS)
    digests = {who: hashlib.sha256(data).digest() for who, data in found.items()}
    assert digests == {"peer": hashlib.sha256(ours).digest(), "us": hashlib.sha256(theirs).digest()}


def test_a_reader_that_stops_does_not_stop_the_other_way(ends: Ends) -> None:
    """Nobody reads what the peer sends, until all is full; what we send arrives, byte for byte."""
    fill(ends.peer)
    for _ in range(100):
        ends.says(b"x")
        assert ends.peer.recv(10) == b"x"
    ends.close(ends.write)
    assert ends.peer.recv(10) == b""


def test_a_peer_that_stops_reading_does_not_stop_the_other_way(ends: Ends) -> None:
    fill_write(ends)
    for _ in range(100):
        ends.peer.sendall(b"x")
        assert ends.hears(1) == b"x"


def fill_write(ends: Ends) -> None:
    """Write until all is full: the peer's buffer, ours, the pipe."""
    os.set_blocking(ends.write, False)
    waiting = select.poll()
    waiting.register(ends.write, select.POLLOUT)
    while waiting.poll(500):
        with suppress(BlockingIOError):
            os.write(ends.write, bytes(1 << 16))


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken; how much was."""
    sent = 0
    waiting = select.poll()
    waiting.register(sock, select.POLLOUT)
    while waiting.poll(500):
        with suppress(BlockingIOError):
            sent += sock.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    return sent


def test_all_that_was_on_the_way_arrives_after_the_peers_end(ends: Ends) -> None:
    size = fill(ends.peer)
    ends.peer.shutdown(socket.SHUT_WR)
    assert len(ends.hears(size + 1)) == size
    ends.close(ends.write)
    assert ends.ended() is None


def test_a_peer_that_resets_is_told_from_one_that_ends(ends: Ends) -> None:
    ends.peer.sendall(b"last words")
    assert ends.hears(10) == b"last words"
    ends.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    ends.peer.close()
    problem = ends.ended()
    assert isinstance(problem, BrokenError)
    assert problem.message == f"the connection broke: {os.strerror(errno.ECONNRESET)}"


def test_what_came_before_a_reset_is_not_lost(ends: Ends) -> None:
    """The reader is slow: when the peer cuts the connection off, much of what it has sent is still on the way to us."""
    size = 1 << 16
    ends.peer.sendall(bytes(size))
    ends.says(b"y" * 1000)
    ends.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    assert select.select([ends.read], [], [], SECONDS)[0]
    ends.peer.close()
    assert len(ends.hears(size)) == size
    assert isinstance(ends.ended(), BrokenError)


def test_a_peer_that_has_ended_for_good_is_no_broken_connection(ends: Ends) -> None:
    """It has closed the socket, so that what we say later is answered by a reset: it had ended in order before."""
    ends.peer.sendall(b"bye")
    ends.peer.close()
    assert ends.hears(100) == b"bye"
    ends.says(b"and another thing")
    ends.close(ends.write)
    assert ends.ended() is None


def test_nor_is_it_one_where_its_end_is_still_on_the_way_when_it_refuses_what_we_say(ends: Ends) -> None:
    size = 100_000  # more than a pipe holds, and less than a pipe and a socket
    ends.peer.sendall(bytes(size))
    ends.peer.close()
    for _ in range(3):
        ends.says(b"x")
        select.select([], [], [], 0.02)
    assert len(ends.hears(size)) == size
    ends.close(ends.write)
    assert ends.ended() is None


class Cut:
    """A connection whose reset is told to whoever sends, so that who reads sees an end like any other."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def setblocking(self, _blocking: bool) -> None:  # noqa: FBT001
        pass

    def sendall(self, _data: bytes) -> None:
        self._told.set()
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    def recv(self, _size: int) -> bytes:
        assert self._told.wait(SECONDS)
        return b""


def test_a_reset_that_only_the_sender_hears_of_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "splice")
    (source, write), (read, sink) = os.pipe(), os.pipe()
    try:
        os.write(write, b"x")
        with pytest.raises(BrokenError, match="Connection reset by peer"):
            relay(Cut(), source, sink)  # type: ignore[arg-type]
        assert os.read(read, 1) == b"", "the end of what came"
    finally:
        for end in (source, write, read, sink):
            os.close(end)


def test_a_reader_that_goes_and_leaves_something_unread_is_no_broken_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A socket tells whoever is just writing to it of a reset, and not that nobody reads."""

    def reset(_end: int, _data: object) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    own, peer = socket.socketpair()
    source, write = os.pipe()
    sink, _other = socket.socketpair()
    monkeypatch.setattr(relaying, "os", SimpleNamespace(**(vars(os) | {"write": reset})))
    with own, peer, sink, _other:
        peer.sendall(b"x")
        relay(own, source, sink.fileno())
        os.close(write)
        assert peer.recv(1) == b"", "the relay's other thread has seen the end"
    os.close(source)


def test_without_a_reader_it_ends(ends: Ends) -> None:
    ends.close(ends.read)
    with suppress(OSError):
        while ends.thread.is_alive():
            ends.peer.sendall(bytes(1000))
    assert ends.ended() is None


def test_over_pipes_it_ends_with_its_reader_though_the_peer_says_nothing() -> None:
    """As when ssh is killed."""
    with ExitStack() as stack:
        ends = Ends(stack, "pipes")
        ends.close(ends.read)
        assert ends.ended() is None
        assert ends.peer.recv(1) == b""


# -- that the loop waits: poll(2) reports an end for as long as it is asked about


class Counted:
    """poll(2), counted."""

    calls = 0

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self) -> list[tuple[int, int]]:
        Counted.calls += 1
        return self._poll.poll()


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    named = {name: getattr(select, name) for name in ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP")}
    monkeypatch.setattr(relaying, "select", SimpleNamespace(poll=Counted, **named))
    with ExitStack() as stack:
        yield Ends(stack, "pipes")


def is_calm() -> bool:
    """Whether nothing happens while nothing happens; one that spins asks many thousand times."""
    before = Counted.calls
    select.select([], [], [], 0.2)
    return Counted.calls - before < 10


def test_it_is_calm_after_either_end(piped: Ends) -> None:
    piped.peer.shutdown(socket.SHUT_WR)
    assert piped.hears(1) == b""
    assert is_calm()
    piped.says(b"x")
    assert piped.peer.recv(1) == b"x"
    assert is_calm()


def test_it_is_calm_after_our_end(piped: Ends) -> None:
    piped.close(piped.write)
    assert piped.peer.recv(1) == b""
    assert is_calm()


def test_it_is_calm_while_a_way_is_full_whose_other_end_is_gone(piped: Ends) -> None:
    fill(piped.peer)
    piped.close(piped.write)
    assert piped.peer.recv(1) == b""
    assert is_calm()
    piped.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    piped.peer.close()
    assert is_calm()


def test_it_is_calm_while_we_have_ended_and_the_peer_does_not_read(piped: Ends) -> None:
    fill_write(piped)
    piped.close(piped.write)
    assert is_calm()


def test_a_reset_ends_it_while_we_say_nothing(piped: Ends) -> None:
    piped.peer.shutdown(socket.SHUT_WR)
    assert piped.hears(1) == b""
    piped.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    piped.peer.close()
    assert piped.ended() is None
