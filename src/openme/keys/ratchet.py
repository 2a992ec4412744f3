"""The epoch keys of wire version 2: a one-way ratchet (spec wire-v2.md "Epoch keys").

From the key of one epoch every later one follows and no earlier one does. Whoever wipes the key of an epoch can read
its knocks no more.
"""

from collections.abc import Iterator

from openme.keys.erasing import wipe
from openme.keys.hkdf import hkdf
from openme.keys.x25519 import public_key_of

KEY_SIZE = 32
MAX_STEPS = 200_000
"""Epochs that may be skipped in one go: 3,800 years of weeks. A clock further ahead than that is no clock."""
NS = 10**9

_RATCHET_INFO = b"openme-v2 ratchet"
_EPOCH_INFO = b"openme-v2 epoch key"


def epoch_at(unix_ns: int, length: int) -> int:
    """The epoch of a Unix time in nanoseconds; epochs of `length` seconds are counted from the Unix epoch."""
    return unix_ns // (length * NS)


class Ratchet:
    """`key`, 32 bytes, is that of epoch `index`, the oldest one that is still needed. `length` is in seconds."""

    def __init__(self, length: int, index: int, key: bytes) -> None:
        if len(key) != KEY_SIZE or length < 1 or index < 0:
            raise ValueError("not a ratchet")
        self.length = length
        self.index = index
        self._key = key

    def __repr__(self) -> str:
        return f"Ratchet(length={self.length}, index={self.index})"

    def reaches(self, epoch: int) -> bool:
        """Whether there is a key for this epoch: it is not erased, and not absurdly far ahead."""
        return 0 <= epoch - self.index <= MAX_STEPS

    def copy_key_to(self, place: bytearray, offset: int) -> None:
        """Write the 32 bytes of the ratchet key into `place`, for the file; the caller wipes them."""
        place[offset : offset + KEY_SIZE] = self._key

    def advance_to(self, index: int) -> None:
        """Forget every epoch before `index`, for ever. ValueError if that is too far ahead or behind."""
        key = self._key_of(index)
        if key is not self._key:
            wipe(self._key)
        self.index = index
        self._key = key

    def later(self, index: int) -> "Ratchet":
        """A ratchet of its own that begins with epoch `index`; ValueError as for `advance_to`."""
        key = self._key_of(index)
        return Ratchet(self.length, index, bytes(memoryview(key)) if key is self._key else key)

    def forget(self) -> None:
        """Wipe the key: this ratchet is of no use any more."""
        wipe(self._key)

    def private_key(self, epoch: int) -> bytes:
        """The X25519 private key of an epoch, 32 bytes. The caller wipes it. ValueError as for `advance_to`."""
        key = self._key_of(epoch)
        private = hkdf(key, _EPOCH_INFO, KEY_SIZE)
        if key is not self._key:
            wipe(key)
        return private

    def public_key(self, epoch: int) -> bytes:
        """E_epoch, 32 bytes. ValueError as for `advance_to`."""
        private = self.private_key(epoch)
        public = public_key_of(private)
        wipe(private)
        return public

    def public_keys(self, first: int, count: int) -> tuple[bytes, ...]:
        """E_first, E_first+1, …: X25519 public keys, 32 bytes each. ValueError as for `advance_to`."""
        return tuple(self._publics(first, count))

    def _publics(self, first: int, count: int) -> Iterator[bytes]:
        walker = self.later(first)
        for _ in range(count):
            yield walker.public_key(walker.index)
            walker.advance_to(walker.index + 1)
        walker.forget()

    def _key_of(self, epoch: int) -> bytes:
        """The ratchet key of an epoch, a new object unless it is the oldest's."""
        if not self.reaches(epoch):
            raise ValueError(f"no key for epoch {epoch}")
        key = self._key
        for _ in range(epoch - self.index):
            following = hkdf(key, _RATCHET_INFO, KEY_SIZE)
            if key is not self._key:
                wipe(key)
            key = following
        return key
