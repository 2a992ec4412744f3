"""When a connection to which of a server's addresses begins, and begins anew: RFC 8305 before a door that opens. Pure.

The addresses take turns by family and begin a Connection Attempt Delay apart (sections 4 and 5). What differs from
there: nothing answers a SYN that has overtaken its knock, and TCP sends it again after a second only. So each address
is tried afresh while the attempts before are still under way, sooner at first and then less and less often.
"""

from collections.abc import Iterable
from itertools import chain, zip_longest

from openme.client.addresses import Endpoint
from openme.client.plan import by_family

ATTEMPT_DELAY = 0.1
"""Seconds between two addresses: the recommended minimum (section 8). More would keep whose IPv6 is broken waiting."""
SPACING = 0.01
"""Seconds between any two beginnings, whatever their reason (section 5)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds until an address that has not answered is tried afresh; each time it is twice as long."""
GIVEN_UP = 2.9
"""Seconds after which an attempt is of no use. TCP sends a SYN again after one second and after three: whatever this
attempt has sent had 1.9 s for its answer, and no further SYN of it uses up a door for a single use."""


def interleaved(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The addresses, those of the two families by turns, the first one first."""
    families = (family.endpoints for family in by_family(endpoints))
    return [endpoint for endpoint in chain.from_iterable(zip_longest(*families)) if endpoint is not None]


class Race:
    """Attempts to connect to several addresses, of which the first that stands is wanted. Times in seconds."""

    def __init__(self, endpoints: Iterable[Endpoint], now: float) -> None:
        order = interleaved(endpoints)
        self._due = {endpoint: now + at * ATTEMPT_DELAY for at, endpoint in enumerate(order)}
        self._pauses = dict.fromkeys(order, FIRST_PAUSE)
        self._waiting = order
        self._earliest = now

    @property
    def all_begun(self) -> bool:
        """Whether each address has been tried."""
        return not self._waiting

    def wake(self) -> float:
        """When `begin` has something to do."""
        return max(self._earliest, min(self._due.values()))

    def begin(self, now: float) -> Endpoint | None:
        """The address to which a connection begins now, if there is one; the caller asks again until there is none."""
        if now < self.wake():
            return None
        endpoint = min(self._due, key=self._due.__getitem__)
        pause = self._pauses[endpoint]
        self._due[endpoint], self._pauses[endpoint] = now + pause, min(pause * 2, LONGEST_PAUSE)
        if endpoint in self._waiting:
            self._waiting.remove(endpoint)
        self._earliest = now + SPACING
        return endpoint

    def failed(self, now: float) -> None:
        """An attempt has failed: the next address that waits for its first turn has it now, and the others follow."""
        early = self._due[self._waiting[0]] - now if self._waiting else 0.0
        if early > 0:
            for endpoint in self._waiting:
                self._due[endpoint] -= early
