"""When to do something again and again: at once in another network, and no turn is made up for that was missed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openme.client.driver import Driver
    from openme.client.roaming import Roaming


class Turns:
    """A turn every `interval` seconds, from now on, and one as soon as the network is another one.

    A machine that was paused has one turn at once, and goes on.
    """

    def __init__(self, driver: "Driver", interval: float, roaming: "Roaming") -> None:
        self._driver, self._interval, self._roaming = driver, interval, roaming
        self._next = driver.boot_clock() + interval

    async def wait(self) -> None:
        """Until the next turn."""
        await self._roaming.wait(self._next)
        now = self._driver.boot_clock()
        early = now < self._next  # the network has changed
        self._next += self._interval
        if early or self._next <= now:  # or some were missed
            self._next = now + self._interval
