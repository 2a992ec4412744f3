"""Sessions from before the first rule: the connection table is told of them, so that hiding their ports cuts none.

A host whose rules do not look at connections does not track them either. Our rules switch tracking on, and to it a
session that has been there all along is news: its next packet from the client would be one of a new connection to a
hidden port. The sockets tell what is established; for each an entry is made (ctnetlink), as conntrackd does.

It is done right after the rules are in force, from when on every new connection is tracked by itself. What a client has
sent in between was dropped, and TCP sends it again.
"""

import logging
import socket
from collections.abc import Iterable
from contextlib import closing

from openme.firewall.base import FirewallError
from openme.firewall.connections import (
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    FAMILIES,
    IDENTITY,
    IDENTITY_AT,
    NEEDS_SOCKETS,
    NETLINK_SOCK_DIAG,
    NFNL_SUBSYS_CTNETLINK,
    REQUEST,
    SOCK_DIAG_BY_FAMILY,
    Ends,
    socket_ends,
)
from openme.firewall.nfnetlink import (
    NETLINK_NETFILTER,
    NFGENMSG,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    Netlink,
    attribute,
    framed,
    nested,
)
from openme.ports import PortRange

_IPCTNL_MSG_CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
_NLM_F_EXCL = 0x200
_CTA_STATUS = 3
_CTA_TIMEOUT = 7
_CTA_PROTOINFO_TCP_FLAGS = (4, 5)  # of the two directions
_IPS_SEEN_REPLY_ASSURED_CONFIRMED = 0x02 | 0x04 | 0x08
_TCP_CONNTRACK_ESTABLISHED = 3
_BE_LIBERAL = 0x08  # nobody has seen the handshake, so that the windows are not known
_FIVE_DAYS = 432_000  # seconds, the kernel's own time for an established connection
_TCP_ESTABLISHED, _TCP_CLOSE_WAIT = 1, 8
_MOST = 10_000

_log = logging.getLogger("openme.server")


def track_earlier_sessions(ports: Iterable[PortRange]) -> None:
    """Enter the established TCP sessions to these ports into the connection table, where they are not in it yet.

    Needs CAP_NET_ADMIN. What the kernel lacks for it is said in a warning.
    """
    wanted = tuple(item for item in ports if item.proto == "tcp")
    try:
        sessions = {ends for family in (socket.AF_INET, socket.AF_INET6) for ends in _established(family, wanted)}
        _enter(list(sessions)[:_MOST])
    except (FirewallError, OSError) as error:
        _log.warning("sessions from before this start may stall, the kernel does not tell of them: %s", error)


def _established(family: int, ports: tuple[PortRange, ...]) -> list[Ends]:
    def keep(payload: bytes) -> Ends | None:
        ends = socket_ends(payload[0], payload[IDENTITY_AT : IDENTITY_AT + IDENTITY.size])
        number = int.from_bytes(ends[1], "big")
        return ends if any(item.first <= number <= item.last for item in ports) else None

    sockets = Netlink(NETLINK_SOCK_DIAG, "the socket table", NEEDS_SOCKETS)
    with closing(sockets):
        states = 1 << _TCP_ESTABLISHED | 1 << _TCP_CLOSE_WAIT
        request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + bytes(IDENTITY.size)
        return sockets.collect(SOCK_DIAG_BY_FAMILY, request, keep)


def _enter(sessions: list[Ends]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as table:
        table.bind((0, 0))
        table.settimeout(1)
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | _NLM_F_EXCL
        for number, ends in enumerate(sessions, 1):
            table.sendto(framed(_IPCTNL_MSG_CT_NEW, flags, number, _entry(ends)), (0, 0))
            table.recv(4096)  # done, or there already: what is tracked goes on as it was


def _entry(ends: Ends) -> bytes:
    local, local_port, peer, peer_port = ends
    version = 4 if len(local) == 4 else 6
    state = attribute(CTA_PROTOINFO_TCP_STATE, bytes([_TCP_CONNTRACK_ESTABLISHED]))
    for direction in _CTA_PROTOINFO_TCP_FLAGS:
        state += attribute(direction, bytes([_BE_LIBERAL, _BE_LIBERAL]))
    return (
        NFGENMSG.pack(FAMILIES[version], 0, 0)
        + nested(CTA_TUPLE_ORIG, _tuple(version, peer, peer_port, local, local_port))
        + nested(CTA_TUPLE_REPLY, _tuple(version, local, local_port, peer, peer_port))
        + attribute(_CTA_STATUS, _IPS_SEEN_REPLY_ASSURED_CONFIRMED.to_bytes(4, "big"))
        + attribute(_CTA_TIMEOUT, _FIVE_DAYS.to_bytes(4, "big"))
        + nested(CTA_PROTOINFO, nested(CTA_PROTOINFO_TCP, state))
    )


def _tuple(version: int, source: bytes, source_port: bytes, destination: bytes, destination_port: bytes) -> bytes:
    return nested(
        CTA_TUPLE_IP, attribute(CTA_IP_SRC[version], source) + attribute(CTA_IP_DST[version], destination)
    ) + nested(
        CTA_TUPLE_PROTO,
        attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_TCP]))
        + attribute(CTA_PROTO_SRC_PORT, source_port)
        + attribute(CTA_PROTO_DST_PORT, destination_port),
    )
