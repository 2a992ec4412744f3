"""The live epochs' filter keys, in the slots where the program finds them. No system call."""

import struct
from collections.abc import Collection

from openme.kernel_filter import layout

KEY_SIZE = 16


class Slots:
    """Which key is in which slot. `words`: the settings, numbers of 64 bits."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._held: list[bytes | None] = [None] * layout.SLOTS

    def hold(self, keys: Collection[bytes]) -> bool:
        """Have these keys, of 16 bytes each, in slots, and no others; False if there are more of them than slots.

        A key that has a slot keeps it, so that no packet meets it while it is written (see `layout`).
        """
        for slot, key in enumerate(self._held):
            if key is not None and key not in keys:
                self._write(slot, 0, 0, 0)
                self._held[slot] = None
        for key in keys:
            if key in self._held:
                continue
            if None not in self._held:
                return False
            slot = self._held.index(None)
            first, second = struct.unpack("<QQ", key)
            self._write(slot, first, second, layout.sealed(first, second))
            self._held[slot] = key
        return True

    def _write(self, slot: int, first: int, second: int, seal: int) -> None:
        at = layout.slot_at(slot)
        self._words[at] = first
        self._words[at + 1] = second
        self._words[at + layout.KEY_WORDS] = seal
