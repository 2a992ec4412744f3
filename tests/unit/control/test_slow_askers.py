"""Answers leave as their readers take them; a reader who does not read holds nobody up."""

import selectors
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from openme.control.slow_askers import MOST, Replies

LONG = bytes(range(256)) * 40_000


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    return ours, theirs


def turn(selector: selectors.BaseSelector) -> None:
    for key, _ in selector.select(0):
        key.data()


def test_a_short_answer_is_sent_at_once(selector: selectors.BaseSelector) -> None:
    ours, theirs = pair()
    Replies(selector).send(ours, b"answer")
    with closing(theirs):
        assert theirs.recv(100) + theirs.recv(100) == b"answer"
    assert not selector.get_map()
    assert ours.fileno() == -1


@pytest.mark.parametrize("answer", [b"answer", LONG], ids=["short", "long"])
def test_an_answer_ends_for_its_reader_though_another_process_holds_the_socket_too(
    selector: selectors.BaseSelector, answer: bytes
) -> None:
    """As one does that was forked meanwhile, to read a large config."""
    ours, theirs = pair()
    with closing(theirs), ours.dup():
        replies = Replies(selector)
        replies.send(ours, answer)
        received = bytearray()
        while len(received) < len(answer):
            turn(selector)
            received += theirs.recv(1 << 20)
        turn(selector)
        assert theirs.recv(1) == b""
        assert received == answer


def test_a_long_answer_goes_as_it_is_read(selector: selectors.BaseSelector) -> None:
    ours, theirs = pair()
    replies = Replies(selector)
    replies.send(ours, LONG)
    received = bytearray()
    theirs.settimeout(0)
    with closing(theirs):
        while len(received) < len(LONG):
            turn(selector)
            with suppress(BlockingIOError):
                received += theirs.recv(1 << 20)
        turn(selector)
        assert received == LONG
        assert theirs.recv(1) == b""
    assert not selector.get_map()


def test_one_who_has_hung_up_is_forgotten(selector: selectors.BaseSelector) -> None:
    replies = Replies(selector)
    ours, theirs = pair()
    theirs.close()
    replies.send(ours, b"answer")
    assert ours.fileno() == -1
    ours, theirs = pair()
    replies.send(ours, LONG)
    theirs.close()
    turn(selector)
    assert ours.fileno() == -1
    assert not selector.get_map()


def test_those_who_never_read_are_few(selector: selectors.BaseSelector) -> None:
    replies = Replies(selector)
    pairs = [pair() for _ in range(MOST + 3)]
    for ours, _ in pairs:
        replies.send(ours, LONG)
    assert [ours.fileno() == -1 for ours, _ in pairs] == [True] * 3 + [False] * MOST
    replies.close()
    assert not selector.get_map()
    assert all(ours.fileno() == -1 for ours, _ in pairs)
    for _, theirs in pairs:
        theirs.close()
