"""When to do something again and again: no turn is made up for that was missed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openme.client.driver import Driver

LONGEST_SLEEP = 5.0  # seconds: a sleep goes on after the machine's own one, a look at the clock sees that it is over


class Turns:
    """A turn every `interval` seconds, from now on; a machine that was paused has one turn at once, and goes on."""

    def __init__(self, driver: "Driver", interval: float) -> None:
        self._driver, self._interval = driver, interval
        self._next = driver.boot_clock() + interval

    async def wait(self) -> None:
        """Until the next turn."""
        while (left := self._next - self._driver.boot_clock()) > 0:
            await self._driver.pause(min(left, LONGEST_SLEEP))
        self._next += self._interval
        if self._next <= (now := self._driver.boot_clock()):  # some were missed
            self._next = now + self._interval
