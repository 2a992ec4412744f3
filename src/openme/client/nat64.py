"""The NAT64 prefix of the network that we are in (RFC 7050, RFC 8880): asked of its resolver, in half a second at most.

A resolver that makes IPv6 addresses for hosts with IPv4 alone makes them for `ipv4only.arpa` too, whose IPv4 addresses
are known; where they stand in its answer says what stands before them.
"""

import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network, ip_network

NAME = "ipv4only.arpa"
PATIENCE = 0.5  # seconds
_IPV4 = (bytes([192, 0, 0, 170]), bytes([192, 0, 0, 171]))  # RFC 8880
_LENGTHS = (96, 64, 56, 48, 40, 32)  # RFC 6052 section 2.2
_UNUSED = 8  # the byte that no IPv4 address is written into


def prefixes_in(addresses: Iterable[IPv6Address]) -> tuple[IPv6Network, ...]:
    """The prefixes that an answer for `ipv4only.arpa` shows; none where nothing is translated."""
    found: dict[IPv6Network, None] = {}
    for address in addresses:
        for length in _LENGTHS:
            if _embedded(address.packed, length) in _IPV4:
                found[ip_network((address, length), strict=False)] = None  # type: ignore[index]  # of version 6
                break
    return tuple(found)


def _embedded(packed: bytes, length: int) -> bytes:
    at = length // 8
    if length == 96:
        return packed[at : at + 4]
    without = packed[:_UNUSED] + packed[_UNUSED + 1 :]
    return without[at : at + 4]


def _ask() -> list[IPv6Address]:
    found = socket.getaddrinfo(NAME, None, socket.AF_INET6, socket.SOCK_DGRAM)
    return [IPv6Address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]


def look_up(ask: Callable[[], list[IPv6Address]] = _ask, patience: float = PATIENCE) -> tuple[IPv6Network, ...] | None:
    """The prefixes of this network, none where it has no NAT64; None if nobody said so within `patience` seconds."""
    from openme.client.waiting import within  # noqa: PLC0415  # with threading, which few knocks need

    try:
        return prefixes_in(within(patience, ask))
    except socket.gaierror as error:
        # There is no such address: the answer of every network without NAT64. Any other failure is none.
        known = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None)}
        return () if error.errno in known else None
    except (OSError, ValueError):
        return None


LIFETIME = 24 * 3600  # seconds that an answer is good for in the network where it was given
RETRY = 600  # seconds until a resolver that did not answer is asked again
MOST_NETWORKS = 16


class Nat64:
    """What was learnt of the networks that this machine has been in. `load` and `save` are the caller's storage."""

    def __init__(
        self,
        load: Callable[[], dict[str, object]],
        save: Callable[[dict[str, object]], None],
        look: Callable[[], tuple[IPv6Network, ...] | None] = look_up,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load, self._save, self._look, self._clock = load, save, look, clock

    def prefixes(self, own: IPv6Address) -> tuple[IPv6Network, ...]:
        """The prefixes of the network where `own` is our address: a network is known by its first 64 bits."""
        network = str(ip_network((own, 64), strict=False))
        now = self._clock()
        stored = self._load()
        if (known := _read(stored.get(network), now)) is not None:
            return known
        found = self._look()
        entry = {"at": int(now), "prefixes": None if found is None else [str(prefix) for prefix in found]}
        kept = {key: value for key, value in stored.items() if key != network}
        self._save({**dict(list(kept.items())[-(MOST_NETWORKS - 1) :]), network: entry})
        return found or ()


def _read(entry: object, now: float) -> tuple[IPv6Network, ...] | None:
    """What is known of a network still; None if it is to be asked. Whatever else stands there is nothing."""
    if not isinstance(entry, dict) or type(at := entry.get("at")) is not int:
        return None
    prefixes = entry.get("prefixes")
    if not 0 <= now - at < (RETRY if prefixes is None else LIFETIME):
        return None
    if prefixes is None:
        return ()
    try:
        return tuple(IPv6Network(prefix) for prefix in prefixes)
    except (TypeError, ValueError):
        return None
