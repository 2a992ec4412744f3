"""Which receipts there are: whose, so that they can be forgotten, and what they carry, so that it can be counted.

Not of all: the listener keeps the latest ones, and has forgotten the others by itself.
"""

from collections import OrderedDict
from typing import NamedTuple

from openme.keeper.grants import GrantKey
from openme.seam.messages import MAX_RECEIPTS

MOST = 2 * MAX_RECEIPTS
"""Receipts that are remembered: more than the listener keeps, which of some texts makes none."""
KNOCK_SIZE = 16


class Offer(NamedTuple):
    """Whose receipt it is (a public key of 32 bytes), and the last epoch whose key it carries."""

    client_key: bytes
    last: int


class Deliveries:
    """The receipts that were made lately, and what they carry.

    A knock is known by the first 16 bytes of its R, as the listener reports it. What it says can only make a warning
    come later or sooner.
    """

    def __init__(self) -> None:
        self._offers: OrderedDict[bytes, Offer] = OrderedDict()

    def offer(self, representative: bytes, offer: Offer) -> None:
        """A receipt for the knock with this R goes to the listener."""
        self._offers[representative[:KNOCK_SIZE]] = offer
        if len(self._offers) > MOST:
            self._offers.popitem(last=False)

    def fetched(self, knock: bytes) -> Offer | None:
        """What this receipt carried, the first time that it is said to have been fetched; None for any other."""
        return self._offers.pop(knock, None)

    def forget(self) -> None:
        """There is a new ratchet: what was offered is of no use."""
        self._offers.clear()


class OpenReceipts:
    """The knocks, by their R, whose receipts say that a grant's doors are open."""

    def __init__(self) -> None:
        self._whose: OrderedDict[bytes, GrantKey] = OrderedDict()
        self._of: dict[GrantKey, list[bytes]] = {}

    def add(self, representative: bytes, grant: GrantKey) -> None:
        """The receipt for a knock that has opened these doors goes to the listener."""
        if representative in self._whose:  # no two knocks share one, unless clients mean it
            self._drop(representative)
        self._whose[representative] = grant
        self._of.setdefault(grant, []).append(representative)
        if len(self._whose) > MOST:
            self._drop(next(iter(self._whose)))

    def move(self, before: GrantKey, after: GrantKey) -> None:
        """A grant goes on as another, which may have knocks of its own: those of the first come before them."""
        if before != after and (moved := self._of.pop(before, None)):
            self._whose.update(dict.fromkeys(moved, after))
            self._of[after] = moved + self._of.get(after, [])

    def take(self, grant: GrantKey) -> list[bytes]:
        """The knocks of a grant that has ended, which are not remembered any longer."""
        taken = self._of.pop(grant, [])
        for representative in taken:
            del self._whose[representative]
        return taken

    def _drop(self, representative: bytes) -> None:
        grant = self._whose.pop(representative)
        of_grant = self._of[grant]
        of_grant.remove(representative)
        if not of_grant:
            del self._of[grant]
