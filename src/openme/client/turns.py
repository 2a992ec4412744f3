"""When to do something again and again: at once in another network, and no turn is made up for that was missed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openme.client.driver import Driver
    from openme.client.roaming import Roaming


class Turns:
    """A turn every `interval()` seconds, from now on, and one as soon as the network is another one.

    A machine that was paused has one turn at once, and goes on.
    """

    def __init__(self, driver: "Driver", interval: Callable[[], float], roaming: "Roaming") -> None:
        self._driver, self._interval, self._roaming = driver, interval, roaming
        self._last = driver.boot_clock()

    async def wait(self) -> None:
        """Until the next turn; how long that is the last one may have told."""
        interval = self._interval()
        due = self._last + interval
        await self._roaming.wait(due)
        now = self._driver.boot_clock()
        early = now < due  # the network has changed
        self._last = now if early or due + interval <= now else due  # or some were missed
