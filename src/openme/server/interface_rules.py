"""The rules follow the interface that the config names: devices come, go and get other names."""

from math import inf

from openme.clocks import Now
from openme.keeper.keeper import Keeper
from openme.server.doors import Doors
from openme.server.interfaces import InterfaceWatch


class InterfaceRules:
    """Looks whether packets still come in by the interface of the config, and keeps hidden what is hidden there."""

    def __init__(self, watch: InterfaceWatch | None, keeper: Keeper, doors: Doors) -> None:
        """`watch`: None where the kernel tells nothing of devices."""
        self._watch = watch
        self._keeper = keeper
        self._doors = doors

    def look(self, now: Now) -> None:
        """Look where something may have changed, and have the rules follow."""
        if self._watch is None:
            return
        config = self._keeper.config
        self._watch.look(config.interface, now.monotonic)
        indexes = () if config.interface is None else tuple(sorted(self._watch.indexes))
        self._doors.follow_devices(config.interface, indexes, now.monotonic)

    @property
    def next_at(self) -> float:
        """When there is something to `look` at, in monotonic seconds: long ago if at once, `inf` if nothing changed."""
        return inf if self._watch is None else self._watch.next_at

    @property
    def warnings(self) -> list[str]:
        """What there is to say of the interface now."""
        return [] if self._watch is None or self._watch.warning is None else [self._watch.warning]
