"""A disk that refuses is said once, and so is that it takes again."""

from openme.server.store_faults import StoreFaults
from openme.store.memory import MemoryStore
from support.knocks import lines


def test_each_change_is_one_line() -> None:
    store = MemoryStore()
    faults = StoreFaults(store)
    with lines("openme.keeper") as records:
        for failing in (None, None, "no space left", "no space left", "input/output error", None, None):
            store.failing = failing
            faults.tick()
    said = [record.getMessage() for record in records]
    assert ["no space left" in said[0], "input/output error" in said[1], "on the disk again" in said[2]] == [True] * 3
    assert len(said) == 3
