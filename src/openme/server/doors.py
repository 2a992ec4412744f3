"""The doors of the grants, under the rules that the firewall took last: opening, ending early, putting back."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf

from openme.clocks import Now
from openme.firewall.base import Door, Firewall, FirewallError, Rules, Steps
from openme.keeper.events import Ended, Events
from openme.keeper.grants import Change, Grant, Grants
from openme.reasons import End
from openme.server.door_steps import AT_ONCE, DoorSteps
from openme.server.slices import Slices

REPAIR_INTERVAL = 0.4
"""Seconds between two changes to the rules that a change of the host's asks for."""

_log = logging.getLogger("openme.keeper")


class Doors:
    """Makes the firewall agree with the grants."""

    at_once = 100
    """Grants or addresses whose doors follow a change in one step: some milliseconds."""

    def __init__(  # noqa: PLR0917  # what doors need, each once
        self,
        firewall: Firewall,
        grants: Grants,
        rules: Rules,
        lifetime: Callable[[], float],
        events: Events,
        slices: Slices,
        clocks: Callable[[], Now],
    ) -> None:
        """`rules`: those that the firewall has taken. `lifetime`: seconds after which any door is closed by itself."""
        self.rules = rules
        """What the firewall took last, and nothing else: this is what a repair puts back."""
        self._firewall = firewall
        self._grants = grants
        self._lifetime = lifetime
        self._events = events
        self._slices = slices
        self._clocks = clocks
        self._steps = DoorSteps(firewall, grants, slices, lambda: clocks().monotonic)
        self._following = 0
        self._ruleset_changed = False
        self._devices_differ = False
        self._next_repair = float("-inf")
        self._left_open: tuple[float, str] | None = None

    # -- knocks

    def open(self, grants: Sequence[Grant], now: Now) -> set[int]:
        """Open the doors of these grants in one transaction; which of them (by `id`) are open now."""
        earlier = [self._grants.add(grant) for grant in grants]
        change = self._grants.changed_by(grants, earlier, self.rules.port_lists, now.monotonic)
        try:
            self._agree(change)
        except FirewallError as error:
            _log.error("a valid knock opened nothing: %s", error.message)  # one line for the operator
            for grant, before in zip(reversed(grants), reversed(earlier), strict=True):
                self._grants.take_back(grant, before)
            return set()
        return {id(grant) for grant in grants}

    # -- ends

    def expire(self, now: float) -> None:
        """Let go of what is over by now, in monotonic seconds; the kernel has closed it by itself."""
        if over := self._grants.expire(now):
            self._events.publish(Ended(tuple((grant, End.TIME_OVER) for grant in over)))

    def end(self, ended: Sequence[tuple[Grant, End]], now: Now) -> None:
        """End these grants: of very many the last in steps, unless they have been given anew by then."""
        if ended:
            self._end_some(ended[: self.at_once], now)
        if len(ended) > self.at_once:
            self.follow_in_steps(self._end_later(ended))

    def _end_later(self, ended: Sequence[tuple[Grant, End]]) -> Steps[None]:
        for start in range(self.at_once, len(ended), self.at_once):
            yield
            part = ended[start : start + self.at_once]
            held = [(grant, why) for grant, why in part if self._grants.holds(grant)]
            self._end_some(held, self._clocks())

    def _end_some(self, ended: Sequence[tuple[Grant, End]], now: Now) -> None:
        change = self._grants.remove([grant for grant, _ in ended], now.monotonic)
        change = replace(change, open=tuple(d for d in change.open if d.port_list in self.rules.port_lists))
        # Whoever is told may find that the listener is gone, which ends the turn: by then the doors are closed.
        self.change(change, now, "doors could not be closed early")
        self._events.publish(Ended(tuple(ended)))

    def why_left_open(self, now: float) -> str | None:
        """Why a door that should be closed may be open, or None; `now` in monotonic seconds."""
        return self._left_open[1] if self._left_open is not None and now < self._left_open[0] else None

    # -- the grants have changed

    def change(self, change: Change, now: Now, what_if_not: str) -> None:
        """Have the firewall follow changed grants; a line with these words if it refuses.

        The doors that should have closed do so when their time is over, and no command is told otherwise till then. Of
        very many the last wait for their turn.
        """
        try:
            self._agree(Change(change.open[:AT_ONCE], change.close))
            self._steps.open(change.open[AT_ONCE:])
        except FirewallError as error:
            _log.error("%s: %s", what_if_not, error.message)  # one line for the operator
            self._left_open = (now.monotonic + self._lifetime(), error.message)

    def follow_in_steps(self, job: Steps[None]) -> None:
        """Take on a job that changes further doors, which are `on_their_way` until it has ended."""
        self._following += 1
        self._slices.add(self._counted(job))

    def _counted(self, job: Steps[None]) -> Steps[None]:
        try:
            yield from job
        finally:
            self._following -= 1

    @property
    def are_on_their_way(self) -> bool:
        """Whether some are still to be opened or closed."""
        return bool(self._steps) or self._following > 0

    def _agree(self, change: Change) -> None:
        """Make the firewall's doors agree with the grants; FirewallError if it cannot be made to."""
        try:
            self._agree_once(change)
        except FirewallError as error:
            # Most likely somebody has flushed the host's ruleset. Put ours back together with what is to be open, in
            # one transaction: were it two, the second could fail after the first has opened what is then taken back.
            _log.warning("the firewall refused (%s): putting the rules in force again", error.message)
            # Those asked for now come first: of a great many the last wait for their turn.
            self._steps.restore(self.rules, change.open, set(change.close))
            self._agree_once(Change(close=change.close))

    def _agree_once(self, change: Change) -> None:
        if change.close:
            self._steps.close(change.close)
        if change.open:
            self._firewall.open(change.open)

    # -- rules

    def use(self, rules: Rules, opening: Iterable[Door] = ()) -> None:
        """Put rules in force, and open doors with them. FirewallError, and those before are in force, if it refuses."""
        if rules == self.rules:
            return
        try:
            self._steps.apply(rules, opening)
        except FirewallError:
            self._ruleset_changed = True  # whatever the try has left behind is put right
            raise
        self.rules = rules

    def follow_devices(self, interface: str | None, indexes: tuple[int, ...], now: float) -> None:
        """Have the rules for an interface meet the devices that have had its name; `now` in monotonic seconds."""
        self._devices_differ = indexes != self.rules.interface_indexes and interface == self.rules.interface
        if not self._devices_differ or now < self._next_repair:
            return
        self._next_repair = now + REPAIR_INTERVAL
        rules = replace(self.rules, interface_indexes=indexes)
        try:
            self._firewall.apply(rules)
        except FirewallError as error:
            _log.error("the rules do not follow interface %s: %s", interface, error.message)  # one line
            return
        self.rules = rules
        self._devices_differ = False

    @property
    def next_at(self) -> float:
        """When `repair` or `follow_devices` has something to do, in monotonic seconds: long ago if at once, `inf` if
        neither has.
        """
        return self._next_repair if self._ruleset_changed or self._devices_differ else inf

    def on_ruleset_change(self) -> None:
        """Somebody has changed the host's ruleset, perhaps we ourselves; perhaps it took our rules with it."""
        if self._firewall.has_changed():
            self._ruleset_changed = True

    def repair(self, now: float) -> bool:
        """Put our rules back where a flush or a reload of the host's firewall has removed them, open doors included.

        Whether they were away, and are back; `now` in monotonic seconds.
        """
        if not self._ruleset_changed or now < self._next_repair:
            return False
        self._ruleset_changed = False
        # Another program may want it otherwise, again and again: this is a limit, not a delay before the first time.
        self._next_repair = now + REPAIR_INTERVAL
        try:
            if self._firewall.intact():
                return False
            _log.warning("%s: putting openme's rules back", self._firewall.damage)
            self._steps.restore(self.rules)
        except FirewallError as error:
            _log.error("the rules could not be put back: %s", error.message)  # one line for the operator
            self._ruleset_changed = True
            return False
        return True
