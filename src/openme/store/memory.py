"""A store that remembers for as long as its process lives: what tests of everything else stand on."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from openme.reasons import Reason
from openme.store.base import FIRST, Answer, Claim, Holder, RatchetNote, Reset, Seen, Unavailable
from openme.store.replay import Remembered, ReplayMemory

if TYPE_CHECKING:
    from openme.store.base import Outcome


class MemoryStore:
    """See `Store`. Loaded again after `close` it is what a later run would find."""

    failing: str | None = None
    damage: str | None = None
    loss: str | None = None

    def __init__(self) -> None:
        self._kept: ReplayMemory | None = None
        self._memory: ReplayMemory | None = None
        self._seen: dict[bytes, Seen] = {}
        self._holders: dict[bytes, dict[object, Holder]] = {}
        self._renewals: dict[bytes, int] = {}
        self._ratchet: tuple[RatchetNote | None, RatchetNote | None] = (None, None)

    def load(self, window_ns: int, now_ns: int) -> None:  # noqa: ARG002  # nothing is ever missing
        """See `Store.load`."""
        self._kept = self._memory = self._kept or ReplayMemory(window_ns)
        self._memory.set_window(window_ns)

    @property
    def floor_ns(self) -> int | None:
        """See `Store.floor_ns`."""
        return None if self._memory is None else self._memory.floor_ns

    def set_window(self, window_ns: int) -> None:
        """See `Store.set_window`."""
        if self._memory is not None:
            self._memory.set_window(window_ns)

    def claim(self, claims: Sequence[Claim], answer: Answer) -> None:
        """See `Store.claim`; the answer comes before this returns."""
        if self._memory is None:
            answer([Unavailable(Reason.UNAVAILABLE)] * len(claims))
            return
        outcomes: list[Outcome] = []
        for claim in claims:
            found = self._memory.accept(claim.client_key, claim.knock, claim.source)
            if isinstance(found, Remembered):
                self._note(claim)
                outcomes.append(FIRST)
            else:
                outcomes.append(found)
        answer(outcomes)

    def _note(self, claim: Claim) -> None:
        if claim.holder is not None:
            self._seen[claim.client_key] = Seen(claim.client_name, claim.at, claim.source)
            self._holders.setdefault(claim.client_key, {})[claim.holder.address, claim.holder.network] = claim.holder

    def reset(self, client_key: bytes, now_ns: int) -> Reset | None:
        """See `Store.reset`."""
        return None if self._memory is None else self._memory.reset(client_key, now_ns)

    def reset_all(self, now_ns: int) -> list[Reset]:
        """See `Store.reset_all`."""
        return [] if self._memory is None else self._memory.reset_all(now_ns)

    def holders(self) -> Iterator[Holder]:
        """See `Store.holders`; everybody, for as long as this lives."""
        return (holder for of_client in self._holders.values() for holder in of_client.values())

    def holders_of(self, client_key: bytes) -> list[Holder]:
        """See `Store.holders_of`."""
        return list(self._holders.get(client_key, {}).values())

    def holder_keys(self) -> Iterator[bytes]:
        """See `Store.holder_keys`."""
        return iter(list(self._holders))

    def seen(self) -> dict[bytes, Seen]:
        """See `Store.seen`."""
        return dict(self._seen)

    def seen_in_parts(self, most: int) -> Iterator[dict[bytes, Seen]]:
        """See `Store.seen_in_parts`."""
        keys = sorted(self._seen)
        for start in range(0, len(keys), most):
            yield {key: self._seen[key] for key in keys[start : start + most]}

    def renew(self, client_key: bytes, last: int) -> None:
        """See `Store.renew`."""
        self._renewals[client_key] = last

    def renewals(self) -> dict[bytes, int]:
        """See `Store.renewals`."""
        return dict(self._renewals)

    def forget_renewals(self) -> None:
        """See `Store.forget_renewals`."""
        self._renewals.clear()

    def ratchet_seen(self) -> tuple[RatchetNote | None, RatchetNote | None]:
        """See `Store.ratchet_seen`."""
        return self._ratchet

    def intend_ratchet(self, epoch: int, public: bytes) -> None:
        """See `Store.intend_ratchet`."""
        self._ratchet = (self._ratchet[0], (epoch, public))

    def note_ratchet(self, epoch: int, public: bytes) -> None:
        """See `Store.note_ratchet`."""
        self._ratchet = ((epoch, public), None)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """See `Store.close`."""
        self._memory = None
