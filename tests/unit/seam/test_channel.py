"""The seam: messages of one size, and nothing else gets through."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from openme.seam.channel import FRAME_SIZES, ChannelClosedError, channel, received, send
from openme.seam.messages import FRAME_SIZE, ORDER_SIZE


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener, keeper = channel()
    with listener, keeper:
        yield listener, keeper


def test_messages_arrive_whole_and_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    messages = [bytes([number]) * FRAME_SIZE for number in range(5)]
    assert all(send(ends[0], message) for message in messages)
    assert list(received(ends[1], FRAME_SIZES, 3)) == messages[:3]
    assert list(received(ends[1], FRAME_SIZES, 3)) == messages[3:]


def test_nothing_waiting_is_nothing_received(ends: tuple[socket.socket, socket.socket]) -> None:
    assert list(received(ends[1], FRAME_SIZES, 64)) == []


@pytest.mark.parametrize("size", [1, FRAME_SIZE - 1, FRAME_SIZE + 1, 10 * FRAME_SIZE, ORDER_SIZE])
def test_a_message_of_another_size_ends_the_channel(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    send(ends[0], bytes(FRAME_SIZE))
    send(ends[0], bytes(size))
    arrivals = received(ends[1], FRAME_SIZES, 64)
    assert next(arrivals) == bytes(FRAME_SIZE)
    with pytest.raises(ChannelClosedError):
        next(arrivals)


def test_an_empty_message_ends_the_channel(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].send(b"")
    with pytest.raises(ChannelClosedError):
        list(received(ends[1], FRAME_SIZES, 64))


def test_the_end_of_either_side_is_told_to_the_other(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].close()
    with pytest.raises(ChannelClosedError):
        list(received(ends[1], FRAME_SIZES, 64))
    with pytest.raises(ChannelClosedError):
        send(ends[1], bytes(ORDER_SIZE))


def test_a_side_that_does_not_read_makes_the_other_drop_and_not_wait(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    sent = 0
    while send(ends[0], bytes(FRAME_SIZE)):
        sent += 1
        assert sent < 1_000_000
    assert sent > 10
    assert len(list(received(ends[1], FRAME_SIZES, sent + 10))) == sent


def test_descriptors_that_are_sent_along_never_arrive(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = os.pipe()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer]))]
        ends[0].sendmsg([bytes(FRAME_SIZE)], rights)
    assert len(list(received(ends[1], FRAME_SIZES, 64))) == 20
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(reader)
    os.close(writer)
