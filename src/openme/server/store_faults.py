"""Says when the disk does not take what the store has to keep, and when it does again."""

import logging

from openme.store.base import Store

_log = logging.getLogger("openme.keeper")


class StoreFaults:
    """A line at each change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._said: str | None = None

    def tick(self) -> None:
        """Look, and say what has changed."""
        fault = self._store.failing
        if fault == self._said:
            return
        self._said = fault
        if fault is None:
            _log.info("the replay memory is on the disk again")
            return
        _log.error(
            "the replay memory cannot be written (%s): deciding from memory; after a restart only knocks made"
            " since then are accepted",
            fault,
        )
