"""The connection table's rows (ctnetlink): read, made, and named for their deletion.

Structures from the kernel's `linux/netfilter/nfnetlink_conntrack.h`. Ports and addresses are in network order.
"""

import socket
import sys
from collections.abc import Mapping

from openme.netlink.codec import NLA_F_NESTED, NLATTR, NLM_F_CREATE, NLM_F_EXCL, attribute, attributes, nested
from openme.netlink.nftables import NETLINK_NETFILTER, NFGENMSG
from openme.netlink.sock_diag import Ends
from openme.netlink.sockets import Netlink, Request

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
IPCTNL_MSG_CT_GET = NFNL_SUBSYS_CTNETLINK << 8 | 1
IPCTNL_MSG_CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_STATUS = 3
CTA_PROTOINFO = 4
CTA_TIMEOUT = 7
CTA_ID = 12
CTA_ZONE = 18
CTA_LABELS = 22
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_SRC = {4: 1, 6: 3}
CTA_IP_DST = {4: 2, 6: 4}
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE = 1
CTA_PROTOINFO_TCP_FLAGS = (4, 5)  # of the two directions
IPS_SEEN_REPLY_ASSURED_CONFIRMED = 0x02 | 0x04 | 0x08
TCP_CONNTRACK_SYN_SENT = 1
TCP_CONNTRACK_SYN_RECV = 2
TCP_CONNTRACK_SYN_SENT2 = 9
TCP_CONNTRACK_ESTABLISHED = 3
TCP_CONNTRACK_TIME_WAIT = 7
TCP_CONNTRACK_CLOSE = 8
BE_LIBERAL = 0x08  # nobody has seen the handshake, so that the windows are not known
FIVE_DAYS = 432_000  # seconds, the kernel's own time for an established connection

FAMILIES = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
HALF_OPEN = frozenset({TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_SYN_SENT2})
"""What the table calls a TCP connection whose handshake is under way."""
ADDRESS_BYTES = {4: 4, 6: 16}
SOURCE_AT = NFGENMSG.size + 3 * NLATTR.size
SOURCE_HEADS = {
    version: (CTA_TUPLE_ORIG | NLA_F_NESTED).to_bytes(2, sys.byteorder)
    + NLATTR.pack(3 * NLATTR.size + 2 * size, CTA_TUPLE_IP | NLA_F_NESTED)
    + NLATTR.pack(NLATTR.size + size, CTA_IP_SRC[version])
    for version, size in ADDRESS_BYTES.items()
}
"""What stands before the source address in a row, but for the length of the whole tuple."""
NEEDS_CONNTRACK = "the connection table over netlink (CONFIG_NF_CT_NETLINK): try `modprobe nf_conntrack_netlink`"


def connection_table() -> Netlink:
    """A socket to the table of the network namespace where it is made."""
    return Netlink(NETLINK_NETFILTER, "the connection table", NEEDS_CONNTRACK)


def deletion(version: int, tuple_: bytes, id_: bytes, zone: bytes | None) -> Request:
    """Takes just this connection out of the table. (Without a tuple it would empty the table.)"""
    return Request(
        IPCTNL_MSG_CT_DELETE,
        NFGENMSG.pack(FAMILIES[version], 0, 0)
        + nested(CTA_TUPLE_ORIG, tuple_)
        + attribute(CTA_ID, id_)
        + (b"" if zone is None else attribute(CTA_ZONE, zone)),
    )


def established_entry(ends: Ends) -> Request:
    """Enters an established TCP connection that a peer has begun; what is tracked already goes on as it was."""
    local, local_port, peer, peer_port = ends
    version = 4 if len(local) == 4 else 6
    state = attribute(CTA_PROTOINFO_TCP_STATE, bytes([TCP_CONNTRACK_ESTABLISHED]))
    for direction in CTA_PROTOINFO_TCP_FLAGS:
        state += attribute(direction, bytes([BE_LIBERAL, BE_LIBERAL]))
    return Request(
        IPCTNL_MSG_CT_NEW,
        NFGENMSG.pack(FAMILIES[version], 0, 0)
        + nested(CTA_TUPLE_ORIG, _tuple(version, peer, peer_port, local, local_port))
        + nested(CTA_TUPLE_REPLY, _tuple(version, local, local_port, peer, peer_port))
        + attribute(CTA_STATUS, IPS_SEEN_REPLY_ASSURED_CONFIRMED.to_bytes(4, "big"))
        + attribute(CTA_TIMEOUT, FIVE_DAYS.to_bytes(4, "big"))
        + nested(CTA_PROTOINFO, nested(CTA_PROTOINFO_TCP, state)),
        NLM_F_CREATE | NLM_F_EXCL,
    )


def addresses_of(payload: bytes) -> tuple[bytes, bytes]:
    """The packed addresses that a row's connection came from and went to; empty where that cannot be told.

    They are read where the kernel puts them, which saves four fifths of the time; what begins otherwise is parsed.
    """
    for version, head in SOURCE_HEADS.items():
        if payload.startswith(head, SOURCE_AT - len(head)):
            size = ADDRESS_BYTES[version]
            to = SOURCE_AT + size + NLATTR.size
            return payload[SOURCE_AT : SOURCE_AT + size], payload[to : to + size]
    family = payload[0]
    if family not in FAMILIES.values():
        return b"", b""
    original = dict(attributes(payload[NFGENMSG.size :])).get(CTA_TUPLE_ORIG, b"")
    _, source, destination, _, _ = tuple_ends(original, 4 if family == FAMILIES[4] else 6)
    return source, destination


def tuple_ends(data: bytes, version: int) -> tuple[int, bytes, bytes, bytes, bytes]:
    """Protocol, source and destination address, source and destination port (empty for protocols without)."""
    parts = dict(attributes(data))
    address = dict(attributes(parts.get(CTA_TUPLE_IP, b"")))
    proto = dict(attributes(parts.get(CTA_TUPLE_PROTO, b"")))
    return (
        int.from_bytes(proto.get(CTA_PROTO_NUM, b""), sys.byteorder),
        address.get(CTA_IP_SRC[version], b""),
        address.get(CTA_IP_DST[version], b""),
        proto.get(CTA_PROTO_SRC_PORT, b""),
        proto.get(CTA_PROTO_DST_PORT, b""),
    )


def tcp_state(row: Mapping[int, bytes]) -> int | None:
    """What the row says of a TCP connection's state; None where it says nothing."""
    info = dict(attributes(row.get(CTA_PROTOINFO, b"")))
    state = dict(attributes(info.get(CTA_PROTOINFO_TCP, b""))).get(CTA_PROTOINFO_TCP_STATE)
    return state[0] if state else None


def _tuple(version: int, source: bytes, source_port: bytes, destination: bytes, destination_port: bytes) -> bytes:
    return nested(
        CTA_TUPLE_IP, attribute(CTA_IP_SRC[version], source) + attribute(CTA_IP_DST[version], destination)
    ) + nested(
        CTA_TUPLE_PROTO,
        attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_TCP]))
        + attribute(CTA_PROTO_SRC_PORT, source_port)
        + attribute(CTA_PROTO_DST_PORT, destination_port),
    )
