"""Which packets go to which addresses: one knock for each address family, to all addresses of it. Pure.

A name may have several addresses of one family, of which some are stale, in somebody else's hands by now. They all get
the same packet, with one nonce: a second fresh one would be an unused knock in the hands of whoever holds a stale
address. IPv4 and IPv6 stay two knocks, since nobody knows by which one the connection will come.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from openme.client.addresses import AUTO, SOURCE, Endpoint, parse_target
from openme.wire.knock import IPAddress

MOST_ADDRESSES = 16
"""Addresses of one family that are knocked at."""

TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
"""Where IPv4 hosts are reached from an IPv6-only network (RFC 6052, RFC 8215)."""


class Family(NamedTuple):
    """The addresses of one family that get one packet, and how many more the name has."""

    endpoints: tuple[Endpoint, ...]
    left_out: int = 0


def by_family(endpoints: Iterable[Endpoint]) -> list[Family]:
    """The addresses in groups, in their order, each once."""
    groups: dict[int, list[Endpoint]] = {}
    for endpoint in dict.fromkeys(endpoints):
        groups.setdefault(endpoint.family, []).append(endpoint)
    return [Family(tuple(group[:MOST_ADDRESSES]), max(0, len(group) - MOST_ADDRESSES)) for group in groups.values()]


class Packet(NamedTuple):
    """A datagram on its way. `pause`: seconds that are to pass since the one before it, if any has left."""

    endpoint: Endpoint
    datagram: bytes
    pause: float


def packets(endpoints: Iterable[Endpoint], datagram: bytes, pause: float) -> list[Packet]:
    """What leaves for a family: the same to all of its addresses."""
    return [Packet(endpoint, datagram, pause) for endpoint in endpoints]


def target(
    wanted: str | None,
    own: IPAddress,
    endpoints: Iterable[Endpoint],
    prefixes: Iterable[IPv6Network] = (),
    *,
    by_default: str = SOURCE,
) -> IPAddress | None:
    """The address that a knock to `endpoints` names; None for "my source address" (spec wire-v2.md "Target IP").

    `wanted` is an address, `source`, `auto` (our `own` address where it is a global one and nothing on the way
    translates it, so that nobody on the way can have the ports opened for himself; else the source) or None for
    `by_default`. `prefixes`: those of this network's NAT64, beside the ones that all networks have in common.
    """
    word = by_default if wanted is None else wanted
    if word == SOURCE:
        return None
    if word == AUTO:
        return own if own.is_global and not is_translated(endpoints, prefixes) else None
    address = parse_target(word)
    return None if address.is_unspecified else address


def hangs_on_prefixes(wanted: str | None, own: IPAddress, named: IPAddress | None, *, by_default: str = SOURCE) -> bool:
    """Whether `target`, which gave `named`, might give another answer if it knew this network's NAT64."""
    return named is not None and (wanted or by_default) == AUTO and isinstance(own, IPv6Address)


def is_translated(endpoints: Iterable[Endpoint], prefixes: Iterable[IPv6Network] = ()) -> bool:
    """Whether a server at one of these addresses sees another address than the one that we send from."""
    networks = (*TRANSLATED, *prefixes)
    addresses = (ip_address(endpoint.host.partition("%")[0]) for endpoint in endpoints)
    return any(isinstance(address, IPv6Address) and address in network for address in addresses for network in networks)
