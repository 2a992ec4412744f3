"""The addresses that clients have knocked from, where the program finds them. No system call."""

import struct

from nacl.bindings import crypto_shorthash_siphash24

from openme.kernel_filter import layout
from openme.wire.knock import IPAddress, pack_address


class Addresses:
    """Hashes of them under a key that nobody else has, so that nobody can choose addresses which take another's room.

    A bucket that is full forgets the one that it was told first: of the latest 4,096 addresses that is one in some
    thousands.
    """

    def __init__(self, settings: memoryview, familiar: memoryview) -> None:
        """Both are numbers of 64 bits, see `layout`."""
        self._settings = settings
        self._familiar = familiar

    def add(self, address: IPAddress) -> None:
        """Have this one among them."""
        at = layout.ADDRESS_KEY
        key = struct.pack("<QQ", self._settings[at], self._settings[at + 1])
        (number,) = struct.unpack("<Q", crypto_shorthash_siphash24(pack_address(address), key))
        first = number % layout.BUCKETS * layout.BUCKET_WORDS
        bucket = self._familiar[first : first + layout.BUCKET_WORDS].tolist()
        others = [other for other in bucket if other not in {0, number}][1 - layout.BUCKET_WORDS :]
        # In this order each of the others is there at any moment: it has its new place before its old one is taken.
        for place, one in enumerate((*others, number), first):
            self._familiar[place] = one
