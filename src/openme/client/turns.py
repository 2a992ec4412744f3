"""When to do something again and again: no turn is made up for that was missed."""

import time
from collections.abc import Callable

LONGEST_SLEEP = 5.0  # seconds: a sleep goes on after the machine's own one, a look at the clock sees that it is over


def _boot_clock() -> float:
    """Seconds that go on while the machine sleeps, where the system counts them; else those that do not."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Turns:
    """A turn every `interval` seconds, from now on; a machine that was paused has one turn at once, and goes on."""

    def __init__(
        self,
        interval: float,
        clock: Callable[[], float] = _boot_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval, self._clock, self._sleep = interval, clock, sleep
        self._next = clock() + interval

    def wait(self) -> None:
        """Until the next turn."""
        while (left := self._next - self._clock()) > 0:
            self._sleep(min(left, LONGEST_SLEEP))
        self._next += self._interval
        if self._next <= (now := self._clock()):  # some were missed
            self._next = now + self._interval
