"""Only the kernel is listened to: any process of this host may send to a netlink socket."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from openme.netlink.codec import NLMSG_DONE, NLMSG_ERROR, NLMSGERR_CODE, framed
from openme.netlink.sockets import Netlink

NETLINK_USERSOCK = 2  # between programs: everybody may send, no privilege needed
DONE = framed(NLMSG_ERROR, 0, 1, NLMSGERR_CODE.pack(0))


class Kernel:
    """A netlink socket whose answers come from a test."""

    def __init__(self, *answers: tuple[bytes, int]) -> None:
        self._answers = list(answers)

    def recvmsg_into(
        self, buffers: list[bytearray], _ancillary: int, flags: int
    ) -> tuple[int, list[object], int, tuple[int, int]]:
        if not self._answers:
            assert flags & socket.MSG_DONTWAIT
            raise BlockingIOError
        data, port = self._answers.pop(0)
        buffers[0][: len(data)] = data
        return len(data), [], 0, (port, 0)

    def recv_into(self, *_: object) -> int:
        raise BlockingIOError

    def sendto(self, data: bytes, _: object) -> int:
        return len(data)

    def close(self) -> None:
        pass


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with closing(Netlink(NETLINK_USERSOCK, "nobody", "nothing")) as made:
        yield made


def test_a_message_of_another_process_is_not_seen(netlink: Netlink) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK) as forger:
        forger.sendto(DONE, (netlink._socket.getsockname()[0], 0))
    assert netlink._receive(socket.MSG_DONTWAIT) == []
    with pytest.raises(BlockingIOError):
        netlink._receive(socket.MSG_DONTWAIT)  # it did arrive, and was taken away


def test_a_refusal_cannot_be_turned_into_a_yes_by_somebody_who_is_faster(netlink: Netlink) -> None:
    refusal = framed(NLMSG_ERROR, 0, 1, NLMSGERR_CODE.pack(-1))
    netlink._socket.close()
    netlink._socket = Kernel((DONE, 4711), (refusal, 0), (DONE, 4711))  # type: ignore[assignment]  # all that is asked of it
    assert netlink._answers(1) == {1: 1}


def test_a_list_cannot_be_ended_or_filled_by_another_process(netlink: Netlink) -> None:
    def row(value: int) -> bytes:
        return framed(0x100, 0, 1, struct.pack("=I", value))

    end = framed(NLMSG_DONE, 0, 1, bytes(4))
    netlink._socket.close()
    netlink._socket = Kernel((row(66), 4711), (end, 4711), (row(7), 0), (end, 0))  # type: ignore[assignment]
    assert netlink.collect(0x100, b"", lambda payload: struct.unpack("=I", payload)[0]) == [7]
