"""Replay memory: a knock opens once, ever (spec wire-v2.md "Replay memory", for both wire versions).

Per client public key it holds H, the largest timestamp ever accepted, and the nonces of the accepted knocks whose
timestamp is at least H - 2·window. Signed time alone evicts, never the server's clock: what a client has signed cannot
be moved by whoever turns that clock, so a restart or a clock set back replays nothing. A knock older than every nonce
kept is refused without looking for its nonce, so forgetting an old nonce never lets it in again.

Pure: what must reach the disk before a door opens is returned to the caller.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from openme.wire.knock import IPAddress, Knock

MAX_NONCES = 256  # per client; more knocks than that within 2·window are refused

ReplayReason = Literal["replay", "stale", "too_many"]


@dataclass(frozen=True, slots=True)
class Remembered:
    """One accepted knock: 32-byte client key, timestamp in nanoseconds, 16-byte nonce, source address.

    `low_ns`: what was signed before this is refused for this client from now on.
    """

    client_key: bytes
    timestamp_ns: int
    nonce: bytes
    source: IPAddress
    low_ns: int


@dataclass(slots=True)
class _ClientMemory:
    high_ns: int
    low_ns: int
    nonces: dict[bytes, tuple[int, IPAddress]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplayRefusal:
    """Why a knock was refused; for `replay`, where the accepted original came from."""

    reason: ReplayReason
    first_source: IPAddress | None = None


class ReplayMemory:
    """The memory of all clients. `window_ns` is the server's `replay_window` in nanoseconds.

    `floor_ns`: knocks signed before it are refused, whoever the client is. It is set when what was accepted before is
    not known for certain, after a disk failed: then only what was made since can be told to be new.
    """

    def __init__(self, window_ns: int, floor_ns: int | None = None, newest_ns: int | None = None) -> None:
        """`newest_ns`: no knock that was ever accepted is younger, if that is known; the floor never falls below it."""
        self._window_ns = window_ns
        self._floor_ns = floor_ns
        self._newest_ns = newest_ns
        self._clients: dict[bytes, _ClientMemory] = {}

    def load(
        self, marks: Iterable[tuple[bytes, int, int]], nonces: Iterable[tuple[bytes, int, bytes, IPAddress]]
    ) -> None:
        """Fill an empty memory from what was stored.

        `marks`: (client key, H, low). `nonces`: (client key, timestamp, nonce, source).
        """
        for client_key, high_ns, low_ns in marks:
            self._clients[client_key] = _ClientMemory(high_ns, low_ns)
        for client_key, timestamp_ns, nonce, source in nonces:
            memory = self._clients.get(client_key)
            if memory is None:  # a mark is stored with every nonce; without one, the strictest that follows from it
                memory = self._clients[client_key] = _ClientMemory(timestamp_ns, timestamp_ns)
            memory.nonces[nonce] = (timestamp_ns, source)

    def settle_floor(self, now_ns: int) -> int | None:
        """Lower a floor that a wrong clock has put into the future; the new one, which is to be stored, if it moved.

        What it stands for still holds: it stays above every accepted knock where the newest is known, and otherwise as
        far ahead of the clock as a knock may be dated.
        """
        if self._floor_ns is None or self._floor_ns <= now_ns + self._window_ns:
            return None
        lower = now_ns + self._window_ns if self._newest_ns is None else max(self._newest_ns + 1, now_ns)
        if lower >= self._floor_ns:
            return None
        self._floor_ns = lower
        return lower

    def set_window(self, window_ns: int) -> None:
        """Follow a changed `replay_window`. A longer one keeps more from now on, and brings nothing back."""
        self._window_ns = window_ns

    def reset(self, client_key: bytes, now_ns: int) -> bool:
        """Let a client in again that once knocked with a clock far ahead; whether there was anything to reset.

        Its time begins anew at `now_ns`: what it signed before stays refused, and so does what it signed for later, as
        far as the nonces are still there: those within 2·window of its last knock.
        """
        memory = self._clients.get(client_key)
        if memory is None or memory.high_ns <= now_ns:
            return False
        memory.high_ns = memory.low_ns = now_ns
        return True

    def accept(self, client_key: bytes, knock: Knock, source: IPAddress) -> Remembered | ReplayRefusal:
        """Remember a knock that has passed every earlier check, or say why it is refused.

        The caller stores the result durably before it opens anything.
        """
        timestamp_ns = knock.timestamp_ns
        if self._floor_ns is not None and timestamp_ns < self._floor_ns:
            return ReplayRefusal("stale")
        memory = self._clients.get(client_key) or _ClientMemory(timestamp_ns, timestamp_ns - 2 * self._window_ns)
        if first := memory.nonces.get(knock.random_nonce):
            return ReplayRefusal("replay", first[1])
        if timestamp_ns < memory.low_ns:
            return ReplayRefusal("stale")
        high_ns = max(memory.high_ns, timestamp_ns)
        # `low_ns` never falls, not even when the window grows: below it nonces have been let go.
        low_ns = max(memory.low_ns, high_ns - 2 * self._window_ns)
        kept = {nonce: seen for nonce, seen in memory.nonces.items() if seen[0] >= low_ns}
        if len(kept) >= MAX_NONCES:
            return ReplayRefusal("too_many")
        kept[knock.random_nonce] = (timestamp_ns, source)
        self._clients[client_key] = _ClientMemory(high_ns, low_ns, kept)
        return Remembered(client_key, timestamp_ns, knock.random_nonce, source, low_ns)
