"""Sockets to one part of the kernel: requests, dumps, walks in steps; subscriptions to what changes (netlink(7))."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from openme.errors import FirewallError
from openme.netlink.codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Received,
    error_code,
    framed,
    split,
)
from openme.steps import Steps

TIMEVAL = struct.Struct("@ll")  # seconds, microseconds
KERNEL = 0
"""The port id of the kernel: any local process may send to a netlink socket, with another one."""
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10  # answers quote the header of the message they are about, not all of it

RECEIVE_BYTES = 1 << 17
DUMP_SECONDS = 5
ATTEMPTS = 4
REQUESTS_AT_ONCE = 50
"""So many requests and their answers fit into a socket's buffers as they are."""
MESSAGES_AT_ONCE = 64  # of a subscription that are read before others get their turn

T = TypeVar("T")


class NetlinkError(FirewallError):
    """The kernel refused, or did not answer; `errno` says why. `needs`: what a kernel lacks that cannot do it."""

    def __init__(self, code: int, doing: str, needs: str) -> None:
        hint = None
        if code in (errno.EPERM, errno.EACCES):
            hint = "run it as root, or give it CAP_NET_ADMIN"
        elif code in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            hint = f"the kernel needs {needs}"
        elif code == errno.ENOENT:
            hint = "something else removed openme's table, for instance `nft flush ruleset`: restart openme"
        super().__init__(f"{doing}: {os.strerror(code).lower()}", hint)
        self.errno = code


class Request(NamedTuple):
    """One request that stands for itself: whole message type, protocol header with attributes, `NLM_F_…` to add."""

    kind: int
    payload: bytes
    flags: int = 0


def _bound(protocol: int, groups: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


class Netlink:
    """A socket to one part of the kernel. It stays with the network namespace and the capabilities it was opened in.

    `peer` is what messages call that part, `needs` what a kernel lacks that has it not. The constructor raises
    NetlinkError when the kernel has no such sockets.
    """

    def __init__(self, protocol: int, peer: str, needs: str) -> None:
        self._peer = peer
        self._needs = needs
        try:
            self._socket = _bound(protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.pack(DUMP_SECONDS, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        except OSError as error:
            raise self._error(error.errno or errno.EIO, f"no netlink socket to {peer}") from error
        self._sequence = 0
        self._room = 0, 0
        self._buffer = bytearray(RECEIVE_BYTES)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __del__(self) -> None:
        # A firewall lasts as long as its process and has no end of its own in the protocol.
        if hasattr(self, "_socket"):
            self._socket.close()

    def request(self, requests: Sequence[Request]) -> list[int]:
        """Send requests, each of which is done or refused by itself: the errno of each, 0 for done."""
        codes: list[int] = []
        for start in range(0, len(requests), REQUESTS_AT_ONCE):
            codes += self._request_some(requests[start : start + REQUESTS_AT_ONCE])
        return codes

    def collect(self, kind: int, payload: bytes, keep: Callable[[bytes], T | None]) -> list[T]:
        """Ask for all objects of a kind (whole message type) and give back what `keep` makes of each, except None.

        A dump that a change has overtaken is asked for again. `keep` raises ValueError or struct.error for what it
        cannot read.
        """
        for _ in range(ATTEMPTS * 4):
            self._sequence += 1
            try:
                self._drain()
                self._send(framed(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, payload))
                kept = self._collected(keep)
            except BlockingIOError as error:
                raise self._error(errno.ETIMEDOUT, f"{self._peer} does not answer") from error
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise self._error(error.errno or errno.EIO, f"{self._peer} cannot be reached") from error
                continue
            except (ValueError, struct.error) as error:
                raise self._error(errno.EBADMSG, "the kernel's answer makes no sense") from error
            if kept is not None:
                return kept
        raise self._error(errno.EINTR, f"what {self._peer} holds changes too fast to be read")

    def walk(self, kind: int, payload: bytes, keep: Callable[[bytes], object]) -> Steps[bool]:
        """Show `keep` all objects of a kind, one receive (32 KiB of them) a step; returns whether they were all.

        They may not be where a change has overtaken the walk. Nothing waits here: the kernel makes the first part while
        it is asked, and each further part while one is received. One walk at a time on one socket; what an earlier one,
        given up on the way, has left is read first. `keep` raises ValueError or struct.error for what it cannot read.
        """
        self._sequence += 1
        whole = True
        try:
            while self._has_read_something():
                yield
            self._send(framed(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, payload))
            while True:
                for item in self._receive(socket.MSG_DONTWAIT):
                    if item.sequence != self._sequence:
                        continue
                    whole = whole and not item.flags & NLM_F_DUMP_INTR
                    if item.kind == NLMSG_ERROR:
                        raise self._error(self._code(item.payload) or errno.EBADMSG, f"{self._peer} cannot be read")
                    if item.kind == NLMSG_DONE:
                        return whole
                    if item.kind != NLMSG_NOOP:
                        keep(item.payload)
                yield
        except BlockingIOError as error:
            raise self._error(errno.ETIMEDOUT, f"{self._peer} does not answer") from error
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise self._error(error.errno or errno.EIO, f"{self._peer} cannot be reached") from error
            return False
        except (ValueError, struct.error) as error:
            raise self._error(errno.EBADMSG, "the kernel's answer makes no sense") from error

    def _error(self, code: int, doing: str) -> NetlinkError:
        return NetlinkError(code, doing, self._needs)

    def _request_some(self, requests: Sequence[Request]) -> list[int]:
        first = self._sequence + 1
        self._sequence += len(requests)
        try:
            self._drain()
            self._send(
                b"".join(
                    framed(item.kind, NLM_F_REQUEST | NLM_F_ACK | item.flags, number, item.payload)
                    for number, item in enumerate(requests, first)
                )
            )
            # The kernel works requests off within sendto, so that all answers are queued by now.
            answers = self._answers(first)
        except OSError as error:
            raise self._error(error.errno or errno.EIO, f"{self._peer} cannot be reached") from error
        if not all(number in answers for number in range(first, first + len(requests))):
            raise self._error(errno.EBADMSG, f"{self._peer} left a request unanswered")
        return [answers[number] for number in range(first, first + len(requests))]

    def _drain(self) -> None:
        """Throw away answers to what was given up."""
        while self._has_read_something():
            pass

    def _has_read_something(self) -> bool:
        try:
            self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        return True

    def _send(self, data: bytes) -> None:
        if self._socket.sendto(data, (0, 0)) != len(data):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))

    def _receive(self, flags: int) -> list[Received]:
        length, _, message_flags, sender = self._socket.recvmsg_into([self._buffer], 0, flags)
        if message_flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if sender[0] != KERNEL:
            return []
        try:
            return list(split(bytes(self._buffer[:length])))
        except ValueError as error:
            raise self._error(errno.EBADMSG, "the kernel's answer makes no sense") from error

    def _code(self, payload: bytes) -> int:
        try:
            return error_code(payload)
        except ValueError as error:
            raise self._error(errno.EBADMSG, "the kernel's answer makes no sense") from error

    def _answers(self, first: int) -> dict[int, int]:
        """Sequence number → errno (0: done) of everything that the kernel has answered."""
        answers: dict[int, int] = {}
        while True:
            try:
                received = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return answers
            for item in received:
                if item.kind == NLMSG_ERROR and item.sequence >= first:
                    # The opening message can be answered more than once; the first word on it counts.
                    answers.setdefault(item.sequence, self._code(item.payload))

    def _collected(self, keep: Callable[[bytes], T | None]) -> list[T] | None:
        """What is kept of the dump under way, None if it was overtaken by a change."""
        kept: list[T] = []
        interrupted = False
        while True:
            for item in self._receive(0):
                if item.sequence != self._sequence:
                    continue
                interrupted |= bool(item.flags & NLM_F_DUMP_INTR)
                if item.kind == NLMSG_ERROR:
                    raise self._error(self._code(item.payload) or errno.EBADMSG, f"{self._peer} cannot be read")
                if item.kind == NLMSG_DONE:
                    return None if interrupted else kept
                if item.kind != NLMSG_NOOP and (value := keep(item.payload)) is not None:
                    kept.append(value)


class Subscription:
    """Hears what the kernel tells some multicast groups, in the network namespace where it is made; never waits.

    `socket` becomes readable when there is something to read.
    """

    def __init__(self, protocol: int, groups: int) -> None:
        """`groups`: a bit each, group 1 the lowest. OSError where the kernel refuses."""
        self.socket = _bound(protocol, groups)
        self.socket.settimeout(0)
        self._buffer = bytearray(RECEIVE_BYTES)

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()

    def __del__(self) -> None:
        # It lasts as long as its process.
        if hasattr(self, "socket"):
            self.socket.close()

    def news(self) -> Iterator[bytes | None]:
        """What has come, one receive each, of some messages; None where something was lost, so that anything may have
        happened. It stops after a while, so that others get their turn.
        """
        for _ in range(MESSAGES_AT_ONCE):
            try:
                length, _, _, sender = self.socket.recvmsg_into([self._buffer])
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more happened than the buffer holds
                yield None
                continue
            if sender[0] == KERNEL:
                yield bytes(self._buffer[:length])
