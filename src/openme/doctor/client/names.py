"""Where the server's name leads."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

from openme.client.addresses import Endpoint, resolve
from openme.client.errors import UnknownHostError
from openme.client.plan import MOST_ADDRESSES, by_family
from openme.client.waiting import within
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding

UNKNOWN = "name_unknown"
SILENT = "resolver_silent"
HERE = "name_is_here"
TOO_MANY = "too_many_addresses"
NO_ROUTE = "no_route"
RESOLVER_SECONDS = 6.0


def name(client: Client) -> Iterator[Finding]:
    """What this machine's resolver says of `server_host`."""
    host, port = client.profile.server_host, client.profile.server_udp_port
    found: list[Endpoint] = []
    unknown: UnknownHostError | None = None

    def ask() -> None:
        nonlocal unknown
        try:
            found.extend(resolve(host, port))
        except UnknownHostError as error:
            unknown = error

    try:
        within(RESOLVER_SECONDS, ask)
    except TimeoutError:
        yield Finding(
            SILENT,
            f"this machine's resolver does not say within {RESOLVER_SECONDS:g} s where {host} is",
            "check this machine's network, or write the server's address as server_host",
        )
        return
    if unknown is not None:
        yield Finding(UNKNOWN, unknown.message, unknown.hint or "check server_host in the profile")
        return
    if not _is_address(host) and (here := [endpoint for endpoint in found if _is_ours(endpoint)]):
        yield Finding(
            HERE,
            f"{host} leads to this machine itself ({', '.join(map(str, here))})",
            "correct it in /etc/hosts or in the DNS, or write the server's address as server_host",
        )
    for family in by_family(found):
        if family.left_out:
            yield Finding(
                TOO_MANY,
                f"{host} has {len(family.endpoints) + family.left_out} addresses of one family, and only"
                f" {MOST_ADDRESSES} of them are knocked at",
                "give the server a name of its own, with its addresses alone",
            )


def route(client: Client) -> Iterator[Finding]:
    """Whether this machine has a way to any of the server's addresses."""
    reasons = []
    for endpoint in client.addresses():
        try:
            with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
                sock.connect((endpoint.host, client.profile.server_udp_port))
        except OSError as error:
            reasons.append(f"{endpoint}: {error.strerror or error}")
        else:
            return
    yield Finding(
        NO_ROUTE,
        f"this machine has no way to {client.profile.server_host}: {'; '.join(reasons)}",
        "check this machine's network; a server with IPv4 alone is out of reach for a machine with IPv6 alone, and the"
        " other way round",
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_ours(endpoint: Endpoint) -> bool:
    """Whether a socket could be bound to it: on every system that is so for a machine's own addresses alone."""
    if ip_address(endpoint.host.partition("%")[0]).is_loopback:
        return True
    try:
        with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
            sock.bind((endpoint.host, 0))
    except OSError:
        return False
    return True
