"""Where a knock goes, and which address it names. Runs on every system that Python runs on."""

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple

from openme.client.errors import AddressError, UnknownHostError
from openme.config.profile_model import PAGE
from openme.max_port import MAX_PORT
from openme.wire.knock import IPAddress

AUTO = "auto"
SOURCE = "source"
HTTPS_PORT = 443


class BadPageError(Exception):
    """Why a page gave no address: words for the user, in which what came from others is visible and short."""


class Endpoint(NamedTuple):
    """One of the server's addresses: `family`, and `host` as text, with the zone of an IPv6 one that has one."""

    family: socket.AddressFamily
    host: str

    def __str__(self) -> str:
        return self.host


SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, SocketAddress]
"""A row of getaddrinfo(3)."""


def resolve(host: str, port: int) -> list[Endpoint]:
    """The server's addresses, each once, in the order in which this machine would try them (RFC 6724).

    UnknownHostError if the name is not known.
    """
    try:
        return endpoints_of(socket.getaddrinfo(encoded(host), port, type=socket.SOCK_DGRAM))
    except (socket.gaierror, UnicodeError) as error:
        raise unknown_host(host, error) from None


def encoded(host: str) -> bytes | str:
    """A host name for getaddrinfo(3), which loads a codec and its tables for every `str`: only a name outside ASCII."""
    return host.encode("ascii") if host.isascii() else host


def unknown_host(
    host: str, error: socket.gaierror | UnicodeError, check: str = "server_host in the profile"
) -> UnknownHostError:
    """What a resolver's error says to the user. `check`: where the name comes from."""
    reason = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
    return UnknownHostError(f"{host}: {reason}", f"check {check}, and this machine's network")


def endpoints_of(found: Iterable[AddressInfo]) -> list[Endpoint]:
    """The IP addresses of what getaddrinfo(3) gives, each once, in its order."""
    endpoints: list[Endpoint] = []
    for family, _, _, _, sockaddr in found:
        if family in {socket.AF_INET, socket.AF_INET6}:
            name = str(sockaddr[0])
            if family == socket.AF_INET6 and len(sockaddr) == 4 and sockaddr[3] and "%" not in name:
                name = f"{name}%{sockaddr[3]}"
            endpoints.append(Endpoint(family, name))
    return list(dict.fromkeys(endpoints))


def local_address(sock: socket.socket) -> IPAddress:
    """The address that a connected socket sends from."""
    return ip_address(str(sock.getsockname()[0]).partition("%")[0])


class Page(NamedTuple):
    """A page whose text is our address: `netloc` is host and port as they were written."""

    host: str
    port: int
    netloc: str
    path: str


def is_page(wanted: str | None) -> bool:
    """Whether this is a page to ask, rather than an address or a word."""
    return wanted is not None and wanted.startswith("https://")


def parse_page(text: str) -> Page:
    """The parts of `https://…`; AddressError for whatever is none."""
    page = re.fullmatch(PAGE, text)
    port = int(page["port"] or HTTPS_PORT) if page is not None else 0
    if page is None or not 0 < port <= MAX_PORT:
        raise AddressError(
            f"{text} is no page", "write one such as https://host.example/ip, in ASCII and without a user"
        )
    path = page["path"] or "/"
    netloc = text.removeprefix("https://").removesuffix(page["path"] or "")
    return Page(page["host"].strip("[]"), port, netloc, path if path.startswith("/") else f"/{path}")


def parse_wanted(text: str) -> str:
    """What a user wants to be named: `auto`, `source`, a page or an address; AddressError otherwise."""
    if text in {AUTO, SOURCE}:
        return text
    if text.lower().startswith("http://"):
        raise AddressError(
            f"{text} is not https: whoever sits on the way would choose whose address opens", "use a page with https://"
        )
    if is_page(text):
        parse_page(text)
        return text
    return str(parse_target(text))


def parse_target(text: str) -> IPAddress:
    """An address as a user writes it; AddressError otherwise. A v4-mapped one becomes IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        raise AddressError(f"{text} is no IP address", "write one such as 203.0.113.5 or 2001:db8::7") from None
    if not isinstance(address, IPv4Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
