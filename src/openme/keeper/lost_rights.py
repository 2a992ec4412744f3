"""What clients may reach no more: the addresses and ports of theirs whose UDP exchanges have to end.

A TCP connection has a beginning, which a door judges. An UDP exchange goes on for as long as packets come: whoever lost
a right must lose the exchanges with it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from openme.config.model import ClientEntry
from openme.firewall.base import CutTarget, Steps
from openme.keeper.policy import door_network, may_come_from
from openme.max_port import MAX_PORT
from openme.networks import IPNetwork, in_order, inside, network_around, without
from openme.ports import PortRange, common
from openme.store.base import Holder
from openme.wire.knock import IPAddress

_AT_ONCE = 200  # clients compared in one step

HoldersOf = Callable[[bytes], list[Holder]]
ClientOf = Callable[[bytes], ClientEntry | None]


def usable_ports(client: ClientEntry | None, now: datetime) -> tuple[PortRange, ...]:
    """The ports that a client may have open, from where it may come from."""
    return () if client is None or (client.expires is not None and client.expires <= now) else client.ports


def rightful(holders: Iterable[Holder], client: ClientEntry | None) -> list[IPNetwork]:
    """The networks that this client's doors for the addresses it has knocked for would be for now."""
    if client is None:
        return []
    return [_around(client, holder.named) for holder in holders if may_come_from(client, holder.named)]


def lost_to(
    holder: Holder, client: ClientEntry | None, now: datetime, others: Sequence[IPNetwork] = ()
) -> list[CutTarget]:
    """What this holder was given and may have no more; `others`: where else the client may come from (`rightful`), in
    the order of `networks.in_order`.
    """
    usable = usable_ports(client, now)
    if holder.network is None:
        allowed = usable if client is not None and may_come_from(client, holder.address) else ()
        ports = tuple(_without(holder.ports, allowed))
        return [CutTarget(holder.address, ports)] if ports else []
    targets = []
    if ports := tuple(_without(holder.ports, usable)):
        targets.append(CutTarget(holder.address, ports, network=holder.network))
    if kept := common(holder.ports, usable):
        # The network may be a narrower one now: what comes from the rest of it has no right any more.
        outside = without(holder.network, (*inside(holder.network, others), *rightful([holder], client)))
        targets += (CutTarget(part.network_address, kept, network=part) for part in outside)
    return targets


class Expiries:
    """When the rights of clients end by themselves."""

    def __init__(self, now: datetime) -> None:
        self._looked = now
        self._ends: Sequence[tuple[datetime, bytes]] = ()

    def follow(self, ends: Sequence[tuple[datetime, bytes]]) -> None:
        """Know when the clients of a changed config expire: moment and public key of each, in order of time."""
        self._ends = ends

    @property
    def next_end(self) -> datetime | None:
        """The first moment after the last look at which somebody expires."""
        at = bisect_right(self._ends, self._looked, key=lambda end: end[0])
        return self._ends[at][0] if at < len(self._ends) else None

    def passed(self, now: datetime) -> list[bytes]:
        """Public keys of the clients that have expired since the last look. Where the clock was set back they may
        expire again.
        """
        before, self._looked = self._looked, now
        first, last = (bisect_right(self._ends, moment, key=lambda end: end[0]) for moment in (before, now))
        return [key for _, key in self._ends[first:last]]


def lost_by_change(
    keys: Iterable[bytes], before: ClientOf, client_of: ClientOf, holders_of: HoldersOf, now: datetime
) -> Steps[list[CutTarget]]:
    """What the clients with these public keys have lost by a change of the config.

    `before` knows them as they were, `client_of` as they are now. `keys` are of those who were given a door: nobody
    else has anything to lose, and among a hundred thousand clients they are few.
    """
    targets: list[CutTarget] = []
    for number, key in enumerate(keys, 1):
        if number % _AT_ONCE == 0:
            yield
        if (old := before(key)) is None:
            continue
        new = client_of(key)
        if new is None or _rights(new) != _rights(old):
            targets += yield from lost_by_keys([key], client_of, holders_of, now)
    return targets


def lost_by_keys(
    keys: Iterable[bytes], client_of: ClientOf, holders_of: HoldersOf, now: datetime
) -> Steps[list[CutTarget]]:
    """What the clients with these public keys were given in the last 30 days and may have no more."""
    targets: list[CutTarget] = []
    for key in keys:
        holders, client = holders_of(key), client_of(key)
        others: list[IPNetwork] = []
        if any(holder.network is not None for holder in holders):
            for start in range(0, len(holders), _AT_ONCE):
                others += rightful(holders[start : start + _AT_ONCE], client)
                yield
        others = in_order(others)
        for holder in holders:
            targets += lost_to(holder, client, now, others)
            if holder.network is not None:
                yield
        yield
    return targets


def _around(client: ClientEntry, address: IPAddress) -> IPNetwork:
    return door_network(client, address) or network_around(address, address.max_prefixlen)


def _rights(client: ClientEntry) -> tuple[object, ...]:
    return client.ports, client.allowed_from, client.expires, client.prefix_v4, client.prefix_v6


def _without(ranges: Iterable[PortRange], taken: Iterable[PortRange]) -> Iterator[PortRange]:
    """The ports of `ranges` that are in none of `taken`."""
    taken = sorted(taken)
    for item in ranges:
        first = item.first
        for other in taken:
            if other.proto != item.proto or other.last < first or other.first > item.last:
                continue
            if other.first > first:
                yield PortRange(item.proto, first, other.first - 1)
            first = other.last + 1
        if first <= min(item.last, MAX_PORT):
            yield PortRange(item.proto, first, item.last)
