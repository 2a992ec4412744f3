"""A knock's way from frame to verdict, in stages; read it from top to bottom.

    frame → authenticate → decide → claim → open → tell

Each stage takes one type of `keeper.stages` and gives another. Until the claim nothing changes; after it nothing that a
stranger did can refuse (docs/decisions/0017-admission-in-stages.md). What a frame brings is collected in batches, which
share one claim, one sync of the disk and one transaction of the firewall.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from openme.clocks import Now
from openme.keeper.events import Events, LetIn
from openme.keeper.grants import Grant
from openme.keeper.keeper import Keeper
from openme.keeper.stages import Authenticated, Claimed, Decided, Opened, Refused, Searched
from openme.keys.erasing import wipe
from openme.reasons import Reason
from openme.seam.messages import FRAME_SIZE
from openme.server import logs
from openme.server.verdicts import Verdicts
from openme.store.base import AlreadyUsed, Claim, ClaimRefusal, Holder, Outcome, Store
from openme.wire.base import Keys
from openme.wire.versions import by_number

_MAX_SEARCHED = 256  # that wait for their client to be searched for
_PATIENCE = 3.0  # seconds after which one who still waits has knocked again or gone
_IN_TIME = 0.1  # seconds until the store's answer is late, and what was decided is decided anew
_SHARE = 0.01  # seconds for them before the people we know get their turn again


class Admission:
    """Lets in who may come in. True while somebody waits for his client to be searched for."""

    def __init__(  # noqa: PLR0917  # what the stages work with, each once
        self,
        keeper: Keeper,
        store: Store,
        open_doors: Callable[[list[Grant], Now], Collection[int]],
        verdicts: Verdicts,
        events: Events,
        clocks: Callable[[], Now],
    ) -> None:
        """`open_doors` opens them for these grants and says for which, by `id`."""
        self._keeper = keeper
        self._store = store
        self._open_doors = open_doors
        self._verdicts = verdicts
        self._events = events
        self._clocks = clocks
        self._frames: list[bytes] = []
        self._waiting: deque[tuple[float, Searched]] = deque()
        self._searched: Searched | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._searched is not None

    # -- a batch, and those whose client is searched for

    @contextmanager
    def holding(self, frames: list[bytes]) -> Iterator[None]:
        """Know these frames while something else comes first, for a child that may be forked then."""
        self._frames = frames
        try:
            yield
        finally:
            self._frames = []

    def admit_untrusted(self, frames: Iterable[bytes], now: Now) -> None:
        """Take frames, which are wiped, on their way. Whoever is to be searched for waits."""
        found: list[Authenticated | Refused] = []
        for frame in frames:
            outcome = self.authenticate_untrusted(frame)
            if isinstance(outcome, Searched):
                self._wait(outcome)
            else:
                found.append(outcome)
        self._go_on(found, now)

    def serve_waiting(self) -> None:
        """Search for the clients of those who wait, for a bounded time: the people we know come first."""
        until = time.monotonic() + _SHARE
        found: list[Authenticated | Refused] = []
        while (searched := self._searched or self._next()) is not None:
            self._searched = searched
            outcome = self.search(searched, lambda: time.monotonic() < until)
            if outcome is None:
                break
            self._searched = None
            found.append(outcome)
        self._go_on(found, self._clocks())

    def _wait(self, searched: Searched) -> None:
        """Let one wait. When too many do, one drawn by lot goes, so that nobody can fill the queue for long."""
        if len(self._waiting) >= _MAX_SEARCHED:
            del self._waiting[secrets.randbelow(_MAX_SEARCHED)]
            self._events.publish(Refused(Reason.BUSY))
        self._waiting.append((time.monotonic(), searched))

    def _next(self) -> Searched | None:
        """Whoever came last, so that after a flood nobody waits behind it; who waits too long has gone by now."""
        oldest_that_counts = time.monotonic() - _PATIENCE
        while self._waiting and self._waiting[0][0] < oldest_that_counts:
            self._waiting.popleft()
            self._events.publish(Refused(Reason.BUSY))
        return self._waiting.pop()[1] if self._waiting else None

    def forget_secrets(self) -> None:
        """For a child that is forked while frames are held: it may live on when an epoch's key is erased."""
        wipe(*self._frames)

    # -- the stages

    def _go_on(self, batch: Sequence[Authenticated | Refused], now: Now) -> None:
        if not batch:
            return
        decided = [self.decide(one, now) if isinstance(one, Authenticated) else one for one in batch]
        claims = [_claim(one, now) for one in decided if isinstance(one, Decided)]
        if not claims:
            self._answered(decided, [], now)
            return
        asking = True

        def answered(outcomes: Sequence[Outcome]) -> None:
            # A disk mostly takes some milliseconds. What a door's time has lost by then, the kernel would give back.
            in_time = asking and self._clocks().monotonic - now.monotonic < _IN_TIME
            self._answered(decided, outcomes, now if in_time else None)

        self._store.claim(claims, answered)
        asking = False

    def _answered(self, decided: Iterable[Decided | Refused], outcomes: Iterable[Outcome], now: Now | None) -> None:
        """The store has answered the claims of those who were decided on; `now` is None if it took its time."""
        late = now is None
        now = self._clocks() if now is None else now
        answers = iter(outcomes)
        claimed = [
            self.claim(one, next(answers), now, late=late) if isinstance(one, Decided) else one for one in decided
        ]
        opened = self.open(claimed, now)
        with logs.together():
            for told in opened:
                self.tell(told, now)

    def authenticate_untrusted(self, frame: bytes) -> Authenticated | Searched | Refused:
        """Who signed what? Changes nothing."""
        outcome = self._keeper.authenticate_untrusted(frame)
        version = by_number(frame[0]) if len(frame) == FRAME_SIZE else None
        if version is not None and version.keys is Keys.EPOCH:
            wipe(frame)  # it holds the key to one knock
        return outcome

    def search(self, knock: Searched, may_go_on: Callable[[], bool]) -> Authenticated | Refused | None:
        """Who signed it, of all? None: to be continued. Changes nothing."""
        return self._keeper.search(knock, may_go_on)

    def decide(self, knock: Authenticated, now: Now) -> Decided | Refused:
        """What is it given, should it be the first? Changes nothing."""
        return self._keeper.decide(knock, now)

    def claim(self, decided: Decided, outcome: Outcome, now: Now, *, late: bool) -> Claimed | Refused:
        """Is it the first? It is so no more. After this nothing that a stranger did can refuse."""
        knock = decided.what
        if isinstance(outcome, ClaimRefusal):
            return Refused(
                outcome.reason, knock.source, knock.client.name, _elsewhere(outcome, knock), knock.representative
            )
        self._keeper.note_claimed(knock)
        if late:
            again = self._keeper.decide_again(decided, now)
            return again if isinstance(again, Refused) else Claimed(again)
        return Claimed(decided)

    def open(self, claimed: Iterable[Claimed | Refused], now: Now) -> list[Opened | Refused]:
        """Open all that is granted in one transaction; those who were refused on the way pass through."""
        batch = list(claimed)
        grants = [one.decided.grant for one in batch if isinstance(one, Claimed) and one.decided.grant is not None]
        opened = self._open_doors(grants, now) if grants else ()
        return [_opened(one, opened) if isinstance(one, Claimed) else one for one in batch]

    def tell(self, knock: Opened | Refused, now: Now) -> None:
        """Let the listener know, then everybody who has subscribed."""
        if isinstance(knock, Opened):
            self._verdicts.opened(knock, now)
            self._events.publish(LetIn(knock.grant, knock.decided.what.source, now))
        else:
            self._verdicts.refused(knock)
            self._events.publish(knock)


def _claim(decided: Decided, now: Now) -> Claim:
    knock, grant = decided.what, decided.grant
    holder = None
    if grant is not None:
        holder = Holder(
            *(grant.client_key, grant.address, grant.client_name, grant.ports, grant.opened_at, grant.expires_at),
            *(grant.network, grant.knocked_for),
        )
    client = knock.client
    return Claim(client.public_key.raw, knock.knock, knock.source, client.name, now.unix, holder)


def _elsewhere(refusal: ClaimRefusal, knock: Authenticated) -> str:
    if isinstance(refusal, AlreadyUsed) and refusal.first_source not in {None, knock.source}:
        return f", first seen from {refusal.first_source}: somebody is on the path"
    return ""


def _opened(claimed: Claimed, opened: Collection[int]) -> Opened | Refused:
    decided, grant = claimed.decided, claimed.decided.grant
    knock = decided.what
    if grant is not None and id(grant) in opened:
        return Opened(decided, grant)
    reason = Reason.FIREWALL if decided.refusal is None else decided.refusal
    return Refused(reason, knock.source, knock.client.name, representative=knock.representative)
