"""Networks around addresses: what a door may be for, and which of many networks an address is in."""

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def first_of(address: IPAddress, length: int) -> IPAddress:
    """The first address of the network with this prefix length around an address."""
    host_bits = address.max_prefixlen - length
    return address if host_bits == 0 else type(address)(int(address) >> host_bits << host_bits)


def network_around(address: IPAddress, length: int) -> IPNetwork:
    """The network with this prefix length around an address."""
    first = first_of(address, length)
    return IPv4Network((first, length)) if isinstance(first, IPv4Address) else IPv6Network((first, length))


class Places:
    """Single addresses and networks; `address in places` looks each length of prefix up once."""

    def __init__(self) -> None:
        self._found: set[tuple[IPAddress, int]] = set()
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}

    def add(self, address: IPAddress, network: IPNetwork | None = None) -> None:
        """Take in a network, or without one the address alone."""
        length = address.max_prefixlen if network is None else network.prefixlen
        self._found.add((address if network is None else network.network_address, length))
        self._lengths[address.version].add(length)

    def __contains__(self, address: IPAddress) -> bool:
        return any((first_of(address, length), length) in self._found for length in self._lengths[address.version])


def is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether all of `inner` is in `outer`; networks of different versions never are."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def collapsed(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    """The same addresses in as few networks as there can be."""
    networks = list(networks)
    yield from ipaddress.collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    yield from ipaddress.collapse_addresses(n for n in networks if isinstance(n, IPv6Network))


def in_order(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Networks of one length for each version, each once, as `inside` wants them."""
    return sorted(set(networks), key=_place)


def inside(outer: IPNetwork, ordered: Sequence[IPNetwork]) -> Sequence[IPNetwork]:
    """Those of `in_order` that `outer` holds, found without a look at the others; or the one that holds `outer`."""
    begin, end = _place(outer), _place(network_around(outer.broadcast_address, outer.max_prefixlen))
    first, last = bisect_left(ordered, begin, key=_place), bisect_right(ordered, end, key=_place)
    if first == last and first > 0 and is_within(outer, ordered[first - 1]):
        return ordered[first - 1 : first]
    return ordered[first:last]


def _place(network: IPNetwork) -> tuple[int, int]:
    return network.version, int(network.network_address)


def without(outer: IPNetwork, taken: Iterable[IPNetwork]) -> list[IPNetwork]:
    """What is left of `outer` without these networks, in as few networks as there can be."""
    kind = type(outer.network_address)
    left: list[IPNetwork] = []
    begin, end = int(outer.network_address), int(outer.broadcast_address)
    for inner in collapsed(taken):
        if is_within(outer, inner):
            return []
        if is_within(inner, outer):
            left += _between(kind, begin, int(inner.network_address) - 1)
            begin = int(inner.broadcast_address) + 1
    return [*left, *_between(kind, begin, end)]


def _between(kind: type[IPAddress], first: int, last: int) -> Iterator[IPNetwork]:
    if first <= last:
        yield from ipaddress.summarize_address_range(kind(first), kind(last))
