"""Who is in: the grants in force, and what that asks of the firewall.

The firewall's doors are keyed by port list and address; people are not known there. Two clients behind one address with
the same ports share a door, so that a door's time is the longest of its grants', and it closes with the last of them.
A door for a network is keyed by the network's first address, and its length is the port list's.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count

from openme.firewall.base import Door, IPNetwork, PortList
from openme.networks import first_of
from openme.ports import PortRange
from openme.wire.knock import IPAddress

DoorKey = tuple[PortList, IPAddress]
GrantKey = tuple[bytes, IPAddress]
"""Whose grant, by 32-byte public key, and for which address: there is one at a time."""

_STALE_ENTRIES = 1000  # of the heap, beside as many as there are grants


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


class Grants:
    """The grants in force: by address, then by client key. Which of them end next tells a heap of their deadlines."""

    def __init__(self) -> None:
        self._by_address: dict[IPAddress, dict[bytes, Grant]] = {}
        self._by_client: dict[bytes, dict[IPAddress, Grant]] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}  # prefixes that networks have had, by IP version
        # (deadline, a number, client key, address) of every grant, and of some that were replaced or have ended.
        self._ends: list[tuple[float, int, bytes, IPAddress]] = []
        self._numbers = count()  # since addresses of two families have no order
        self._most_ends = _STALE_ENTRIES

    def __iter__(self) -> Iterator[Grant]:
        return iter([grant for beside in self._by_address.values() for grant in beside.values()])

    def gradually(self) -> Iterator[Grant]:
        """As they are when it is each one's turn, for who takes them in steps between which they change."""
        for beside in list(self._by_address.values()):
            yield from list(beside.values())

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
            for grant in self._by_address.get(first, {}).values()
            if grant.address == address or (grant.network is not None and address in grant.network)
            for port_list in grant.port_lists
            for item in port_list.ports
        )

    def addresses(self) -> list[IPAddress]:
        """The addresses that somebody has open doors for."""
        return list(self._by_address)

    def at(self, address: IPAddress, client_key: bytes) -> Grant | None:
        """The client's grant for an address, or for a network that begins with it."""
        return self._by_address.get(address, {}).get(client_key)

    def holds(self, grant: Grant) -> bool:
        """Whether this opening is in force still, under whatever ports and name: not a later one in its place."""
        held = self.at(grant.address, grant.client_key)
        return held is not None and held.deadline == grant.deadline

    def part(self, addresses: Iterable[IPAddress]) -> "Grants":
        """The same grants for these addresses, so that a change can be tried without being made."""
        made = Grants()
        for address in addresses:
            if beside := self._by_address.get(address):
                made._by_address[address] = dict(beside)
                for grant in beside.values():
                    made._note(grant)
        return made

    def put_back(self, part: "Grants", addresses: Iterable[IPAddress]) -> None:
        """Hold for these addresses what `part`, taken for just these, has become."""
        held = part._by_address  # noqa: SLF001  # of this class
        for address in addresses:
            before, after = self._by_address.pop(address, {}), held.get(address, {})
            for client_key in before.keys() - after.keys():
                self._forget(client_key, address)
            for client_key, grant in after.items():
                if before.get(client_key) is not grant:
                    self._note(grant)
            if after:
                self._by_address[address] = after

    def door(self, key: DoorKey, now: float) -> Door | None:
        """The door with this key for the longest time that somebody's grant asks for; None where nobody's does."""
        port_list, address = key
        deadlines = [g.deadline for g in self._by_address.get(address, {}).values() if key in g.doors]
        remaining = max(deadlines, default=now) - now
        return Door(port_list, address, remaining) if remaining > 0 else None

    def doors_for(self, grant: Grant, now: float) -> tuple[Door, ...]:
        """The doors to open for a new grant: each for the longest time that it or another client's grant asks for."""
        beside = [g for key, g in self._by_address.get(grant.address, {}).items() if key != grant.client_key]
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
            for client_key, grant in self._by_address.get(address, {}).items():
                if client_key not in of_address:
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
        beside = self._by_address.setdefault(grant.address, {})
        earlier = beside.get(grant.client_key)
        beside[grant.client_key] = held = grant if earlier is None else replace(grant, opened_at=earlier.opened_at)
        self._note(held)
        return earlier

    def take_back(self, grant: Grant, earlier: Grant | None) -> None:
        """Undo an `add` whose doors did not open: what `earlier` has opened is open still."""
        if earlier is None:
            self._drop(grant)
        else:
            self._by_address[grant.address][grant.client_key] = earlier
            self._note(earlier)

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

    def expire(self, now: float) -> list[Grant]:
        """Drop and return the grants whose time is over; the kernel has closed their doors by itself."""
        over: list[Grant] = []
        while self._ends and self._ends[0][0] <= now:
            _, _, client_key, address = heappop(self._ends)
            held = self._by_client.get(client_key, {}).get(address)
            if held is not None and held.deadline <= now:  # else it was given anew, and has another entry
                self._drop(held)
                over.append(held)
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
            beside = self._by_address.get(address, {}).values()
            remaining = max((g.deadline for g in beside if (port_list, address) in g.doors), default=now) - now
            if remaining <= 0:
                to_close.append((port_list, address))
            elif not port_list.single_use:
                to_open.append(Door(port_list, address, remaining))
        return Change(tuple(to_open), tuple(to_close))

    def _drop(self, grant: Grant) -> Grant | None:
        beside = self._by_address.get(grant.address, {})
        held = beside.pop(grant.client_key, None)
        if held is not None:
            self._forget(grant.client_key, grant.address)
        if held is not None and not beside:
            del self._by_address[grant.address]
        return held

    def _note(self, grant: Grant) -> None:
        if grant.network is not None:
            self._lengths[grant.network.version].add(grant.network.prefixlen)
        self._by_client.setdefault(grant.client_key, {})[grant.address] = grant
        heappush(self._ends, (grant.deadline, next(self._numbers), grant.client_key, grant.address))
        if len(self._ends) > self._most_ends:
            noted = (held for of_client in self._by_client.values() for held in of_client.values())
            self._ends = [(held.deadline, next(self._numbers), held.client_key, held.address) for held in noted]
            heapify(self._ends)
            self._most_ends = 2 * len(self._ends) + _STALE_ENTRIES

    def _forget(self, client_key: bytes, address: IPAddress) -> None:
        addresses = self._by_client[client_key]
        del addresses[address]
        if not addresses:
            del self._by_client[client_key]
