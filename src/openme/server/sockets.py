"""The sockets that strangers reach: the knock port (UDP) and the health port (TCP), on all addresses."""

import contextlib
import errno
import socket

from openme.errors import OpenmeError
from openme.server.port_holder import holders_of

RECEIVE_BUFFER = 4 << 20  # bytes; doubles what survives a flood (docs/decisions/0001-shape.md)
HEALTH_RECEIVE_BUFFER = 4096  # bytes; whoever asks for a receipt sends its id alone
HEALTH_SEND_BUFFER = 64 << 10
_SO_RCVBUFFORCE = 33  # socket(7): beyond the host's limit, needs CAP_NET_ADMIN


def _bound(kind: socket.SocketKind, port: int, what: str) -> socket.socket:
    """A socket on all addresses of both families, or of IPv4 alone on a host without IPv6."""
    proto = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                continue
            raise OpenmeError(f"{what} {port}/{proto.lower()}: {error.strerror}") from None
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
                continue  # IPv6 is compiled in and switched off (net.ipv6.conf.all.disable_ipv6)
            raise _bind_error(error, what, port, proto) from None
        return sock
    raise OpenmeError(f"{what} {port}: this host has neither IPv6 nor IPv4")


def _bind_error(error: OSError, what: str, port: int, proto: str) -> OpenmeError:
    where = f"{what} {port}/{proto.lower()}"
    if error.errno == errno.EADDRINUSE:
        flag = "u" if proto == "UDP" else "t"
        holders = holders_of("udp" if proto == "UDP" else "tcp", port)
        return OpenmeError(
            f"{where} is in use by {holders or 'another program'}",
            f"see it with: sudo ss -{flag}anp sport = :{port}; end it, then start again; how to keep the port free:"
            " docs/operating.md, The port is taken",
        )
    if error.errno == errno.EACCES:
        return OpenmeError(f"{where}: ports below 1024 need root", "run it as root: sudo openme serve")
    return OpenmeError(f"{where}: {error.strerror}")


def bind_knock(port: int) -> socket.socket:
    """The knock port. OpenmeError if another program has it."""
    sock = _bound(socket.SOCK_DGRAM, port, "knock port")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def bind_health(port: int) -> socket.socket:
    """The health port, which the listener lets connections in to once it is hidden. OpenmeError if it is taken.

    Its connections have buffers of a fixed size, so that hundreds of them cannot use up the kernel's memory for TCP.
    """
    sock = _bound(socket.SOCK_STREAM, port, "health port")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HEALTH_RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HEALTH_SEND_BUFFER)
    return sock
