"""What a client that has proven itself may open: where, which ports, for how long."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from openme.config.client_index import Openable
from openme.config.model import ClientEntry
from openme.firewall.base import IPNetwork, PortList
from openme.networks import collapsed, is_within, network_around
from openme.ports import PortRange, merged, port
from openme.reasons import Reason
from openme.wire.knock import IPAddress

# A door opens for one unicast address. What is none, by the name under which a refusal is counted (IANA's special
# purpose registries, RFC 6890). Private, link-local and documentation networks are unicast and stay.
_REFUSED: dict[Reason, tuple[IPv4Network | IPv6Network, ...]] = {
    Reason.LOOPBACK: (ip_network("127.0.0.0/8"), ip_network("::1")),
    Reason.UNSPECIFIED: (ip_network("0.0.0.0/8"), ip_network("::")),
    Reason.MULTICAST: (ip_network("224.0.0.0/4"), ip_network("ff00::/8")),
    Reason.BROADCAST: (ip_network("255.255.255.255"),),
    Reason.RESERVED: (ip_network("240.0.0.0/4"),),
    # The other spellings of an IPv4 address inside IPv6: compatible (RFC 4291 2.5.5.1) and translated (RFC 2765 2.1).
    # No packet arrives from them, and mapped ones have become IPv4 before they get here.
    Reason.EMBEDDED: (ip_network("::/96"), ip_network("::ffff:0:0:0/96")),
}

_REFUSED_OF = {
    version: tuple(
        (int(network[0]), int(network[-1]), reason)
        for reason, networks in _REFUSED.items()
        for network in networks
        if network.version == version
    )
    for version in (4, 6)
}

# Where IPv6 addresses hold IPv4 ones, hosts from all over IPv4 are neighbours: NAT64 (RFC 6052, RFC 8215) and Teredo
# (RFC 4380). From this length on no more of them are than of `prefix_v4: 16`.
_HOLD_IPV4 = (ip_network("64:ff9b::/47"), ip_network("2001::/32"))
_FEW_OF_IPV4 = 112

_MOST_LISTS = 1024  # that are known without being made anew: a grant holds its own, and there may be very many


@dataclass(frozen=True, slots=True)
class Opening:
    """What a knock opens: port lists, for one address or for the network around it, for `seconds`."""

    address: IPAddress
    port_lists: tuple[PortList, ...]
    seconds: float
    network: IPNetwork | None = None


@dataclass(frozen=True, slots=True)
class PolicyRefusal:
    """Why a proven client opens nothing."""

    reason: Reason


def refused_target(address: IPAddress, is_own: Callable[[IPAddress], bool | None]) -> Reason | None:
    """The name of the rule by which no door opens for this address, or None (spec security-model.md, `target`).

    `is_own` tells the addresses that are the server's own or a broadcast address of its networks; None: it cannot be
    told, and so no door opens.
    """
    number = int(address)
    for first, last, reason in _REFUSED_OF[address.version]:
        if first <= number <= last:
            return reason
    own = is_own(address)
    if own is None:
        return Reason.UNCHECKED_ADDRESS
    return Reason.OWN_ADDRESS if own else None


@lru_cache(_MOST_LISTS)
def health_list(health_port: int, prefix_v4: int = 32, prefix_v6: int = 128) -> PortList:
    """The health port as a list of its own: whoever opens a door opens it too, but it never uses a single use up."""
    return PortList((port("tcp", health_port),), prefix_v4=prefix_v4, prefix_v6=prefix_v6)


def door_network(client: ClientEntry, address: IPAddress) -> IPNetwork | None:
    """The network around this address that the client's doors are for; None: they are for the address alone."""
    length = client.prefix_v4 if address.version == 4 else client.prefix_v6
    return None if length == address.max_prefixlen else network_around(address, length)


def refused_place(client: ClientEntry, address: IPAddress) -> Reason | None:
    """Why this client's doors are for no such address, or not for the network around it; None: they are.

    `allowed_from` has to have all that a door is for: the whole network, where it is for one.
    """
    if address.version == 6 and client.prefix_v6 < _FEW_OF_IPV4 and any(address in wide for wide in _HOLD_IPV4):
        return Reason.ALL_OF_IPV4
    if not client.allowed_from:
        return None
    if not any(address in network for network in client.allowed_from):
        return Reason.ALLOWED_FROM
    wanted = door_network(client, address)
    if wanted is None or any(is_within(wanted, network) for network in client.allowed_from):
        return None
    whole = any(is_within(wanted, network) for network in collapsed(client.allowed_from))  # two halves make a whole
    return None if whole else Reason.ALLOWED_FROM


def may_come_from(client: ClientEntry, address: IPAddress) -> bool:
    """Whether this client's doors may be for this address, and for the network around it where they are for one."""
    return refused_place(client, address) is None


def client_lists(client: ClientEntry | Openable, health_port: int) -> tuple[PortList, ...]:
    """The port lists that this client's doors consist of; the same objects for all who may open the same."""
    prefixes = client.prefix_v4, client.prefix_v6
    return _lists(client.ports, client.single_use, *prefixes, None if client.disable_health_port else health_port)


@lru_cache(_MOST_LISTS)
def _lists(
    ports: tuple[PortRange, ...],
    single_use: bool,  # noqa: FBT001  # as they stand in a client's entry
    prefix_v4: int,
    prefix_v6: int,
    health_port: int | None,
) -> tuple[PortList, ...]:
    lists: list[PortList] = []
    if ports:
        lists.append(PortList(merged(ports), single_use, prefix_v4=prefix_v4, prefix_v6=prefix_v6))
    # Named among the client's own ports it is a service's: a second list would open it anew after a single use.
    if health_port is not None and not any(
        item.proto == "tcp" and item.first <= health_port <= item.last for item in ports
    ):
        lists.append(health_list(health_port, prefix_v4, prefix_v6))
    return tuple(dict.fromkeys(lists))


def decide(  # noqa: PLR0917  # the facts that the decision rests on, each once
    client: ClientEntry,
    target: IPAddress | None,
    source: IPAddress,
    now: datetime,
    knock_timeout: float,
    health_port: int,
    is_own: Callable[[IPAddress], bool | None],
) -> Opening | PolicyRefusal:
    """What this client's knock opens. `target` None stands for the source address; times in seconds."""
    if target is None and client.require_target_ip:
        return PolicyRefusal(Reason.TARGET_REQUIRED)
    address = source if target is None else target
    if reason := refused_target(address, is_own):
        return PolicyRefusal(reason)
    if reason := refused_place(client, address):
        return PolicyRefusal(reason)
    lists = client_lists(client, health_port)
    if not lists:
        return PolicyRefusal(Reason.NO_PORTS)
    seconds = knock_timeout if client.max_timeout is None else min(knock_timeout, client.max_timeout)
    if client.expires is not None:
        # The kernel itself ends the door of a client that expires meanwhile, whether or not we are alive.
        seconds = min(seconds, (client.expires - now).total_seconds())
    if seconds <= 0:
        return PolicyRefusal(Reason.EXPIRED)
    return Opening(address, lists, seconds, door_network(client, address))
