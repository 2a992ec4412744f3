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

from openme.errors import FirewallError
from openme.netlink.conntrack import connection_table, established_entry
from openme.netlink.sock_diag import (
    SOCK_DIAG_BY_FAMILY,
    SOCKET_ID,
    SOCKET_ID_AT,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    Ends,
    socket_ends,
    socket_table,
    sockets_request,
)
from openme.ports import PortRange

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
        _log.warning("sessions from before this start may stall, because the kernel does not list them: %s", error)


def _established(family: int, ports: tuple[PortRange, ...]) -> list[Ends]:
    def keep(payload: bytes) -> Ends | None:
        ends = socket_ends(payload[0], payload[SOCKET_ID_AT : SOCKET_ID_AT + SOCKET_ID.size])
        number = int.from_bytes(ends[1], "big")
        return ends if any(item.first <= number <= item.last for item in ports) else None

    with closing(socket_table()) as sockets:
        states = 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT
        return sockets.collect(SOCK_DIAG_BY_FAMILY, sockets_request(family, states), keep)


def _enter(sessions: list[Ends]) -> None:
    with closing(connection_table()) as table:
        table.request([established_entry(ends) for ends in sessions])
