"""Connections that a door has let in: found in the kernel's connection table, ended there and at the host's sockets.

Two netlink sockets and CAP_NET_ADMIN, no process. Structures from the kernel's `linux/netfilter/nfnetlink_conntrack.h`,
`linux/sock_diag.h` and `linux/inet_diag.h` (sock_diag(7)). Ports and addresses are in network order throughout.
"""

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import NamedTuple

from openme.firewall.base import IPAddress
from openme.firewall.nfnetlink import (
    NETLINK_NETFILTER,
    NFGENMSG,
    Netlink,
    NetlinkError,
    Request,
    attribute,
    attributes,
    nested,
)
from openme.firewall.nftables_rules import LABEL_BIT
from openme.ports import PortRange, Protocol

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET = NFNL_SUBSYS_CTNETLINK << 8 | 1
IPCTNL_MSG_CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_PROTOINFO = 4
CTA_ID = 12
CTA_ZONE = 18
CTA_LABELS = 22
CTA_FILTER = 25
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_SRC = {4: 1, 6: 3}
CTA_IP_DST = {4: 2, 6: 4}
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE = 1
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_REPLY_FLAGS = 2
CTA_FILTER_F_CTA_IP_SRC = 0x1
TCP_CONNTRACK_TIME_WAIT = 7
TCP_CONNTRACK_CLOSE = 8

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
INET_DIAG_REQ_BYTECODE = 1
INET_DIAG_BC_D_COND = 8
TCP_TIME_WAIT = 6
TCP_LISTEN = 10
STATES = 0x1FFF & ~(1 << TCP_TIME_WAIT | 1 << TCP_LISTEN)
"""Every state but these two: there is nothing left to end in the one, and the other is the service itself."""
ANY_PORT = -1

REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states; the identity follows
IDENTITY = struct.Struct("=2s2s16s16sI8s")  # inet_diag_sockid: local and remote port, addresses, interface, cookie
IDENTITY_AT = 4  # in inet_diag_msg: behind family, state, timer, retransmissions
OPERATION = struct.Struct("=BBH")  # inet_diag_bc_op: code, where to go on if it holds, where if not
CONDITION = struct.Struct("=BB2xi")  # inet_diag_hostcond: family, prefix length, port; the address follows
U32 = struct.Struct("=I")
PORT = struct.Struct(">H")

MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv6 address begins that stands for an IPv4 one: the peer of a service that serves both by one socket."""
PROTOCOLS: dict[int, Protocol] = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
FAMILIES = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
MOST_AT_ONCE = 10_000
"""A client can have as many connections as the whole table holds; memory is for a part of them."""
NEEDS_CONNTRACK = "the connection table over netlink (CONFIG_NF_CT_NETLINK): try `modprobe nf_conntrack_netlink`"
NEEDS_SOCKETS = "the socket table over netlink (CONFIG_INET_DIAG): try `modprobe tcp_diag`"

Ends = tuple[bytes, bytes, bytes, bytes]
"""Address and port of the host's end, address and port of the peer's, as a socket has them."""


class Connection(NamedTuple):
    """An entry of the connection table. `ends` are what NAT has made of it; `alive`: not a TCP one that is over."""

    version: int
    protocol: int
    tuple_: bytes
    zone: bytes | None
    id: bytes
    ends: Ends
    alive: bool


class Connections:
    """The connections of the network namespace where it is made.

    After the constructor it needs CAP_NET_ADMIN and nothing else.
    """

    def __init__(self) -> None:
        self._table = Netlink(NETLINK_NETFILTER, "the connection table", NEEDS_CONNTRACK)
        self._sockets = Netlink(NETLINK_SOCK_DIAG, "the socket table", NEEDS_SOCKETS)

    def let_in(self, address: IPAddress, ports: Iterable[PortRange]) -> list[Connection]:
        """Connections that came from this address to these ports (before any NAT) by a door, `MOST_AT_ONCE` at most."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        ports = tuple(ports)
        found = 0

        def keep(payload: bytes) -> Connection | None:
            nonlocal found
            # Most of a large table is other people's, and IPv6 and kernels before 5.8 know no filter.
            if found >= MOST_AT_ONCE or address.packed not in payload:
                return None
            connection = _parsed(payload, address, ports)
            found += connection is not None
            return connection

        return self._table.collect(IPCTNL_MSG_CT_GET, table_request(address), keep)

    def end(self, connections: Sequence[Connection]) -> None:
        """End them; what is gone already is no error.

        The sockets go first: their resets need the entries in the table to get past NAT and the host's rules, and a
        reset that came later would be no part of any connection. They are looked for once more when the table has
        forgotten: a handshake may have ended in between, and from now on no packet can make another socket. On a kernel
        that destroys no sockets (CONFIG_INET_DIAG_DESTROY) the peer's packets meet the hiding rule, and that is all.
        """
        self._destroy_sockets(connections)
        for code in self._table.request([Request(IPCTNL_MSG_CT_DELETE, deletion(item)) for item in connections]):
            if code not in (0, errno.ENOENT):
                raise NetlinkError(code, "a connection cannot be cut", NEEDS_CONNTRACK)
        self._destroy_sockets(connections)

    def _destroy_sockets(self, connections: Sequence[Connection]) -> None:
        wanted = {item.ends for item in connections if item.protocol == socket.IPPROTO_TCP}
        for peer in {ends[2] for ends in wanted}:
            # The kernel looks a socket up by its ends, finds the listening one where there is no other, and would
            # destroy that. So only what was listed before is destroyed, by its cookie.
            for family in {4: (socket.AF_INET, socket.AF_INET6), 16: (socket.AF_INET6,)}[len(peer)]:
                requests = [
                    Request(SOCK_DESTROY, _socket_request(family, identity))
                    for identity in self._list_sockets(family, peer, wanted)
                ]
                for code in self._sockets.request(requests):
                    if code not in (0, errno.ENOENT, errno.ESTALE, errno.EOPNOTSUPP):
                        raise NetlinkError(code, "a connection's socket cannot be closed", NEEDS_SOCKETS)

    def _list_sockets(self, family: int, peer: bytes, wanted: set[Ends]) -> list[bytes]:
        def keep(payload: bytes) -> bytes | None:
            identity = payload[IDENTITY_AT : IDENTITY_AT + IDENTITY.size]
            return identity if socket_ends(payload[0], identity) in wanted else None

        try:
            return self._sockets.collect(SOCK_DIAG_BY_FAMILY, sockets_request(family, peer), keep)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # no tcp_diag in this kernel, or no IPv6
                return []
            raise


def table_request(address: IPAddress) -> bytes:
    """Asks for the connections of the address's IP version; of IPv4 for no others than those that come from it.

    The kernel's filter for IPv6 addresses is the wrong way round (seen on 6.18): it leaves out what it is asked for.
    """
    request = NFGENMSG.pack(FAMILIES[address.version], 0, 0)
    if address.version == 6:
        return request
    source = attribute(CTA_IP_SRC[4], address.packed)
    flags = attribute(CTA_FILTER_ORIG_FLAGS, U32.pack(CTA_FILTER_F_CTA_IP_SRC))
    return (
        request
        + nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_IP, source))
        + nested(CTA_FILTER, flags + attribute(CTA_FILTER_REPLY_FLAGS, U32.pack(0)))
    )


def deletion(connection: Connection) -> bytes:
    """Takes just this connection out of the table. (Without a tuple it would empty the table.)"""
    zone = b"" if connection.zone is None else attribute(CTA_ZONE, connection.zone)
    return (
        NFGENMSG.pack(FAMILIES[connection.version], 0, 0)
        + nested(CTA_TUPLE_ORIG, connection.tuple_)
        + attribute(CTA_ID, connection.id)
        + zone
    )


def sockets_request(family: int, peer: bytes) -> bytes:
    """Asks for the TCP sockets of a family whose peer has this address; IPv4 addresses also fit mapped ones."""
    length = OPERATION.size + CONDITION.size + len(peer)
    version = 4 if len(peer) == 4 else 6
    condition = (
        OPERATION.pack(INET_DIAG_BC_D_COND, length, length + 4)
        + CONDITION.pack(FAMILIES[version], len(peer) * 8, ANY_PORT)
        + peer
    )
    return _socket_request(family, bytes(IDENTITY.size)) + attribute(INET_DIAG_REQ_BYTECODE, condition)


def socket_ends(family: int, identity: bytes) -> Ends:
    """The ends of a listed socket, mapped addresses as the IPv4 ones that they are."""
    local_port, peer_port, local, peer, _, _ = IDENTITY.unpack(identity)
    if family == socket.AF_INET:
        return local[:4], local_port, peer[:4], peer_port
    if local.startswith(MAPPED) and peer.startswith(MAPPED):
        return local[12:], local_port, peer[12:], peer_port
    return local, local_port, peer, peer_port


def cut_key(connection: Connection) -> bytes:
    """The connection's peer, protocol and service port as a key of nf_tables, each part padded to four bytes."""
    _, port, peer, _ = connection.ends
    return peer + bytes([connection.protocol, 0, 0, 0]) + port + bytes(2)


def _socket_request(family: int, identity: bytes) -> bytes:
    return REQUEST.pack(family, socket.IPPROTO_TCP, 0, STATES) + identity


def _parsed(payload: bytes, address: IPAddress, ports: Iterable[PortRange]) -> Connection | None:
    """The connection of one row if it is one to cut. ValueError if malformed."""
    row = dict(attributes(payload[NFGENMSG.size :]))
    labels = row.get(CTA_LABELS, b"")
    # As nft writes them: one number in the machine's byte order.
    if not int.from_bytes(labels, sys.byteorder) >> LABEL_BIT & 1:
        return None
    version = address.version
    protocol, source, _, _, port = _addresses(row.get(CTA_TUPLE_ORIG, b""), version)
    name = PROTOCOLS.get(protocol)
    number: int = PORT.unpack(port)[0] if name else 0
    if source != address.packed or not any(item.proto == name and item.first <= number <= item.last for item in ports):
        return None
    _, local, peer, local_port, peer_port = _addresses(row.get(CTA_TUPLE_REPLY, b""), version)
    if CTA_ID not in row:
        raise ValueError("a connection without an id")
    return Connection(
        version,
        protocol,
        row[CTA_TUPLE_ORIG],
        row.get(CTA_ZONE),
        row[CTA_ID],
        (local, local_port, peer, peer_port),
        _tcp_state(row) not in (TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE),
    )


def _addresses(data: bytes, version: int) -> tuple[int, bytes, bytes, bytes, bytes]:
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


def _tcp_state(row: Mapping[int, bytes]) -> int | None:
    info = dict(attributes(row.get(CTA_PROTOINFO, b"")))
    state = dict(attributes(info.get(CTA_PROTOINFO_TCP, b""))).get(CTA_PROTOINFO_TCP_STATE)
    return state[0] if state else None
