"""What every store does alike: it decides whether a knock is the first of its kind, and remembers who was in.

The keeper asks and obeys. Whether the answer comes from memory and one sync of the disk, or from a machine that other
servers share, is the store's own affair; `tests/contract/test_store.py` holds all of them to the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from openme.errors import OpenmeError
from openme.networks import IPNetwork
from openme.ports import PortRange
from openme.reasons import Reason
from openme.wire.knock import IPAddress, Knock

RatchetNote = tuple[int, bytes]
"""The oldest epoch that a ratchet has a key for, and that epoch's public key, 32 bytes."""

Run = tuple[int, int]
"""The first and last signed time, in nanoseconds, of knocks that were accepted without a gap of more than 2·window."""


class StoreError(OpenmeError):
    """The store would not take or give what it should."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The last knock of a client that policy had nothing against: its name then, Unix seconds, where from."""

    name: str
    at: float
    source: IPAddress


@dataclass(frozen=True, slots=True)
class Holder:
    """Who was given a door for `address`, and to which ports. With a `network` it was for all of that, `address` is its
    first, and `knocked_for` the one that the last knock was for.

    A restart learns from it whose the doors in the kernel are, and `--cut` which connections are whose.
    """

    client_key: bytes
    address: IPAddress
    client_name: str
    ports: tuple[PortRange, ...]
    opened_at: float
    expires_at: float
    network: IPNetwork | None = None
    knocked_for: IPAddress | None = None

    @property
    def named(self) -> IPAddress:
        """The address that the last knock was for."""
        return self.address if self.knocked_for is None else self.knocked_for


@dataclass(frozen=True, slots=True)
class Claim:
    """A knock that asks whether it is the first: who signed what (32-byte key), from where, when (Unix seconds).

    `holder`: what it is to be given; None for one that policy refuses, which is used up all the same.
    """

    client_key: bytes
    knock: Knock
    source: IPAddress
    client_name: str
    at: float
    holder: Holder | None


@dataclass(frozen=True, slots=True)
class First:
    """Nobody has claimed this before, and from now on it is claimed."""


@dataclass(frozen=True, slots=True)
class ClaimRefusal:
    """Why a claim is refused; one of the three below."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class AlreadyUsed(ClaimRefusal):
    """`replay`: it was claimed before, by a knock from `first_source`. `stale`: it may have been."""

    first_source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class CannotStore(ClaimRefusal):
    """The store is there and does not take it. Nothing has changed: it may be claimed again."""


@dataclass(frozen=True, slots=True)
class Unavailable(ClaimRefusal):
    """The store has not answered. Whether the knock is used up is not known; it opens nothing."""


Outcome = First | ClaimRefusal
Answer = Callable[[Sequence[Outcome]], None]
FIRST = First()


@dataclass(frozen=True, slots=True)
class Reset:
    """A client whose time begins anew: what is to be stored instead of all that was known of it."""

    client_key: bytes
    low_ns: int
    runs: tuple[Run, ...]
    shut: tuple[Run, ...]


class Store(Protocol):
    """What one server remembers, or several that share it."""

    @property
    def failing(self) -> str | None:
        """Why what is decided may not outlive this process; None when it does."""

    @property
    def damage(self) -> str | None:
        """What was wrong with an earlier store, which was set aside; None when it was whole."""

    @property
    def loss(self) -> str | None:
        """What was lost of what was accepted before, for the operator; None if nothing was."""

    @property
    def floor_ns(self) -> int | None:
        """Knocks signed before this Unix time in nanoseconds are refused, whoever signed them; None: none are."""

    def load(self, window_ns: int, now_ns: int) -> None:
        """Begin to answer; before, and after `close`, every claim is `Unavailable`.

        `window_ns` is `replay_window`, `now_ns` the Unix time of this start. Where knocks may be missing from what was
        stored a floor is set, which holds from then on.
        """

    def set_window(self, window_ns: int) -> None:
        """Follow a changed `replay_window`. A longer one keeps more from now on, and brings nothing back."""

    # -- claims

    def claim(self, claims: Sequence[Claim], answer: Answer) -> None:
        """Decide for each whether it is the first, in their order: a copy beside the original in one batch is a copy.

        `answer` is called once, with an outcome for each claim, either before this returns or later, from the loop.
        `First` means that the same claim is refused from then on, by a later run as well, unless `failing` says
        otherwise; what a refusal was for has left nothing behind.
        """

    def reset(self, client_key: bytes, now_ns: int) -> Reset | None:
        """Let a client in again that once knocked with a clock far ahead; None if its time was not ahead.

        What it signed before `now_ns` stays refused, and so does whatever it had claimed. StoreError if it is done and
        may not outlive this process.
        """

    def reset_all(self, now_ns: int) -> list[Reset]:
        """Begin everybody's time anew whose time is ahead, and lower a floor in the future; StoreError as above."""

    # -- who was in

    def holders(self) -> Iterator[Holder]:
        """Everybody who was given a door in the last 30 days: of each client a bounded number, those that end last.

        StoreError, at any step, where the store does not give them. Nothing may be claimed meanwhile.
        """

    def holders_of(self, client_key: bytes) -> list[Holder]:
        """The same of one client. StoreError as above."""

    def holder_keys(self) -> Iterator[bytes]:
        """The public keys of those whom `holders_of` knows, a moment each. StoreError as above, at any step."""

    def seen(self) -> dict[bytes, Seen]:
        """The last accepted knock of every client, by public key. StoreError as above."""

    def seen_in_parts(self, most: int) -> Iterator[dict[bytes, Seen]]:
        """The same, at most so many clients at a time, in the order of their keys. StoreError as above."""

    # -- epoch keys

    def renew(self, client_key: bytes, last: int) -> None:
        """A client has fetched keys up to epoch `last`; stored with the next claims or `flush`."""

    def renewals(self) -> dict[bytes, int]:
        """The last epoch whose key a client has fetched, by 32-byte public key. StoreError as above."""

    def forget_renewals(self) -> None:
        """There is a new ratchet: what clients carry belongs to the old one."""

    def ratchet_seen(self) -> tuple[RatchetNote | None, RatchetNote | None]:
        """The ratchet as it was last known, and as it was about to be written when this server ended."""

    def intend_ratchet(self, epoch: int, public: bytes) -> None:
        """The ratchet file is about to begin with this epoch: whichever of the two is found is the right one."""

    def note_ratchet(self, epoch: int, public: bytes) -> None:
        """Remember the ratchet, so that a file that is lost or older is noticed. A store that fails loses the note."""

    def flush(self) -> None:
        """Store what waits, as far as that is possible now."""

    def close(self) -> None:
        """Store what waits, as far as that is possible, and let go."""
