"""Ending what doors have let in, in steps: one look at the host's connections for all addresses together."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from openme.firewall.base import CutTarget, FirewallError, IPAddress, IsOpen, Steps
from openme.firewall.connections import MOST_AT_ONCE, Connection, Connections, IsOurs, Wanted, not_ours

CUT_PASSES = 100
"""Looks at the connections until none is left; each ends at most `connections.MOST_AT_ONCE`."""
TARGETS_AT_ONCE = 200
SILENCED_AT_ONCE = 200
"""Connections of one transaction: about a millisecond."""


def cut_in_steps(
    connections: Connections,
    silence: Callable[[Sequence[Connection]], None],
    targets: Iterable[CutTarget],
    is_open: IsOpen,
    needs_no_door: Callable[[IPAddress], bool] = lambda _: False,
    *,
    is_ours: IsOurs = not_ours,
) -> Steps[Mapping[IPAddress, int]]:
    """See `Firewall.cut`. `silence` keeps what is about to end from living on when the service speaks next.

    The table is looked through until no such connection is left: a packet may have been between a door and the table
    when the door closed. Where a door is open, what is found after the first whole look is somebody's good right.
    What came by no door is ended once: there is no more of it while the rules stand, but for what is none of theirs.
    `is_ours`: see `Wanted`.
    """
    wanted = Wanted(is_ours=is_ours)
    waiting = iter(targets)
    while some := list(islice(waiting, TARGETS_AT_ONCE)):
        wanted.add(some)
        yield
    ended: Counter[IPAddress] = Counter()
    if not wanted:
        return ended
    had_all = False
    for _ in range(CUT_PASSES):
        half_open = (yield from connections.half_open()) if wanted.has_tcp else frozenset()
        found, whole = yield from connections.let_in(wanted, half_open)
        found = [item for item in found if item.by_door or not needs_no_door(item.address)]
        if had_all:
            found = [item for item in found if item.by_door and not is_open(item.address, item.service)]
        if not found and whole:
            return ended
        had_all = had_all or (whole and len(found) < MOST_AT_ONCE)
        for start in range(0, len(found), SILENCED_AT_ONCE):
            silence(found[start : start + SILENCED_AT_ONCE])
            yield
        yield from connections.end(found)
        ended.update(item.address for item in found if item.alive)
    raise FirewallError("connections come faster than they can be cut", "close the door first")
