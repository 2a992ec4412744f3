"""Which epochs' knocks are accepted, and when an epoch's key may be erased (spec wire-v2.md "Epoch keys").

Accept by the clock, erase by evidence: the server's clock alone decides what is live, which setting it right undoes; it
never destroys a key, which nothing undoes. Without I/O: the clock is given, the keeper's process writes the file.
"""

from collections import deque
from dataclasses import dataclass
from math import inf

from openme.keys.ratchet import MAX_STEPS, NS, Ratchet, epoch_at
from openme.wire.receipt import EpochKeyList
from openme.wire.versions import overwrite_traces


@dataclass(frozen=True, slots=True)
class LiveChange:
    """What has changed in the set of live epochs: indices."""

    begun: tuple[int, ...]
    ended: tuple[int, ...]


class Epochs:
    """The ratchet of a running server. Epochs that are live are known by their public keys; at most two are."""

    def __init__(self, ratchet: Ratchet, window: float, horizon: int) -> None:
        """`window`: seconds for which an epoch is accepted earlier and later. `horizon`: epochs a client carries."""
        self.ratchet = ratchet
        self.live: dict[int, bytes] = {}
        """E_i of each live epoch i."""
        self._window_ns = round(window * NS)
        self._horizon = horizon
        self._evidence = -1
        self._over: deque[tuple[int, float]] = deque()
        self._renewal: EpochKeyList | None = None

    def follow(self, window: float, horizon: int) -> None:
        """Take over changed settings."""
        self._window_ns = round(window * NS)
        self._horizon = horizon
        self._renewal = None

    def look(self, unix_ns: int, monotonic: float) -> LiveChange:
        """See what the clock says, when that may have changed. Derives nothing unless the live set changes."""
        self._note_over(unix_ns, monotonic)
        before = set(self.live)
        wanted = self._live_at(unix_ns)
        for index in before - wanted:
            del self.live[index]
        for index in sorted(wanted - before):
            self.live[index] = self.ratchet.public_key(index)
        return LiveChange(tuple(sorted(wanted - before)), tuple(sorted(before - wanted)))

    def next_at(self, unix_ns: int, monotonic: float) -> float:
        """When `look` or `first_to_keep` is to be asked next, in monotonic seconds, if nobody knocks or sets the clock:

        when an epoch begins or ends to be live, or a process that has run for a whole epoch since has evidence enough.
        """
        length_ns = self.ratchet.length * NS
        begins = ((unix_ns + self._window_ns) // length_ns + 1) * length_ns - self._window_ns
        past_end = self._window_ns + 1  # at the end itself it is live still
        ends = ((unix_ns - past_end) // length_ns + 1) * length_ns + past_end
        ripe = [since + self.ratchet.length for epoch, since in self._over if epoch >= self.ratchet.index]
        return min(monotonic + (min(begins, ends) - unix_ns) / NS, *(at for at in ripe if at > monotonic), inf)

    def _live_at(self, unix_ns: int) -> set[int]:
        length_ns = self.ratchet.length * NS
        middle = epoch_at(unix_ns, self.ratchet.length)
        live = [
            index
            for index in (middle - 1, middle, middle + 1)
            if index * length_ns - self._window_ns <= unix_ns <= (index + 1) * length_ns + self._window_ns
            and self.ratchet.reaches(index)
        ]
        return set(live[-2:])

    def accepted(self, epoch: int) -> None:
        """A knock under this epoch was accepted: a client's signed clock agrees with ours."""
        self._evidence = max(self._evidence, epoch)

    def _note_over(self, unix_ns: int, monotonic: float) -> None:
        """Remember since when epochs have been over by our clock: (newest epoch that is over, monotonic seconds)."""
        over = (unix_ns - self._window_ns - 1) // (self.ratchet.length * NS) - 1
        since = monotonic
        while self._over and self._over[-1][0] > over:
            # The clock was set back. What was over then and is over still has been so all the time.
            since = self._over.pop()[1]
        if not self._over or self._over[-1][0] < over:
            self._over.append((over, since))

    def first_to_keep(self, monotonic: float) -> int | None:
        """The epoch that the ratchet may advance to, erasing those before it; None if nothing is to be erased.

        An epoch goes when it has been over by more than the window, and either a knock under a later one has been
        accepted or this process has run for a whole epoch since.
        """
        newest_over = self._over[-1][0] if self._over else -1
        erasable = min(newest_over, self._evidence - 1)
        for epoch, since in self._over:
            if monotonic - since >= self.ratchet.length:
                erasable = max(erasable, epoch)
        # A clock absurdly far ahead: as far as there are keys.
        erasable = min(erasable, self.ratchet.index + MAX_STEPS - 1)
        return erasable + 1 if erasable >= self.ratchet.index else None

    def advance_to(self, index: int) -> None:
        """Erase every epoch before `index` from memory; on the disk that has been done."""
        self.ratchet.advance_to(index)
        overwrite_traces()
        for epoch in [e for e in self.live if e < index]:
            del self.live[epoch]
        while len(self._over) > 1 and self._over[0][0] < index:
            self._over.popleft()

    def private_key(self, index: int) -> bytes:
        """The 32-byte private key of an epoch, to open its knocks with. ValueError if it is erased."""
        return self.ratchet.private_key(index)

    def forget(self) -> None:
        """Wipe the ratchet's key, and what was computed with it."""
        self.ratchet.forget()
        overwrite_traces()

    def keys_from(self, first: int) -> EpochKeyList:
        """The public keys of the horizon from an epoch on, as receipts carry them. ValueError if `first` is erased."""
        if self._renewal is None or self._renewal.first != first:
            self._renewal = EpochKeyList(first, self.ratchet.public_keys(first, self._horizon))
        return self._renewal
