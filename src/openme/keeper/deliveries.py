"""Which receipts were offered, so that the keys of those that were fetched can be counted, and of no others.

A knock is known by the first 16 bytes of its R, as the listener reports it. What it says can only make a warning come
later or sooner.
"""

from collections import OrderedDict
from typing import NamedTuple

MOST = 4096
"""Receipts that are remembered, as many as the listener keeps."""
KNOCK_SIZE = 16


class Offer(NamedTuple):
    """Whose receipt it is (a public key of 32 bytes), and the last epoch whose key it carries."""

    client_key: bytes
    last: int


class Deliveries:
    """The receipts that were made lately."""

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
