"""Whether the replay memory that lies on the disk is all that was ever accepted; without I/O.

The order of every commit is database, mark, run directory, door. So a crash leaves the mark one commit behind and never
ahead, and whatever else is found is a loss: part of what was accepted may not be known any more.
"""

from dataclasses import dataclass
from typing import Literal

from openme.store.mark import Mark


@dataclass(frozen=True, slots=True)
class Chain:
    """What the database says of itself; `digest` has been compared with its rows, `previous` is the commit before."""

    store_id: bytes
    count: int
    previous: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What a start finds.

    `chain`: None if there is no database or an empty one. `chain_fault`: why it cannot be trusted at all. `mark` and
    `run`: None where there is none. `mark_fault`: what lies there is no mark. `mark_writable`: an earlier run could
    keep it current whatever befell the database.
    """

    chain: Chain | None = None
    chain_fault: str | None = None
    mark: Mark | None = None
    mark_fault: bool = False
    mark_writable: bool = True
    run: Mark | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """Knocks may be missing. `reason` is for the operator.

    `bound`: who knows the newest time that was ever accepted. `run`: the run directory, for certain. `mark`: the mark,
    unless it was put back from an older copy together with the database. `nobody`: what is known is a lower bound.
    """

    reason: str
    bound: Literal["run", "mark", "nobody"]


def loss_in(found: Found) -> Loss | None:
    """What was lost, None if the memory is whole."""
    reason, vouches = _fault(found)
    if reason is None:
        return None
    if found.run is not None:
        return Loss(reason, "run")
    if vouches and found.mark is not None and found.mark_writable:
        return Loss(reason, "mark")
    return Loss(reason, "nobody")


def _fault(found: Found) -> tuple[str | None, bool]:
    """What is wrong, and whether the mark is the current one as far as its file and the database can tell."""
    chain, mark, run = found.chain, found.mark, found.run
    if found.mark_fault:
        return "state.mark is damaged", False
    if found.chain_fault is not None:
        return f"state.db: {found.chain_fault}", True
    if chain is None or (chain.count == 0 and mark is not None and chain.store_id != mark.store_id):
        # Gone, or made anew by a start that ended before it could say so.
        if mark is None:
            return "state.db and state.mark are gone", False
        if mark.count or run is not None or chain is not None:
            return "state.db is gone or empty", True
        return None, True  # made by `init`; nothing was accepted yet
    if mark is None:
        return "state.mark is gone", False
    if chain.store_id != mark.store_id:
        return "state.db and state.mark do not belong together", False
    if chain.count < mark.count:
        return "state.db lacks what was written last", True
    if chain.count > mark.count + 1:
        return "state.mark is older than state.db", False
    if mark.digest != (chain.digest if chain.count == mark.count else chain.previous):
        return "state.db and state.mark do not belong together", False
    if run is not None and (run.store_id != chain.store_id or run.count > chain.count):
        return "state.db and state.mark are older than this machine's last server", False
    return None, True
