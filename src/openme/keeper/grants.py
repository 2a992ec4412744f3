"""Who is in: the grants in force, and what that asks of the firewall.

The firewall's doors are keyed by port list and address; people are not known there. Two clients behind one address with
the same ports share a door, so that a door's time is the longest of its grants', and it closes with the last of them.
A door for a network is keyed by the network's first address, and its length is the port list's.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from openme.firewall.base import Door, IPNetwork, PortList
from openme.keeper.ends import Ends
from openme.networks import first_of
from openme.ports import PortRange
from openme.wire.knock import IPAddress

T = TypeVar("T")
DoorKey = tuple[PortList, IPAddress]
GrantKey = tuple[bytes, IPAddress]
"""Whose grant, by 32-byte public key, and for which address: there is one at a time."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One client's open doors for one address, or for one network.

    `ports`: what the client was given, without the health port, which is part of `port_lists` alone. `opened_at`,
    `expires_at`: Unix seconds, for people. `deadline`: monotonic seconds, which alone counts. `network`: None for one
    address; else `address` is its first, and `knocked_for` the one that the last knock was for.
    """

    client_key: bytes
    client_name: str
    address: IPAddress
    ports: tuple[PortRange, ...]
    port_lists: tuple[PortList, ...]
    opened_at: float
    expires_at: float
    deadline: float
    network: IPNetwork | None = None
    knocked_for: IPAddress | None = None

    @property
    def key(self) -> GrantKey:
        """What there is one grant at a time for."""
        return self.client_key, self.address

    @property
    def named(self) -> IPAddress:
        """The address that the last knock was for."""
        return self.address if self.knocked_for is None else self.knocked_for

    @property
    def place(self) -> str:
        """What is open to whom, for people: the address, and the network around it where it is for one."""
        return str(self.named) if self.network is None else f"{self.named} and its network {self.network}"

    @property
    def doors(self) -> tuple[DoorKey, ...]:
        """The firewall's keys of this grant's doors."""
        return tuple((port_list, self.address) for port_list in self.port_lists)


@dataclass(frozen=True, slots=True)
class Change:
    """What the firewall is to do so that it agrees with the grants."""

    open: tuple[Door, ...] = ()
    close: tuple[DoorKey, ...] = ()


class _ByAddress:
    """Grants by address: one that is alone at its own, as nearly all are, takes no mapping of a few hundred bytes."""

    def __init__(self) -> None:
        self._alone: dict[IPAddress, Grant] = {}
        self._together: dict[IPAddress, dict[bytes, Grant]] = {}  # two and more, by client key

    def __iter__(self) -> Iterator[IPAddress]:
        yield from self._alone
        yield from self._together

    def at(self, address: IPAddress) -> Collection[Grant]:
        """Those at an address."""
        if (grant := self._alone.get(address)) is not None:
            return (grant,)
        together = self._together.get(address)
        return () if together is None else together.values()

    def put(self, grant: Grant) -> None:
        """Add it, in the place of another of the same client."""
        address = grant.address
        if (together := self._together.get(address)) is not None:
            together[grant.client_key] = grant
            return
        other = self._alone.get(address)
        if other is None or other.client_key == grant.client_key:
            self._alone[address] = grant
        else:
            del self._alone[address]
            self._together[address] = {other.client_key: other, grant.client_key: grant}

    def take(self, grant: Grant) -> None:
        """Take away what its client has at its address, which must be there."""
        address = grant.address
        if self._alone.pop(address, None) is None:
            together = self._together[address]
            del together[grant.client_key]
            if len(together) == 1:
                del self._together[address]
                (self._alone[address],) = together.values()


class Grants:
    """The grants in force: by address, and by client."""

    def __init__(self) -> None:
        self._by_address = _ByAddress()
        self._by_client: dict[bytes, dict[IPAddress, Grant]] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}  # prefixes that networks have had, by IP version
        self._ends = Ends(lambda address: min((grant.deadline for grant in self._at(address)), default=None))

    def __iter__(self) -> Iterator[Grant]:
        return iter([grant for address in self._by_address for grant in self._at(address)])

    def gradually(self) -> Iterator[Grant]:
        """As they are when it is each one's turn, for who takes them in steps between which they change."""
        for address in list(self._by_address):
            yield from list(self._at(address))

    def clients(self) -> Iterable[bytes]:
        """The public keys of those who have open doors."""
        return self._by_client.keys()

    def of_client(self, client_key: bytes) -> list[Grant]:
        """The grants of the client with this public key."""
        return list(self._by_client.get(client_key, {}).values())

    def is_open(self, address: IPAddress, service: PortRange) -> bool:
        """Whether anybody has an open door for this address to this one port."""
        around = (first_of(address, length) for length in self._lengths[address.version])
        return any(
            item.proto == service.proto and item.first <= service.first <= item.last
            for first in {address, *around}
            for grant in self._at(first)
            if grant.address == address or (grant.network is not None and address in grant.network)
            for port_list in grant.port_lists
            for item in port_list.ports
        )

    def addresses(self) -> list[IPAddress]:
        """The addresses that somebody has open doors for."""
        return list(self._by_address)

    def at(self, address: IPAddress, client_key: bytes) -> Grant | None:
        """The client's grant for an address, or for a network that begins with it."""
        return self._by_client.get(client_key, {}).get(address)

    def holds(self, grant: Grant) -> bool:
        """Whether this opening is in force still, under whatever ports and name: not a later one in its place."""
        held = self.at(grant.address, grant.client_key)
        return held is not None and held.deadline == grant.deadline

    def part(self, addresses: Iterable[IPAddress]) -> "Grants":
        """The same grants for these addresses, so that a change can be tried without being made."""
        made = Grants()
        for address in addresses:
            for grant in self._at(address):
                made._hold(grant)
        return made

    def put_back(self, part: "Grants", addresses: Iterable[IPAddress]) -> None:
        """Hold for these addresses what `part`, taken for just these, has become."""
        for address in addresses:
            for grant in list(self._at(address)):
                if part.at(address, grant.client_key) is None:
                    self._drop(grant)
            for grant in part._at(address):  # noqa: SLF001  # of this class
                self._hold(grant)

    def door(self, key: DoorKey, now: float) -> Door | None:
        """The door with this key for the longest time that somebody's grant asks for; None where nobody's does."""
        port_list, address = key
        deadlines = [g.deadline for g in self._at(address) if key in g.doors]
        remaining = max(deadlines, default=now) - now
        return Door(port_list, address, remaining) if remaining > 0 else None

    def doors_for(self, grant: Grant, now: float) -> tuple[Door, ...]:
        """The doors to open for a new grant: each for the longest time that it or another client's grant asks for."""
        beside = [g for g in self._at(grant.address) if g.client_key != grant.client_key]
        return tuple(
            Door(port_list, address, max(g.deadline for g in (grant, *beside) if (port_list, address) in g.doors) - now)
            for port_list, address in grant.doors
        )

    def doors_of(self, grants: Iterable[Grant], now: float) -> dict[DoorKey, Door]:
        """The doors to open for these new grants, as `doors_for`; whoever is behind an address is looked at once."""
        new: dict[IPAddress, dict[bytes, Grant]] = {}
        for grant in grants:
            new.setdefault(grant.address, {})[grant.client_key] = grant
        doors: dict[DoorKey, Door] = {}
        for address, of_address in new.items():
            longest: dict[DoorKey, float] = {}
            for grant in of_address.values():
                for key in grant.doors:
                    longest[key] = max(grant.deadline, longest.get(key, grant.deadline))
            for grant in self._at(address):
                if grant.client_key not in of_address:
                    for key in grant.doors:
                        if key in longest:
                            longest[key] = max(longest[key], grant.deadline)
            doors |= {key: Door(*key, deadline - now) for key, deadline in longest.items()}
        return doors

    def lasting_doors_of(self, grants: Iterable[Grant], now: float) -> dict[DoorKey, Door]:
        """The doors to put back for grants that have been in force: not those for a single use, which may be used up.

        Whether one is used up only the kernel knows, in the set that was lost.
        """
        doors = self.doors_of(grants, now).items()
        return {key: door for key, door in doors if door.seconds > 0 and not door.port_list.single_use}

    def add(self, grant: Grant) -> Grant | None:
        """Put a grant in force, in place of an earlier one of the same client and address, which is returned."""
        earlier = self.at(grant.address, grant.client_key)
        like = earlier or next(iter(self._by_client.get(grant.client_key, {}).values()), None)
        if like is not None:
            # What another grant of this client's says as well is in memory once.
            grant = replace(
                grant,
                client_key=like.client_key,
                client_name=_first(like.client_name, grant.client_name),
                ports=_first(like.ports, grant.ports),
                port_lists=_first(like.port_lists, grant.port_lists),
                address=grant.address if earlier is None else earlier.address,
                opened_at=grant.opened_at if earlier is None else earlier.opened_at,
            )
        self._hold(grant)
        return earlier

    def take_back(self, grant: Grant, earlier: Grant | None) -> None:
        """Undo an `add` whose doors did not open: what `earlier` has opened is open still."""
        if earlier is None:
            self._drop(grant)
        else:
            self._hold(earlier)

    def changed_by(
        self, grants: Iterable[Grant], earlier: Iterable[Grant | None], known: Collection[PortList], now: float
    ) -> Change:
        """What grants that were just added ask of the firewall: their doors, and the end of those that they had not
        kept of `earlier`, whose places they took.

        Such are the doors of one who knocks again before his have followed a changed config. `known`: the port lists
        that the firewall has rules for.
        """
        opening = self.doors_of(grants, now)
        closing: list[DoorKey] = []
        for key in dict.fromkeys(key for grant in earlier if grant is not None for key in grant.doors):
            if key not in opening:
                if (door := self.door(key, now)) is None:
                    closing.append(key)
                elif key[0] in known and not key[0].single_use:
                    opening[key] = door
        return Change(tuple(opening.values()), tuple(closing))

    @property
    def next_end(self) -> float:
        """When `expire` is to look again, in monotonic seconds, `inf` without a grant.

        Not after the first deadline; before it when its second begins, and where a grant that would have ended sooner
        was given anew or taken away.
        """
        return self._ends.next_at

    def expire(self, now: float) -> list[Grant]:
        """Drop and return the grants whose time is over; the kernel has closed their doors by itself."""
        over: list[Grant] = []
        for address in self._ends.due(now):
            ended = [grant for grant in self._at(address) if grant.deadline <= now]
            for grant in ended:
                self._drop(grant)
            over += ended
        return over

    def remove(self, grants: Iterable[Grant], now: float) -> Change:
        """End grants early: doors nobody else holds are closed, the others fall back to what the rest asks for.

        Somebody else's single-use door stays as it is: it may have been used, and must not come back.
        """
        touched: dict[DoorKey, None] = {}
        for grant in grants:
            # The doors of the grant as it is held: the caller's copy may already have moved to other ports.
            if held := self._drop(grant):
                touched.update(dict.fromkeys(held.doors))
        to_open: list[Door] = []
        to_close: list[DoorKey] = []
        for port_list, address in touched:
            beside = self._at(address)
            remaining = max((g.deadline for g in beside if (port_list, address) in g.doors), default=now) - now
            if remaining <= 0:
                to_close.append((port_list, address))
            elif not port_list.single_use:
                to_open.append(Door(port_list, address, remaining))
        return Change(tuple(to_open), tuple(to_close))

    def _at(self, address: IPAddress) -> Collection[Grant]:
        return self._by_address.at(address)

    def _hold(self, grant: Grant) -> None:
        """Have it in force, in the place of another of the same client and address."""
        beside = self._at(grant.address)
        if not beside or grant.deadline < min(held.deadline for held in beside):
            self._ends.note(grant.address, grant.deadline)
        self._by_address.put(grant)
        self._by_client.setdefault(grant.client_key, {})[grant.address] = grant
        if grant.network is not None:
            self._lengths[grant.network.version].add(grant.network.prefixlen)

    def _drop(self, grant: Grant) -> Grant | None:
        """Have nothing in force for this one's client and address; what was."""
        of_client = self._by_client.get(grant.client_key, {})
        dropped = of_client.pop(grant.address, None)
        if dropped is not None:
            self._by_address.take(dropped)
            if not of_client:
                del self._by_client[grant.client_key]
        return dropped


def _first(known: T, said: T) -> T:
    """The first of two that are equal, else the second."""
    return known if known == said else said
