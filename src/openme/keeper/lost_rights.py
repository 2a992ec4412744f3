"""What clients may reach no more: the addresses and ports of theirs whose UDP exchanges have to end.

A TCP connection has a beginning, which a door judges. An UDP exchange goes on for as long as packets come: whoever lost
a right must lose the exchanges with it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from openme.config.model import ClientEntry
from openme.firewall.base import CutTarget, Steps
from openme.keeper.store import Holder
from openme.ports import MAX_PORT, PortRange
from openme.wire.knock import IPAddress

_AT_ONCE = 200  # clients compared in one step

HoldersOf = Callable[[bytes], list[Holder]]
ClientOf = Callable[[bytes], ClientEntry | None]


def allowed_ports(client: ClientEntry | None, address: IPAddress, now: datetime) -> tuple[PortRange, ...]:
    """The ports that a client may have open for an address."""
    if client is None or (client.expires is not None and client.expires <= now):
        return ()
    if client.allowed_from and not any(address in network for network in client.allowed_from):
        return ()
    return client.ports


def lost_to(holder: Holder, client: ClientEntry | None, now: datetime) -> CutTarget | None:
    """What this holder was given and may have no more."""
    ports = tuple(_without(holder.ports, allowed_ports(client, holder.address, now)))
    return CutTarget(holder.address, ports) if ports else None


class Expiries:
    """When the rights of clients end by themselves."""

    def __init__(self, now: datetime) -> None:
        self._looked = now
        self._ends: list[tuple[datetime, bytes]] = []

    def follow(self, ends: Iterable[tuple[datetime, bytes]]) -> None:
        """Know when the clients of a changed config expire: moment and public key of each."""
        self._ends = sorted(ends)

    def passed(self, now: datetime) -> list[bytes]:
        """Public keys of the clients that have expired since the last look. Where the clock was set back they may
        expire again.
        """
        before, self._looked = self._looked, now
        first, last = (bisect_right(self._ends, moment, key=lambda end: end[0]) for moment in (before, now))
        return [key for _, key in self._ends[first:last]]


def lost_by_change(
    before: Mapping[str, ClientEntry], client_of: ClientOf, holders_of: HoldersOf, now: datetime
) -> Steps[list[CutTarget]]:
    """What the clients of `before` have lost by a change of the config; `client_of` knows them as they are now."""
    targets: list[CutTarget] = []
    for number, old in enumerate(before.values(), 1):
        if number % _AT_ONCE == 0:
            yield
        key = old.public_key.raw
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
        lost = (lost_to(holder, client_of(key), now) for holder in holders_of(key))
        targets += (target for target in lost if target is not None)
        yield
    return targets


def _rights(client: ClientEntry) -> tuple[object, ...]:
    return client.ports, client.allowed_from, client.expires


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
