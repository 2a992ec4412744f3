"""Many doors at once: the first of them now, the rest in steps between which knocks are served."""

import logging
from collections.abc import Callable, Iterable, Sequence

from openme.firewall.base import Door, Firewall, FirewallError, Rules, Steps
from openme.keeper.grants import DoorKey, Grants
from openme.server.slices import Slices

AT_ONCE = 500
"""Doors of one transaction: some milliseconds."""
WITH_RULES = 200
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

    def __bool__(self) -> bool:
        return self._waiting > 0

    def apply(self, rules: Rules, doors: Iterable[Door]) -> None:
        """See `Firewall.apply`; beyond `WITH_RULES` doors, for the rest only the rules are in force at once."""
        doors = list(doors)
        self._firewall.apply(rules, doors[:WITH_RULES])
        self._later([(door.port_list, door.address) for door in doors[WITH_RULES:]])

    def open(self, doors: Sequence[Door]) -> None:
        """See `Firewall.open`."""
        if doors:
            self._firewall.open(doors[:AT_ONCE])
        self._later([(door.port_list, door.address) for door in doors[AT_ONCE:]])

    def close(self, doors: Sequence[DoorKey]) -> None:
        """See `Firewall.close`."""
        self._firewall.close(doors[:AT_ONCE])
        self._later(doors[AT_ONCE:])

    def _later(self, keys: Sequence[DoorKey]) -> None:
        if keys:
            self._waiting += 1
            self._slices.add(self._agree(keys))

    def _agree(self, keys: Sequence[DoorKey]) -> Steps[None]:
        """Make these doors what the grants say that they are."""
        try:
            for start in range(0, len(keys), AT_ONCE):
                yield
                now = self._monotonic()
                part = keys[start : start + AT_ONCE]
                doors = {key: self._grants.door(key, now) for key in part}
                try:
                    self._firewall.close([key for key, door in doors.items() if door is None])
                    # Whether one for a single use is used up only the kernel knows.
                    self._firewall.open([d for d in doors.values() if d is not None and not d.port_list.single_use])
                except FirewallError as error:
                    _log.error("some doors are not as they should be: %s", error.message)  # one line for the operator
        finally:
            self._waiting -= 1
