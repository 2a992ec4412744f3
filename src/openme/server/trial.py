"""A trial: unless a client knocks in time, everything is as it was before."""

import logging
from collections.abc import Callable
from math import inf

from openme.keeper.events import Events, LetIn

_log = logging.getLogger("openme.keeper")


class Trial:
    """A trial of so many seconds. It runs from `begin` until a client has knocked."""

    def __init__(self, seconds: float, passed: Callable[[], None]) -> None:
        """`passed` is called once, when a client has knocked in time."""
        self.seconds = seconds
        self._passed = [passed]
        self._until: float | None = None

    def begin(self, events: Events, now: float, also_passed: Callable[[], None]) -> None:
        """The ports are hidden from `now` on, in monotonic seconds: whoever knocks ends the trial."""
        self._until = now + self.seconds
        self._passed.append(also_passed)
        events.subscribe(LetIn, self.let_in)

    def let_in(self, event: LetIn) -> None:
        """Somebody has knocked: it was the first, or the trial is over already."""
        if self._until is not None:
            self._until = None
            for passed in self._passed:
                passed()
            _log.info("%s has knocked: the ports stay hidden until this server is stopped", event.grant.client_name)

    @property
    def is_running(self) -> bool:
        """Whether nobody has knocked yet who would end it."""
        return self._until is not None

    @property
    def next_at(self) -> float:
        """When it is over unless somebody knocks, in monotonic seconds; `inf` if somebody has."""
        return inf if self._until is None else self._until

    def is_over(self, now: float) -> bool:
        """Whether nobody has knocked in time; `now` in monotonic seconds."""
        if now < self.next_at:
            return False
        _log.error("nobody has knocked in time: undoing it, the ports are as they were before")
        return True
