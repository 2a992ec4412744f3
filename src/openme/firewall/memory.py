"""The firewall `memory`: decides and remembers, touches nothing. For dry runs and tests."""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from openme.firewall.base import (
    CutTarget,
    Door,
    IPAddress,
    IsOpen,
    PortList,
    Rules,
    Steps,
    check_door,
    nowhere,
    unknown_port_list,
)


class MemoryFirewall:
    """`Firewall` without a kernel: `clock` counts seconds and never goes back. It sees no packets, so a single-use
    door stays open until its time is over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rules: Rules | None = None
        self._until: dict[tuple[PortList, IPAddress], float] = {}

    @property
    def rules(self) -> Rules | None:
        """The rules in force, None before `start` and after `stop`."""
        return self._rules

    def start(self, rules: Rules) -> None:
        """See `Firewall.start`."""
        self.apply(rules)

    def apply(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        """See `Firewall.apply`."""
        opened = self._opened(doors, rules)
        self._rules = rules
        self._until = {door: until for door, until in self._until.items() if door[0] in rules.port_lists} | opened

    def open(self, doors: Iterable[Door]) -> None:
        """See `Firewall.open`."""
        self._until |= self._opened(doors, self._rules)

    def close(self, doors: Iterable[tuple[PortList, IPAddress]]) -> None:
        """See `Firewall.close`."""
        for door in doors:
            self._until.pop(door, None)

    def cut(
        self,
        targets: Iterable[CutTarget],  # noqa: ARG002
        is_open: IsOpen = nowhere,  # noqa: ARG002
    ) -> Steps[Mapping[IPAddress, int]]:
        """See `Firewall.cut`. It sees no connections."""
        yield from ()
        return {}

    def doors(self) -> list[Door]:
        """See `Firewall.doors`."""
        now = self._clock()
        self._until = {door: until for door, until in self._until.items() if until > now}
        return [Door(port_list, address, until - now) for (port_list, address), until in self._until.items()]

    @property
    def changes(self) -> None:
        """See `Firewall.changes`: nobody else can change what is in memory."""
        return

    def has_changed(self) -> bool:
        """See `Firewall.has_changed`."""
        return False

    def is_there(self) -> bool:
        """See `Firewall.is_there`."""
        return self._rules is not None

    def intact(self) -> bool:
        """See `Firewall.intact`."""
        return self._rules is not None

    @property
    def damage(self) -> str:
        """See `Firewall.damage`."""
        return "openme's rules were removed"

    def adapt(self) -> None:
        """See `Firewall.adapt`: memory has no surroundings."""

    surroundings = None
    adapts_every = inf

    def stop(self) -> None:
        """See `Firewall.stop`."""
        self._rules = None
        self._until = {}

    def _opened(self, doors: Iterable[Door], rules: Rules | None) -> dict[tuple[PortList, IPAddress], float]:
        now = self._clock()
        opened = {}
        for door in doors:
            check_door(door)
            if rules is None or door.port_list not in rules.port_lists:
                raise unknown_port_list()
            opened[door.port_list, door.address] = now + max(0.001, round(door.seconds, 3))
        return opened
