"""Connections that a door has let in: found in the kernel's connection table, ended there and at the host's sockets.

Two netlink sockets and CAP_NET_ADMIN, no process. Ports and addresses are in network order throughout.
"""

import errno
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from openme.firewall.base import CutTarget, IPAddress, Steps
from openme.firewall.nftables_rules import LABEL_BIT
from openme.netlink.codec import attributes
from openme.netlink.conntrack import (
    CTA_ID,
    CTA_LABELS,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    FAMILIES,
    HALF_OPEN,
    IPCTNL_MSG_CT_GET,
    NEEDS_CONNTRACK,
    TCP_CONNTRACK_CLOSE,
    TCP_CONNTRACK_TIME_WAIT,
    addresses_of,
    connection_table,
    deletion,
    tcp_state,
    tuple_ends,
)
from openme.netlink.nftables import NFGENMSG
from openme.netlink.sock_diag import (
    HALF_OPEN_STATES,
    NEEDS_SOCKETS,
    PORT,
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    SOCKET_ID,
    SOCKET_ID_AT,
    STATES,
    Ends,
    socket_ends,
    socket_request,
    socket_table,
    sockets_request,
)
from openme.netlink.sockets import REQUESTS_AT_ONCE, Netlink, NetlinkError, Request
from openme.ports import PortRange, Protocol
from openme.ports import port as port_range

PROTOCOLS: dict[int, Protocol] = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
NUMBERS = {name: number for number, name in PROTOCOLS.items()}
MOST_AT_ONCE = 10_000
"""A client can have as many connections as the whole table holds; memory is for a part of them."""


class Connection(NamedTuple):
    """An entry of the connection table: what `address` has begun to the port `service`, before any NAT. `ends` are what
    NAT has made of it; `alive`: not a TCP one that is over; `by_door`: it bears our label.

    A UDP exchange without one began while our rules were away, or by a datagram of the service, as a VPN's does.
    """

    address: IPAddress
    service: PortRange
    tuple_: bytes
    zone: bytes | None
    id: bytes
    ends: Ends
    alive: bool
    by_door: bool

    @property
    def version(self) -> int:
        """Of IP: 4 or 6."""
        return self.address.version

    @property
    def protocol(self) -> int:
        """By number: TCP or UDP."""
        return NUMBERS[self.service.proto]


IsOurs = Callable[[bytes], bool]


def not_ours(_address: bytes) -> bool:
    """No address is this host's own."""
    return False


class Wanted:
    """What is to end, for a quick look whether a row of the table is of it. False where nothing is."""

    def __init__(self, targets: Iterable[CutTarget] = (), is_ours: IsOurs = not_ours) -> None:
        """`is_ours` tells this host's own addresses, packed, which may be in a network that is to end: what the host
        asks of its neighbours came by no door.
        """
        self._is_ours = is_ours
        self._ports: dict[bytes, tuple[set[PortRange], set[PortRange]]] = {}
        self._networks: dict[tuple[int, bytes], tuple[set[PortRange], set[PortRange]]] = {}
        self._masks: dict[int, set[int]] = {4: set(), 16: set()}  # by the size of an address
        self.has_tcp = False
        self.add(targets)

    def add(self, targets: Iterable[CutTarget]) -> None:
        """These are to end too."""
        for target in targets:
            address = target.address
            if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            if target.ports:
                if target.network is None:
                    ports = self._ports.setdefault(address.packed, (set(), set()))
                else:
                    mask, first = target.network.netmask, target.network.network_address
                    self._masks[len(mask.packed)].add(int(mask))
                    ports = self._networks.setdefault((int(mask), first.packed), (set(), set()))
                ports[target.established].update(target.ports)
                self.has_tcp = self.has_tcp or any(item.proto == "tcp" for item in target.ports)

    def __bool__(self) -> bool:
        return bool(self._ports or self._networks)

    def concerns(self, addresses: Iterable[bytes]) -> bool:
        """Whether connections from any of these addresses (packed) are to end: quick, for most rows are not."""
        return not self._ports.keys().isdisjoint(addresses) or any(
            key in self._networks for address in addresses for key in self._around(address)
        )

    def has(self, source: bytes, service: PortRange, *, begins: bool) -> bool:
        """Whether what comes from `source` (packed) to this port is to end; `begins`: a UDP exchange, or half open."""
        if _among(service, self._ports.get(source, ((), ())), begins=begins):
            return True
        around = filter(None, map(self._networks.get, self._around(source)))
        return any(_among(service, item, begins=begins) for item in around) and not self._is_ours(source)

    def _around(self, address: bytes) -> Iterator[tuple[int, bytes]]:
        """The networks around an address that may be known here."""
        for mask in self._masks.get(len(address), ()):
            yield mask, (int.from_bytes(address) & mask).to_bytes(len(address))


def _among(service: PortRange, ports: tuple[Iterable[PortRange], Iterable[PortRange]], *, begins: bool) -> bool:
    may_live, ends = ports
    wanted = (*ends, *may_live) if begins else ends
    return any(item.proto == service.proto and item.first <= service.first <= item.last for item in wanted)


class Connections:
    """The connections of the network namespace where it is made.

    After the constructor it needs CAP_NET_ADMIN and nothing else. Of each table one walk at a time: see `Netlink.walk`.
    """

    def __init__(self) -> None:
        # What is asked for while a walk is under way has a socket of its own.
        self._table_walk, self._table = connection_table(), connection_table()
        self._sockets_walk, self._sockets = socket_table(), socket_table()

    def let_in(self, wanted: Wanted, half_open: Collection[Ends]) -> Steps[tuple[list[Connection], bool]]:
        """Connections to end, `MOST_AT_ONCE` at most; and whether no change overtook the look. Of TCP, those that came
        by a door.

        All of the table is read, in parts that take the kernel and us less than a millisecond each. Its own filter
        would hold both for as long as it finds nothing, and is the wrong way round for IPv6 (seen on 6.18).
        """
        found: list[Connection] = []

        def keep(payload: bytes) -> None:
            # Most of a large table is other people's.
            if len(found) < MOST_AT_ONCE and wanted.concerns(addresses_of(payload)):
                connection = _parsed(payload, wanted, half_open)
                if connection is not None:
                    found.append(connection)

        everything = NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
        whole = yield from self._table_walk.walk(IPCTNL_MSG_CT_GET, everything, keep)
        return found, whole

    def half_open(self) -> Steps[frozenset[Ends]]:
        """The ends of the host's TCP sockets whose handshake is under way.

        They tell more than the table, to which a handshake is over when the client has acknowledged, also where the
        service's queue was full and forgot it.
        """
        found: set[Ends] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._walk_sockets(family, HALF_OPEN_STATES, lambda ends, _: found.add(ends))
        return frozenset(found)

    def end(self, connections: Sequence[Connection]) -> Steps[None]:
        """End them; what is gone already is no error.

        The sockets go first: their resets need the entries in the table to get past NAT and the host's rules, and a
        reset that came later would be no part of any connection. They are looked for once more when the table has
        forgotten: a handshake may have ended in between, and from now on no packet can make another socket. On a kernel
        that destroys no sockets (CONFIG_INET_DIAG_DESTROY) the peer's packets meet the hiding rule, and that is all.
        """
        yield from self._destroy_sockets(connections)
        deletions = [deletion(item.version, item.tuple_, item.id, item.zone) for item in connections]
        for codes in _in_parts(self._table, deletions):
            for code in codes:
                if code not in (0, errno.ENOENT):
                    raise NetlinkError(code, "a connection cannot be cut", NEEDS_CONNTRACK)
            yield
        yield from self._destroy_sockets(connections)

    def _destroy_sockets(self, connections: Sequence[Connection]) -> Steps[None]:
        wanted = {item.ends for item in connections if item.protocol == socket.IPPROTO_TCP}
        if not wanted:
            return
        # The kernel looks a socket up by its ends, finds the listening one where there is no other, and would destroy
        # that. So only what was listed before is destroyed, by its cookie. A socket for both versions may have an IPv4
        # peer.
        for family in (socket.AF_INET, socket.AF_INET6):
            found: list[bytes] = []

            def keep(ends: Ends, socket_id: bytes, found: list[bytes] = found) -> None:
                if ends in wanted:
                    found.append(socket_id)

            yield from self._walk_sockets(family, STATES, keep)
            requests = [Request(SOCK_DESTROY, socket_request(family, STATES, socket_id)) for socket_id in found]
            for codes in _in_parts(self._sockets, requests):
                for code in codes:
                    if code not in (0, errno.ENOENT, errno.ESTALE, errno.EOPNOTSUPP):
                        raise NetlinkError(code, "a connection's socket cannot be closed", NEEDS_SOCKETS)
                yield

    def _walk_sockets(self, family: int, states: int, keep: Callable[[Ends, bytes], None]) -> Steps[None]:
        def keep_row(payload: bytes) -> None:
            socket_id = payload[SOCKET_ID_AT : SOCKET_ID_AT + SOCKET_ID.size]
            keep(socket_ends(payload[0], socket_id), socket_id)

        try:
            yield from self._sockets_walk.walk(SOCK_DIAG_BY_FAMILY, sockets_request(family, states), keep_row)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # no tcp_diag in this kernel, or no IPv6
                raise


def cut_key(connection: Connection) -> bytes:
    """The connection's peer, protocol and service port as a key of nf_tables, each part padded to four bytes."""
    _, port, peer, _ = connection.ends
    return peer + bytes([connection.protocol, 0, 0, 0]) + port + bytes(2)


def _in_parts(table: Netlink, requests: Sequence[Request]) -> Iterator[list[int]]:
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        yield table.request(requests[start : start + REQUESTS_AT_ONCE])


def _parsed(payload: bytes, wanted: Wanted, half_open: Collection[Ends] = ()) -> Connection | None:
    """The connection of one row if it is one to end. ValueError if malformed."""
    row = dict(attributes(payload[NFGENMSG.size :]))
    # As nft writes them: one number in the machine's byte order.
    by_door = bool(int.from_bytes(row.get(CTA_LABELS, b""), sys.byteorder) >> LABEL_BIT & 1)
    version = 4 if payload[0] == FAMILIES[4] else 6
    protocol, source, target, own_number, number = tuple_ends(row.get(CTA_TUPLE_ORIG, b""), version)
    name = PROTOCOLS.get(protocol)
    if name is None or (name == "tcp" and not by_door):
        return None
    _, local, peer, local_port, peer_port = tuple_ends(row.get(CTA_TUPLE_REPLY, b""), version)
    ends = local, local_port, peer, peer_port
    state = tcp_state(row)
    begins = name == "udp" or state in HALF_OPEN or ends in half_open
    service = port_range(name, PORT.unpack(number)[0])
    if not wanted.has(source, service, begins=begins):
        # Also what the service has begun, when the table had forgotten what came before.
        service = port_range(name, PORT.unpack(own_number)[0])
        if name == "tcp" or not wanted.has(target, service, begins=True):
            return None
        source, ends = target, (source, own_number, target, number)
    if CTA_ID not in row:
        raise ValueError("a connection without an id")
    return Connection(
        ip_address(source),
        service,
        row[CTA_TUPLE_ORIG],
        row.get(CTA_ZONE),
        row[CTA_ID],
        ends,
        state not in (TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE),
        by_door,
    )
