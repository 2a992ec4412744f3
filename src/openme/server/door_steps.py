"""Many doors at once: the first of them now, the rest in steps between which knocks are served."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from openme.firewall.base import Door, Firewall, FirewallError, Rules, Steps
from openme.keeper.grants import DoorKey, Grants
from openme.server.slices import Slices

if TYPE_CHECKING:
    from openme.firewall.base import PortList

AT_ONCE = 500
"""Doors of one transaction: some milliseconds."""
WITH_RULES = 100
"""Doors that go into the transaction of the rules, as text, which takes ten times as long."""

_log = logging.getLogger("openme.keeper")


class DoorSteps:
    """Opens and closes doors. What waits for its turn is done as the grants then say: what has been opened or closed
    anew meanwhile stays so. True while some wait.
    """

    def __init__(self, firewall: Firewall, grants: Grants, slices: Slices, monotonic: Callable[[], float]) -> None:
        """`monotonic` counts as the grants' deadlines do."""
        self._firewall = firewall
        self._grants = grants
        self._slices = slices
        self._monotonic = monotonic
        self._waiting = 0
        self._port_lists: Collection[PortList] | None = None

    def __bool__(self) -> bool:
        return self._waiting > 0

    def apply(self, rules: Rules, doors: Iterable[Door]) -> None:
        """See `Firewall.apply`; beyond `WITH_RULES` doors, for the rest only the rules are in force at once."""
        waiting = iter(doors)
        self._firewall.apply(rules, list(islice(waiting, WITH_RULES)))
        self._port_lists = rules.port_lists
        self._later((door.port_list, door.address) for door in waiting)

    def restore(self, rules: Rules, first: Iterable[Door] = (), but: Collection[DoorKey] = ()) -> None:
        """Put rules in force, and with them what the grants have open: `first` before all others, none of `but`."""

        def doors() -> Iterator[Door]:
            said = {(door.port_list, door.address): door for door in first}
            yield from (door for key, door in said.items() if key not in but)
            now = self._monotonic()
            for grant in self._grants.gradually():
                for port_list, address in grant.doors:
                    key = port_list, address
                    # Whether one for a single use is used up only the kernel knew, in the set that was lost.
                    if port_list.single_use or port_list not in rules.port_lists or key in said or key in but:
                        continue
                    if (door := self._grants.door(key, now)) is not None:
                        yield door

        self.apply(rules, doors())

    def open(self, doors: Sequence[Door]) -> None:
        """See `Firewall.open`."""
        if doors:
            self._firewall.open(doors[:AT_ONCE])
        if len(doors) > AT_ONCE:
            self._later([(door.port_list, door.address) for door in doors[AT_ONCE:]])

    def close(self, doors: Sequence[DoorKey]) -> None:
        """See `Firewall.close`."""
        self._firewall.close(doors[:AT_ONCE])
        if len(doors) > AT_ONCE:
            self._later(doors[AT_ONCE:])

    def _later(self, keys: Iterable[DoorKey]) -> None:
        self._waiting += 1
        self._slices.add(self._agree(iter(keys)))

    def _agree(self, keys: Iterator[DoorKey]) -> Steps[None]:
        """Make these doors what the grants say that they are, as far as the rules in force know their port lists."""
        try:
            while part := list(islice(keys, AT_ONCE)):
                yield
                now = self._monotonic()
                known = part if self._port_lists is None else [key for key in part if key[0] in self._port_lists]
                doors = {key: self._grants.door(key, now) for key in known}
                try:
                    self._firewall.close([key for key, door in doors.items() if door is None])
                    # Whether one for a single use is used up only the kernel knows.
                    self._firewall.open([d for d in doors.values() if d is not None and not d.port_list.single_use])
                except FirewallError as error:
                    _log.error("some doors could not be opened or closed: %s", error.message)
        finally:
            self._waiting -= 1
