"""The host's sockets (sock_diag(7)): listed by their ends, destroyed by their id (inet_diag_sockid).

Structures from the kernel's `linux/sock_diag.h` and `linux/inet_diag.h`. Ports and addresses are in network order.
"""

import socket
import struct

from openme.netlink.sockets import Netlink

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
TCP_ESTABLISHED = 1
TCP_SYN_RECV = 3
TCP_TIME_WAIT = 6
TCP_CLOSE_WAIT = 8
TCP_LISTEN = 10
TCP_NEW_SYN_RECV = 12
STATES = 0x1FFF & ~(1 << TCP_TIME_WAIT | 1 << TCP_LISTEN)
"""Every state but these two: there is nothing left to end in the one, and the other is the service itself."""
HALF_OPEN_STATES = 1 << TCP_SYN_RECV | 1 << TCP_NEW_SYN_RECV

REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states; the socket id follows
SOCKET_ID = struct.Struct("=2s2s16s16sI8s")  # inet_diag_sockid: local and remote port, addresses, interface, cookie
SOCKET_ID_AT = 4  # in inet_diag_msg: behind family, state, timer, retransmissions
PORT = struct.Struct(">H")

MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv6 address begins that stands for an IPv4 one: the peer of a service that serves both by one socket."""
NEEDS_SOCKETS = "the socket table over netlink (CONFIG_INET_DIAG): try `modprobe tcp_diag`"


Ends = tuple[bytes, bytes, bytes, bytes]
"""Address and port of the host's end, address and port of the peer's, as a socket has them."""


def socket_table() -> Netlink:
    """A socket to the table of the network namespace where it is made."""
    return Netlink(NETLINK_SOCK_DIAG, "the socket table", NEEDS_SOCKETS)


def sockets_request(family: int, states: int) -> bytes:
    """Asks for the TCP sockets of a family in these states (a bit each)."""
    return socket_request(family, states, bytes(SOCKET_ID.size))


def socket_ends(family: int, socket_id: bytes) -> Ends:
    """The ends of a listed socket, mapped addresses as the IPv4 ones that they are."""
    local_port, peer_port, local, peer, _, _ = SOCKET_ID.unpack(socket_id)
    if family == socket.AF_INET:
        return local[:4], local_port, peer[:4], peer_port
    if local.startswith(MAPPED) and peer.startswith(MAPPED):
        return local[12:], local_port, peer[12:], peer_port
    return local, local_port, peer, peer_port


def socket_request(family: int, states: int, socket_id: bytes) -> bytes:
    """The same for this socket alone."""
    return REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + socket_id
