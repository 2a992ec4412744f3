"""Netlink (`Netlink`: requests and dumps), and nfnetlink for nf_tables (`NfNetlink`: batches that happen as a whole).

Structures from the kernel's `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`. Numbers
in netlink headers are in host order, numbers in nf_tables attributes in network order.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from openme.firewall.base import FirewallError, Steps

NLMSGHDR = struct.Struct("=IHHII")  # length with this header, type, flags, sequence number, port id
NFGENMSG = struct.Struct(">BBH")  # address family, version (0), resource id
NLATTR = struct.Struct("=HH")  # length with this header, type and its two flag bits
NLMSGERR_CODE = struct.Struct("=i")  # zero or a negative errno; the header of the message it answers follows
TIMEVAL = struct.Struct("@ll")  # seconds, microseconds
ALIGNMENT = 4
MAX_ATTRIBUTE = 0xFFFF

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10  # answers quote the header of the message they are about, not all of it
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_UNSPEC = 0
NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10

RECEIVE_BYTES = 1 << 17
ANSWER_TRUESIZE = 2048
"""What one queued answer takes of the receive buffer, at most."""
SPARE_BUFFER = 1 << 16
DUMP_SECONDS = 5
ATTEMPTS = 4
REQUESTS_AT_ONCE = 50
"""So many requests and their answers fit into a socket's buffers as they are."""
NEEDS_NF_TABLES = "nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): try `modprobe nf_tables`"

T = TypeVar("T")


class NetlinkError(FirewallError):
    """The kernel refused, or did not answer; `errno` says why. `needs`: what a kernel lacks that cannot do it."""

    def __init__(self, code: int, doing: str, needs: str = NEEDS_NF_TABLES) -> None:
        hint = None
        if code in (errno.EPERM, errno.EACCES):
            hint = "run it as root, or give it CAP_NET_ADMIN"
        elif code in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            hint = f"the kernel needs {needs}"
        elif code == errno.ENOENT:
            hint = "something else removed openme's table, for instance `nft flush ruleset`: restart openme"
        super().__init__(f"{doing}: {os.strerror(code).lower()}", hint)
        self.errno = code


class Message(NamedTuple):
    """One nf_tables request: `NFT_MSG_…` number, extra flags beside NLM_F_REQUEST, family, encoded attributes."""

    kind: int
    flags: int
    family: int
    attributes: bytes


class Request(NamedTuple):
    """One request that stands for itself: whole message type, protocol header and attributes."""

    kind: int
    payload: bytes


class Row(NamedTuple):
    """One object of a dump."""

    family: int
    attributes: dict[int, bytes]


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to the next multiple of four."""
    length = NLATTR.size + len(payload)
    if length > MAX_ATTRIBUTE:
        raise ValueError(f"a netlink attribute holds {MAX_ATTRIBUTE} bytes at most, not {length}")
    return NLATTR.pack(length, kind) + payload + bytes(-length % ALIGNMENT)


def nested(kind: int, payload: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, payload)


def string(kind: int, text: str) -> bytes:
    """An attribute that holds a name, ended by a zero byte."""
    return attribute(kind, text.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type (flag bits taken off) and payload of each attribute. ValueError when the lengths do not add up."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < NLATTR.size:
            raise ValueError("netlink attributes end in the middle of a header")
        length, kind = NLATTR.unpack_from(data, offset)
        if not NLATTR.size <= length <= len(data) - offset:
            raise ValueError("a netlink attribute is longer than what holds it")
        yield kind & NLA_TYPE_MASK, data[offset + NLATTR.size : offset + length]
        offset += length + -length % ALIGNMENT


def framed(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A whole netlink message; the payload is aligned already."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(payload), kind, flags, sequence, 0) + payload


def message(kind: int, flags: int, sequence: int, family: int, *, resource: int = 0, payload: bytes = b"") -> bytes:
    """A whole netlink message with its nfgenmsg header."""
    return framed(kind, flags, sequence, NFGENMSG.pack(family, 0, resource) + payload)


def batch(messages: Sequence[Message], first: int) -> bytes:
    """The messages as one transaction. The opening message has sequence number `first`, the others follow it by one."""
    parts = [message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, NFPROTO_UNSPEC, resource=NFNL_SUBSYS_NFTABLES)]
    for number, item in enumerate(messages, first + 1):
        kind = NFNL_SUBSYS_NFTABLES << 8 | item.kind
        parts.append(
            message(kind, NLM_F_REQUEST | NLM_F_ACK | item.flags, number, item.family, payload=item.attributes)
        )
    end = first + len(messages) + 1
    parts.append(message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, NFPROTO_UNSPEC, resource=NFNL_SUBSYS_NFTABLES))
    return b"".join(parts)


class _Received(NamedTuple):
    kind: int
    flags: int
    sequence: int
    payload: bytes


class Netlink:
    """A socket to one part of the kernel. It stays with the network namespace and the capabilities it was opened in.

    `peer` is what messages call that part, `needs` what a kernel lacks that has it not. The constructor raises
    NetlinkError when the kernel has no such sockets.
    """

    def __init__(self, protocol: int, peer: str, needs: str) -> None:
        self._peer = peer
        self._needs = needs
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
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
                        raise self._error(_error_code(item.payload) or errno.EBADMSG, f"{self._peer} cannot be read")
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
                    framed(item.kind, NLM_F_REQUEST | NLM_F_ACK, number, item.payload)
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

    def _receive(self, flags: int) -> list[_Received]:
        length, _, message_flags, sender = self._socket.recvmsg_into([self._buffer], 0, flags)
        if message_flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        # Any local process may send to a netlink socket; port id 0 is the kernel alone.
        if sender[0] != 0:
            return []
        try:
            return list(_split(bytes(self._buffer[:length])))
        except ValueError as error:
            raise NetlinkError(errno.EBADMSG, "the kernel's answer makes no sense") from error

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
                    answers.setdefault(item.sequence, _error_code(item.payload))

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
                    raise self._error(_error_code(item.payload) or errno.EBADMSG, f"{self._peer} cannot be read")
                if item.kind == NLMSG_DONE:
                    return None if interrupted else kept
                if item.kind != NLMSG_NOOP and (value := keep(item.payload)) is not None:
                    kept.append(value)


class NfNetlink(Netlink):
    """A socket to nf_tables."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, "the firewall", NEEDS_NF_TABLES)

    def transact(self, messages: Sequence[Message]) -> None:
        """Send one batch and read every answer. NetlinkError: the kernel took none of it.

        Batches must bear being done twice: one whose answers were lost (ENOBUFS) is sent again.
        """
        if not messages:
            return
        room = len(messages) * ANSWER_TRUESIZE + SPARE_BUFFER
        for _ in range(ATTEMPTS):
            first = self._sequence + 1
            self._sequence += len(messages) + 2
            data = batch(messages, first)
            try:
                self._make_room(len(data), room)
                self._send(data)
                # The kernel works a batch off within sendto, so that all answers are queued by now.
                answers = self._answers(first)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError(error.errno or errno.EIO, "the firewall cannot be reached") from error
                room *= 4
                continue
            _check(answers, first, len(messages))
            return
        raise NetlinkError(errno.ENOBUFS, "the firewall's answers were lost")

    def dump(self, kind: int, family: int, request: bytes = b"") -> list[Row]:
        """All objects of a kind (`NFT_MSG_GET…`), as they were at one moment. NetlinkError: ENOENT for no parent."""
        return self.collect(NFNL_SUBSYS_NFTABLES << 8 | kind, NFGENMSG.pack(family, 0, 0) + request, _row)

    def _make_room(self, sending: int, receiving: int) -> None:
        # Without the privilege the batch itself is going to say so.
        with suppress(PermissionError):
            if sending + SPARE_BUFFER > self._room[0]:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, sending + SPARE_BUFFER)
            if receiving > self._room[1]:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receiving)
        self._room = max(self._room[0], sending + SPARE_BUFFER), max(self._room[1], receiving)


def _check(answers: dict[int, int], first: int, count: int) -> None:
    """NetlinkError unless every message of the batch was done."""
    refused = [code for _, code in sorted(answers.items()) if code]
    if refused:
        raise NetlinkError(refused[0], "the firewall refused the change")
    if not all(number in answers for number in range(first + 1, first + 1 + count)):
        raise NetlinkError(errno.EBADMSG, "the firewall left a change unanswered")


def _split(data: bytes) -> Iterator[_Received]:
    offset = 0
    while offset < len(data):
        if len(data) - offset < NLMSGHDR.size:
            raise ValueError("netlink messages end in the middle of a header")
        length, kind, flags, sequence, _ = NLMSGHDR.unpack_from(data, offset)
        if not NLMSGHDR.size <= length <= len(data) - offset:
            raise ValueError("a netlink message is longer than what was received")
        yield _Received(kind, flags, sequence, data[offset + NLMSGHDR.size : offset + length])
        offset += length + -length % ALIGNMENT


def _error_code(payload: bytes) -> int:
    if len(payload) < NLMSGERR_CODE.size:
        raise NetlinkError(errno.EBADMSG, "the kernel's answer makes no sense")
    code: int = NLMSGERR_CODE.unpack_from(payload)[0]
    return -code


def _row(payload: bytes) -> Row:
    family, _, _ = NFGENMSG.unpack_from(payload)
    return Row(family, dict(attributes(payload[NFGENMSG.size :])))
