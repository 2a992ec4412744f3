"""The sockets that strangers reach: the knock port (UDP) and the health port (TCP), on all addresses."""

import contextlib
import errno
import socket
from pathlib import Path
from typing import Literal

from openme.errors import OpenmeError
from openme.processes.privileges import has
from openme.processes.roles import CAP_NET_BIND_SERVICE
from openme.server.port_holder import holders_of

RECEIVE_BUFFER = 4 << 20  # bytes; doubles what survives a flood (docs/decisions/0001-shape.md)
HEALTH_RECEIVE_BUFFER = 4096  # bytes; whoever asks for a receipt sends its id alone
HEALTH_SEND_BUFFER = 64 << 10
_SO_RCVBUFFORCE = 33  # socket(7): beyond the host's limit, needs CAP_NET_ADMIN


class PortTakenError(OpenmeError):
    """Another program has the port; `by` says that, and which."""

    def __init__(self, what: str, port: int, proto: Literal["udp", "tcp"]) -> None:
        self.by = f"it is in use by {holders_of(proto, port) or 'another program'}"
        super().__init__(
            f"{what} {port}/{proto} {self.by.removeprefix('it ')}",
            f"see it with: sudo ss -{proto[0]}anp sport = :{port}; end it, then start again; how to keep the port free:"
            " docs/operating.md, The port is taken",
        )


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
        return PortTakenError(what, port, "udp" if proto == "UDP" else "tcp")
    if error.errno == errno.EACCES:
        return _unprivileged(where)
    return OpenmeError(f"{where}: {error.strerror}")


def _unprivileged(where: str) -> OpenmeError:
    return OpenmeError(
        f"{where}: ports below 1024 need root (CAP_NET_BIND_SERVICE)", "run it as root: sudo openme serve"
    )


def refuse_unprivileged(port: int, what: str, proto: Literal["udp", "tcp"]) -> None:
    """OpenmeError, as it will be when the port is bound, if this process may not have one of this number (ip(7))."""
    first = 1024
    with contextlib.suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    if port < first and not has(CAP_NET_BIND_SERVICE):
        raise _unprivileged(f"{what} {port}/{proto}")


def bind_knock(port: int) -> socket.socket:
    """The knock port. PortTakenError if another program has it."""
    sock = _bound(socket.SOCK_DGRAM, port, "knock port")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def bind_health(port: int) -> socket.socket:
    """The health port, which the listener lets connections in to once it is hidden. PortTakenError if it is taken.

    Its connections have buffers of a fixed size, so that hundreds of them cannot use up the kernel's memory for TCP.
    """
    sock = _bound(socket.SOCK_STREAM, port, "health port")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HEALTH_RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HEALTH_SEND_BUFFER)
    return sock
