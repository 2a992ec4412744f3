"""Ends connections while knocks are served: what is asked for meanwhile goes into the next look, all of it together."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from openme.errors import OpenmeError
from openme.firewall.base import CutTarget, Firewall, FirewallError, IsOpen, Steps
from openme.networks import Places
from openme.server.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openme.firewall.base import IPAddress

_AT_ONCE = 1000  # targets of one step

_log = logging.getLogger("openme.keeper")


@dataclass(slots=True, eq=False)
class Cut:
    """What was asked for, and what has come of it: `ended` connections, or an `error`. Neither until it is `done`.

    An error may be about a part: all that was known is cut all the same.
    """

    find: Steps[list[CutTarget]]
    known: Iterator[CutTarget]
    targets: list[CutTarget] = field(default_factory=list)
    done: bool = False
    ended: int = 0
    error: OpenmeError | None = None

    def outcome(self) -> Steps[int]:
        """Wait until it is done; how many connections ended. OpenmeError if some could not be, or found."""
        while not self.done:
            yield
        if self.error is not None:
            raise self.error
        return self.ended


class Cutting:
    """The requests to end connections, in the order in which they came; one look at the table at a time."""

    def __init__(
        self, firewall: Firewall, slices: Slices, is_open: IsOpen, must_wait: Callable[[], object] = lambda: False
    ) -> None:
        """`is_open`: see `Firewall.cut`. `must_wait`: whether doors are still on their way to being closed."""
        self._firewall = firewall
        self._slices = slices
        self._is_open = is_open
        self._must_wait = must_wait
        self._waiting: list[Cut] = []
        self._at_work = False

    def add(self, find: Steps[list[CutTarget]], known: Iterable[CutTarget] = ()) -> Cut:
        """End what is known, and what `find` finds, which may raise OpenmeError. It is done, and logged, also if nobody
        waits for the outcome. What is `known` is asked for when no door is on its way any more.
        """
        cut = Cut(find, iter(known))
        self._waiting.append(cut)
        if not self._at_work:
            self._at_work = True
            self._slices.add(self._work())
        return cut

    def _work(self) -> Steps[None]:
        yield  # whatever else this turn of the loop asks for comes into the same look
        while self._waiting:
            cuts, self._waiting = self._waiting, []
            ended: Mapping[IPAddress, int] = {}
            error = None
            for cut in cuts:
                try:
                    cut.targets += yield from cut.find
                except OpenmeError as unread:
                    _log.error("some connections that should have ended may go on: %s", unread.message)
                    cut.error = unread
            while self._must_wait():
                yield
            for cut in cuts:
                while some := list(islice(cut.known, _AT_ONCE)):
                    cut.targets += some
                    yield
            targets = [target for cut in cuts for target in cut.targets]
            if targets:
                try:
                    ended = yield from self._firewall.cut(targets, self._is_open)
                except FirewallError as refused:
                    _log.error("some connections that should have ended may go on: %s", refused.message)
                    error = refused
            for cut in cuts:
                # Behind one address connections have no owner: they count for everybody who asked for their end.
                places = Places()
                for start in range(0, len(cut.targets) if ended else 0, _AT_ONCE):
                    for target in cut.targets[start : start + _AT_ONCE]:
                        places.add(target.address, target.network)
                    yield
                cut.ended = sum(number for address, number in ended.items() if address in places)
                if cut.targets and error is not None:
                    cut.error = error
                cut.done = True
        self._at_work = False
