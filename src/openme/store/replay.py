"""Replay memory: a knock opens once, ever (spec wire-v2.md "Replay memory", for both wire versions).

Per client public key it holds H, the largest timestamp ever accepted, and the nonces of the accepted knocks whose
timestamp is at least H - 2·window. Signed time alone evicts, never the server's clock: what a client has signed cannot
be moved by whoever turns that clock, so a restart or a clock set back replays nothing. A knock older than every nonce
kept is refused without looking for its nonce, so forgetting an old nonce never lets it in again.

Pure: what must reach the disk before a door opens is returned to the caller. What a knock costs does not grow with what
is remembered: nonces are let go one by one, the oldest first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from openme.reasons import Reason
from openme.store.base import AlreadyUsed, CannotStore, ClaimRefusal, Reset, Run
from openme.wire.knock import IPAddress, Knock

MAX_NONCES = 256  # per client; more knocks than that within 2·window are refused
MAX_RUNS = 8


@dataclass(frozen=True, slots=True)
class Remembered:
    """One accepted knock: 32-byte client key, timestamp in nanoseconds, 16-byte nonce, source address.

    `low_ns`: what was signed before this is refused for this client from now on. `runs`: where its signed times lie.
    `lets_go`: whether older nonces of this client are forgotten with it.
    """

    client_key: bytes
    timestamp_ns: int
    nonce: bytes
    source: IPAddress
    low_ns: int
    runs: tuple[Run, ...] = ()
    lets_go: bool = True


class _Kept(NamedTuple):
    """A nonce that is kept, and what else is known of its knock."""

    timestamp_ns: int
    nonce: bytes
    source: IPAddress


@dataclass(slots=True)
class _ClientMemory:
    """`oldest`: a heap of what `nonces` has; no two of them are alike in timestamp and nonce."""

    high_ns: int
    low_ns: int
    nonces: dict[bytes, _Kept] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    shut: tuple[Run, ...] = ()
    oldest: list[_Kept] = field(default_factory=list)

    def keep(self, timestamp_ns: int, nonce: bytes, source: IPAddress) -> None:
        """Keep one more. Most come from where another came from: that address is in memory once."""
        if self.oldest and (known := self.oldest[-1].source) == source:
            source = known
        self.nonces[nonce] = kept = _Kept(timestamp_ns, nonce, source)
        heappush(self.oldest, kept)

    def is_full(self, low_ns: int) -> bool:
        """Whether there is room for no nonce more once those older than `low_ns` have gone."""
        if len(self.nonces) < MAX_NONCES:
            return False
        return sum(kept.timestamp_ns >= low_ns for kept in self.oldest) >= MAX_NONCES

    def let_go(self, low_ns: int) -> bool:
        """Forget the nonces of what was signed before; whether there were any."""
        any_went = False
        while self.oldest and self.oldest[0].timestamp_ns < low_ns:
            del self.nonces[heappop(self.oldest).nonce]
            any_went = True
        return any_went


class ReplayMemory:
    """The memory of all clients. `window_ns` is the server's `replay_window` in nanoseconds.

    `floor_ns`: knocks signed before it are refused, whoever the client is. It is set when what was accepted before is
    not known for certain, and moves on the operator's word alone: a clock that is set back proves nothing.
    """

    def __init__(self, window_ns: int, floor_ns: int | None = None) -> None:
        self._window_ns = window_ns
        self.floor_ns = floor_ns
        self._clients: dict[bytes, _ClientMemory] = {}

    def load(
        self,
        times: Iterable[tuple[bytes, int, int, tuple[Run, ...], tuple[Run, ...]]],
        nonces: Iterable[tuple[bytes, int, bytes, IPAddress]],
    ) -> None:
        """Fill an empty memory from what was stored.

        `times`: (client key, H, low, runs, shut). `nonces`: (client key, timestamp, nonce, source).
        """
        for client_key, high_ns, low_ns, runs, shut in times:
            # Stored before there were runs: from the low time on anything may have been accepted.
            self._clients[client_key] = _ClientMemory(high_ns, low_ns, {}, runs or ((low_ns, high_ns),), shut)
        for client_key, timestamp_ns, nonce, source in nonces:
            memory = self._clients.get(client_key)
            if memory is None:  # times are stored with every nonce; without, the strictest that follows from it
                memory = self._clients[client_key] = _ClientMemory(
                    timestamp_ns, timestamp_ns, runs=((timestamp_ns, timestamp_ns),)
                )
            memory.keep(timestamp_ns, nonce, source)

    def set_window(self, window_ns: int) -> None:
        """Follow a changed `replay_window`. A longer one keeps more from now on, and brings nothing back."""
        self._window_ns = window_ns

    def reset(self, client_key: bytes, now_ns: int) -> Reset | None:
        """Let a client in again that once knocked with a clock far ahead; None if its time was not ahead.

        Its time begins anew at `now_ns`: what it signed before stays refused. So does what it signed for later: the
        runs in which its signed times lay stay shut, so that an honest knock is refused for as long as the client
        knocked by the wrong clock, when that time comes, and no recorded one ever opens again.
        """
        memory = self._clients.get(client_key)
        if memory is None or memory.high_ns <= now_ns:
            return None
        accepted = sorted((*memory.shut, *memory.runs))
        # What lies behind is kept as well: another reset may be under a clock that stands before it.
        runs = _merged([(first, min(last, now_ns - 1)) for first, last in accepted if first < now_ns], 0)
        shut = _merged([(max(first, now_ns), last) for first, last in accepted if last >= now_ns], 0)
        self._clients[client_key] = _ClientMemory(now_ns, now_ns, {}, runs, shut)
        return Reset(client_key, now_ns, runs, shut)

    def reset_all(self, now_ns: int) -> list[Reset]:
        """Begin everybody's time anew whose time is ahead, and lower a floor that lies in the future.

        Not below what may have been dated ahead when it was accepted: now and the window.
        """
        if self.floor_ns is not None:
            self.floor_ns = min(self.floor_ns, now_ns + self._window_ns)
        return [done for key in list(self._clients) if (done := self.reset(key, now_ns)) is not None]

    def accept(self, client_key: bytes, knock: Knock, source: IPAddress) -> Remembered | ClaimRefusal:
        """Remember a knock that has passed every earlier check, or say why it is refused.

        The caller stores the result durably before it opens anything.
        """
        timestamp_ns = knock.timestamp_ns
        if self.floor_ns is not None and timestamp_ns < self.floor_ns:
            return AlreadyUsed(Reason.STALE)
        memory = self._clients.get(client_key) or _ClientMemory(timestamp_ns, timestamp_ns - 2 * self._window_ns)
        if first := memory.nonces.get(knock.random_nonce):
            return AlreadyUsed(Reason.REPLAY, first.source)
        if timestamp_ns < memory.low_ns or any(first <= timestamp_ns <= last for first, last in memory.shut):
            return AlreadyUsed(Reason.STALE)
        high_ns = max(memory.high_ns, timestamp_ns)
        # `low_ns` never falls, not even when the window grows: below it nonces have been let go.
        low_ns = max(memory.low_ns, high_ns - 2 * self._window_ns)
        if memory.is_full(low_ns):
            return CannotStore(Reason.TOO_MANY)
        memory.high_ns, memory.low_ns = high_ns, low_ns
        lets_go = memory.let_go(low_ns)
        memory.keep(timestamp_ns, knock.random_nonce, source)
        # What was shut and lies behind now stays known, since a reset lets `low_ns` fall.
        behind = [run for run in memory.shut if run[1] < low_ns]
        memory.runs = _with(memory.runs, behind, timestamp_ns, 2 * self._window_ns)
        if behind:
            memory.shut = tuple(run for run in memory.shut if run[1] >= low_ns)
        self._clients[client_key] = memory
        return Remembered(client_key, timestamp_ns, knock.random_nonce, source, low_ns, memory.runs, lets_go)


def _with(runs: tuple[Run, ...], behind: list[Run], timestamp_ns: int, gap_ns: int) -> tuple[Run, ...]:
    """The runs with a time more, and those that were shut and are behind now."""
    if runs and not behind and runs[-1][0] <= timestamp_ns <= runs[-1][1] + gap_ns:  # nearly every knock
        return (*runs[:-1], (runs[-1][0], max(runs[-1][1], timestamp_ns)))
    return _merged(sorted((*runs, *behind, (timestamp_ns, timestamp_ns))), gap_ns)


def _merged(runs: list[Run], gap_ns: int) -> tuple[Run, ...]:
    """The same times in runs that lie further apart than `gap_ns`, at most eight: the nearest ones become one."""
    merged = runs[:1]
    for first, last in runs[1:]:
        if first - merged[-1][1] <= gap_ns:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    while len(merged) > MAX_RUNS:
        nearest = min(range(1, len(merged)), key=lambda i: merged[i][0] - merged[i - 1][1])
        merged[nearest - 1 : nearest + 1] = [(merged[nearest - 1][0], merged[nearest][1])]
    return tuple(merged)
