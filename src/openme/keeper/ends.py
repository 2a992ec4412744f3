"""At which addresses somebody's time is over by now, without a look at all the others.

Of those whose time comes later only the second is kept in which that is: eight bytes an address.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from math import inf

from openme.wire.knock import IPAddress


class Ends:
    """The addresses at which somebody's time will be over; times are monotonic seconds.

    When a time for which an address was noted has come, it is noted for the next one there by itself. So only a time
    before all others there needs to be noted.
    """

    def __init__(self, first_end: Callable[[IPAddress], float | None]) -> None:
        """`first_end`: when the next one's time at an address is over; None where nobody has any."""
        self._first_end = first_end
        self._later: dict[int, list[IPAddress]] = {}
        self._seconds: list[int] = []  # a heap of those that are in `_later`
        self._soon: list[tuple[float, int, IPAddress]] = []  # a heap of those whose second has begun
        self._numbers = count()  # since addresses of two families have no order

    def note(self, address: IPAddress, end: float) -> None:
        """Somebody's time at this address is over then, unless that changes."""
        second = int(end)
        if (addresses := self._later.get(second)) is None:
            addresses = self._later[second] = []
            heappush(self._seconds, second)
        addresses.append(address)

    @property
    def next_at(self) -> float:
        """When `due` is to be asked again: `inf` if nobody has any time, long ago if at once."""
        later = self._seconds[0] if self._seconds else inf
        return min(later, self._soon[0][0]) if self._soon else later

    def due(self, now: float) -> Iterator[IPAddress]:
        """The addresses at which somebody's time is over by now; whoever that is goes before the next is asked for."""
        while self._seconds and self._seconds[0] <= now:
            for address in dict.fromkeys(self._later.pop(heappop(self._seconds))):
                self._wait(address, now)
        while self._soon and self._soon[0][0] <= now:
            _, _, address = heappop(self._soon)
            end = self._first_end(address)
            if end is not None and end <= now:
                yield address
            self._wait(address, now)

    def _wait(self, address: IPAddress, now: float) -> None:
        """Know an address as long as somebody has time there."""
        end = self._first_end(address)
        if end is not None and end < int(now) + 1:
            heappush(self._soon, (end, next(self._numbers), address))
        elif end is not None:
            self.note(address, end)
