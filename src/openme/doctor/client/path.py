"""What the network between client and server says: ICMP errors, and how TCP ends."""

import errno
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from openme.client.addresses import Endpoint
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding
from openme.knock_size import KNOCK_SIZE

REFUSED = "udp_refused"
UNREACHABLE = "udp_unreachable"
ANSWER_SECONDS = 3.5
"""A neighbour that does not say where it is has three seconds (RFC 4861, and Linux for IPv4 too)."""
_APART = 0.3  # seconds between two packets: one may be lost
TCP_SECONDS = 2.0
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""ip(7), IP_RECVERR; ipv6(7), IPV6_RECVERR. Without them Linux keeps errors that may pass to itself."""
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})  # Windows says the second one


def udp(client: Client) -> Iterator[Finding]:
    """Send what looks like a knock and is none, to each address: who hides says nothing to that."""
    port = client.profile.server_udp_port
    for endpoint, error in _errors(client.addresses(), port):
        if error.errno in _REFUSALS:
            yield Finding(
                REFUSED,
                f"{endpoint} says that nothing listens on its UDP port {port}",
                "start the server (systemctl start openme), or correct server_udp_port in the profile",
            )
        else:
            yield Finding(
                UNREACHABLE,
                f"a packet to {endpoint}, UDP port {port}, cannot arrive: {error.strerror or error}",
                "check that the address is the server's, and what on the way refuses UDP",
            )


def _errors(endpoints: list[Endpoint], port: int) -> list[tuple[Endpoint, OSError]]:
    """The errors that ICMP brings. What cannot even leave is none of them: another family may."""
    found: list[tuple[Endpoint, OSError]] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for endpoint in endpoints:
            try:
                sock = stack.enter_context(socket.socket(endpoint.family, socket.SOCK_DGRAM))
                sock.connect((endpoint.host, port))
                sock.setblocking(False)  # noqa: FBT003  # the standard library's signature
                if sys.platform == "linux":
                    sock.setsockopt(*_RECVERR[endpoint.family], 1)
                sock.send(secrets.token_bytes(KNOCK_SIZE))
            except OSError:
                continue
            selector.register(sock, selectors.EVENT_READ, endpoint)
        begun = time.monotonic()
        again = True
        while selector.get_map() and (left := begun + ANSWER_SECONDS - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, _APART) if again else left):
                try:
                    key.fileobj.recv(1)  # type: ignore[union-attr]  # only sockets are registered
                except BlockingIOError:
                    continue
                except OSError as error:
                    found.append((key.data, error))
                selector.unregister(key.fileobj)
            if again and time.monotonic() >= begun + _APART:
                again = False
                for key in list(selector.get_map().values()):
                    try:
                        key.fileobj.send(secrets.token_bytes(KNOCK_SIZE))  # type: ignore[union-attr]
                    except OSError as error:
                        found.append((key.data, error))
                        selector.unregister(key.fileobj)
    return found


class Tried(NamedTuple):
    """How one attempt to connect ended: `how` in words, after `seconds`."""

    how: str
    seconds: float

    def __str__(self) -> str:
        return self.how if self.how == "silent" else f"{self.how} after {self.seconds * 1000:.0f} ms"


def tcp(endpoint: Endpoint, port: int, seconds: float = TCP_SECONDS) -> Tried:
    """Try to connect once: `open`, `refused`, `silent`, or the system's own words."""
    begun = time.monotonic()
    try:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            sock.connect((endpoint.host, port))
        how = "open"
    except TimeoutError:
        how = "silent"
    except OSError as error:
        how = "refused" if error.errno in _REFUSALS else (error.strerror or str(error)).lower()
    return Tried(how, time.monotonic() - begun)
