"""Work that would hold up knocks, done in slices between two turns of the loop."""

import time
from collections import deque
from collections.abc import Callable

from openme.firewall.base import Steps

SHARE = 0.005
"""Seconds of one turn of the loop; a knock that arrives meanwhile waits for no longer than that and one step."""


class Slices:
    """Jobs under way, a step of each in turn. False where there are none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: deque[Steps[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Steps[None]) -> None:
        """Take a job on. It is begun at once: what it does when it is closed, it does also if that comes soon."""
        if _goes_on(job):
            self._jobs.append(job)

    def advance(self) -> None:
        """Let jobs take steps until this turn's share of the time is over; at least one."""
        until = self._clock() + SHARE
        while self._jobs:
            job = self._jobs.popleft()
            if _goes_on(job):
                self._jobs.append(job)
            if self._clock() >= until:
                return

    def close(self) -> None:
        """Give up what is under way."""
        while self._jobs:
            self._jobs.popleft().close()


def _goes_on(job: Steps[None]) -> bool:
    try:
        next(job)
    except StopIteration:
        return False
    return True
