"""The revoked keys as the running server knows them, before every grant."""

import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from pathlib import Path

from openme.config.model import DisabledClient
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import COPY_NAME, FILE_NAME, WHY, Revocation, read_revoked
from openme.keys.ed25519 import ClientPublicKey, KeyTextError, key_id_of
from openme.moments import rfc3339

_MOST_OF_AN_ID = 4  # keys that a packet is compared with; an id has 4 bytes, so that two hardly ever share one
_REMIND = 60.0  # seconds between two lines about a list that is still damaged

_log = logging.getLogger("openme.revoked")


class RevokedWatch:
    """Holds what the files name, and what a command told before, or instead of, the files.

    Files that cannot be read, or are gone, change nothing: whoever is out stays out.
    """

    def __init__(self, state_dir: Path) -> None:
        """Read them for the first time; OpenmeError if there are files and none can be read."""
        self._paths = (state_dir / FILE_NAME, state_dir / COPY_NAME)
        self._signature = self._look()
        found = read_revoked(state_dir)
        self._filed = found.keys
        self._told: dict[bytes, Revocation] = {}
        self._is_there = found.is_there
        self.keys = found.keys
        """All revoked keys, 32 bytes each."""
        self._by_id: dict[bytes, tuple[bytes, ...]] = {}
        self._index((), self.keys)
        self.fault = found.damage
        """What is wrong with the files; None if nothing."""
        self._last_said = float("-inf")
        self._remind()

    def refresh(self) -> bool:
        """Look whether the files have changed; whether what is revoked may have."""
        signature = self._look()
        if signature == self._signature:
            self._remind()
            return False
        self._signature = signature  # before reading: a change while reading is seen at the next look
        try:
            found = read_revoked(self._paths[0].parent)
        except OpenmeError as error:
            return self._keep(error.message)
        if self._is_there and not found.is_there:
            return self._keep(f"{self._paths[0]}: is gone")
        self._is_there, self._filed = found.is_there, found.keys
        # From here on the files speak for these, so that `add` can lift them there.
        self._told = {key: r for key, r in self._told.items() if key not in found.keys}
        self.fault = found.damage
        self._last_said = float("-inf")
        self._remind()
        return self._united()

    @property
    def next_at(self) -> float:
        """When `refresh` has to say again what is wrong with the files, in monotonic seconds; `inf` if nothing is."""
        return inf if self.fault is None else self._last_said + _REMIND

    def revoke(self, keys: Iterable[bytes], name: str) -> bool:
        """Hold these keys for revoked, whether or not the disk takes them; whether one is new."""
        revocation = Revocation(name, rfc3339(time.time()))
        new = {key: revocation for key in keys if key not in self.keys}
        self._told |= new
        return self._united()

    def with_key_id(self, key_id: bytes) -> list[DisabledClient]:
        """The revoked clients whose key has this version 2 key id: mostly none, a few at most."""
        found = []
        for key in self._by_id.get(key_id, ())[:_MOST_OF_AN_ID]:
            with suppress(KeyTextError):  # the list may name what is no usable key
                found.append(DisabledClient(self.keys[key].name, ClientPublicKey(key), WHY))
        return found

    def told_of(self, name: str) -> frozenset[bytes]:
        """The keys that were revoked under this name by word alone."""
        return frozenset(key for key, revocation in self._told.items() if revocation.name == name)

    def lift(self, keys: Iterable[bytes]) -> bool:
        """Let go of what was told about these keys, on the word of `add`; what the files name stays revoked."""
        for key in keys:
            self._told.pop(key, None)
        return self._united()

    def _united(self) -> bool:
        before, self.keys = self.keys, {**self._filed, **self._told}
        gone, new = before.keys() - self.keys.keys(), self.keys.keys() - before.keys()
        self._index(gone, new)
        return bool(gone or new)

    def _index(self, gone: Iterable[bytes], new: Iterable[bytes]) -> None:
        for key in gone:
            key_id = key_id_of(key)
            left = tuple(other for other in self._by_id.pop(key_id) if other != key)
            if left:
                self._by_id[key_id] = left
        for key in new:
            key_id = key_id_of(key)
            self._by_id[key_id] = (*self._by_id.get(key_id, ()), key)

    def _keep(self, fault: str) -> bool:
        self.fault = fault
        self._last_said = float("-inf")
        self._remind()
        return False

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_signature, self._paths))

    def _remind(self) -> None:
        now = time.monotonic()
        if self.fault is not None and now - self._last_said >= _REMIND:
            self._last_said = now
            _log.error("the list of revoked keys is damaged, all keys that it named stay revoked: %s", self.fault)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        s = os.stat(path, follow_symlinks=False)  # noqa: PTH116  # the cheapest way, on the path of every knock
    except OSError:
        return None
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode
