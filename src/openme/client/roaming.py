"""Waits for the next knock of `--continuous`: until its time, or until this machine is in another network.

A door is for the address that the last knock was made from. On Linux the kernel tells when something of the network
changes, and a timer counts the time that the machine sleeps, so that nothing wakes the processor in between. Elsewhere
the addresses and the clock are looked at every few seconds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from openme.wire.knock import IPAddress

if TYPE_CHECKING:
    from openme.client.driver import Driver
    from openme.netlink.sockets import Subscription

LOOK_EVERY = 5.0  # seconds, where the system tells nothing
QUIET = 0.5  # seconds without a change, after which a network counts as set up: addresses and routes come one by one
MOST_SECONDS = 3.0  # of changes without such a pause

Sources = frozenset[IPAddress]


class Roaming:
    """`sources`: this machine's addresses towards the server as they are now; none where no way leads there, None as
    long as nothing was sent to the server.
    """

    def __init__(self, driver: "Driver", sources: Callable[[], Sources | None]) -> None:
        self._driver, self._look = driver, sources
        self._system = driver.system_tells()
        self._sources = sources()
        self._told = False

    async def wait(self, moment: float) -> None:
        """Until that second of the boot clock, or until the network is another one and there is a way through it."""
        if self._sources is None:
            self._sources = self._look()
        now = None
        while (left := moment - self._driver.boot_clock()) > 0:
            if self._system is None:
                await self._driver.pause(min(left, LOOK_EVERY))
            else:
                changes, timer = self._system
                timer.set(moment)
                await self._driver.readable((changes.socket, timer), None)
                await self._settle(changes)
            now = self._look()
            if now and (self._told or now != self._sources):
                break
        # What the caller does next is done in this network, and may fail in it: a way that is there after that is news.
        self._sources, self._told = self._look() if now is None else now, False

    async def _settle(self, changes: "Subscription") -> None:
        """Hear all that changes, until nothing does."""
        from openme.netlink.routes import is_another_network  # noqa: PLC0415  # Linux alone has it

        addresses = {address.packed for address in self._sources or ()}
        end = self._driver.monotonic() + MOST_SECONDS
        heard = True
        while heard:
            news = list(changes.news())
            self._told |= any(message is None or is_another_network(message, addresses) for message in news)
            heard = bool(news) and self._driver.monotonic() < end
            if heard:
                await self._driver.readable((changes.socket,), QUIET)
