"""nf_tables over nfnetlink: batches that happen as a whole, dumps of what is there.

Structures from the kernel's `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`. Numbers in netlink headers
are in host order, numbers in nf_tables attributes in network order.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from openme.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, attributes, framed
from openme.netlink.sockets import ATTEMPTS, Netlink, NetlinkError

NFGENMSG = struct.Struct(">BBH")  # address family, version (0), resource id
NETLINK_NETFILTER = 12
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_UNSPEC = 0
NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

ANSWER_TRUESIZE = 2048
"""What one queued answer takes of the receive buffer, at most."""
SPARE_BUFFER = 1 << 16
NEEDS_NF_TABLES = "nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): try `modprobe nf_tables`"


class Message(NamedTuple):
    """One nf_tables request: `NFT_MSG_…` number, extra flags beside NLM_F_REQUEST, family, encoded attributes."""

    kind: int
    flags: int
    family: int
    attributes: bytes


class Row(NamedTuple):
    """One object of a dump."""

    family: int
    attributes: dict[int, bytes]


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
                    raise _refusal(error.errno or errno.EIO, "the firewall cannot be reached") from error
                room *= 4
                continue
            _check(answers, first, len(messages))
            return
        raise _refusal(errno.ENOBUFS, "the firewall's answers were lost")

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
        raise _refusal(refused[0], "the firewall refused the change")
    if not all(number in answers for number in range(first + 1, first + 1 + count)):
        raise _refusal(errno.EBADMSG, "the firewall left a change unanswered")


def _refusal(code: int, doing: str) -> NetlinkError:
    return NetlinkError(code, doing, NEEDS_NF_TABLES)


def _row(payload: bytes) -> Row:
    family, _, _ = NFGENMSG.unpack_from(payload)
    return Row(family, dict(attributes(payload[NFGENMSG.size :])))
