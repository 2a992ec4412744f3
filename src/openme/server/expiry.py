"""What ends by itself: a door when its time is over, a client's right at the date of its `expires`."""

from collections.abc import Iterable
from math import inf

from openme.clocks import Now
from openme.keeper.events import Events, NewConfig
from openme.keeper.keeper import Keeper
from openme.keeper.lost_rights import Expiries
from openme.server.doors import Doors
from openme.server.exchanges import Exchanges


class Expiry:
    """Ends it, and what it takes with it."""

    def __init__(self, keeper: Keeper, doors: Doors, exchanges: Exchanges, now: Now) -> None:
        self._keeper = keeper
        self._doors = doors
        self._exchanges = exchanges
        self._expiries = Expiries(now.utc)

    def follow(self, events: Events) -> None:
        """Subscribe to the configs that come into force, which say when a right ends."""
        events.subscribe(NewConfig, lambda event: self._expiries.follow(event.config.index.ends))
        self._expiries.follow(self._keeper.config.index.ends)

    def tick(self, now: Now) -> None:
        """End what is over by now."""
        self._doors.expire(now.monotonic)
        if expired := self._expiries.passed(now.utc):
            self._end(expired, now)

    def next_at(self, now: Now) -> float:
        """When the next door or right ends, if nobody sets the clock, in monotonic seconds; `inf` if none does."""
        end = self._expiries.next_end
        right = inf if end is None else now.monotonic + (end - now.utc).total_seconds()
        return min(self._keeper.grants.next_end, right)

    def _end(self, expired: Iterable[bytes], now: Now) -> None:
        early = self._keeper.overdue(expired, now)
        self._doors.end(early, now)
        self._exchanges.end_of(expired, [grant for grant, _ in early], now)
