"""The garbage collector does not look through what stays, and takes what goes."""

import gc
import weakref

from openme.server.garbage import set_aside


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_set_aside_is_looked_through_no_more_and_garbage_is_gone() -> None:
    kept, lost = _Ring(), _Ring()
    is_there = weakref.ref(lost)
    del lost
    try:
        set_aside()
        assert is_there() is None, "it would stay for good"
        assert not any(item is kept for item in gc.get_objects())
    finally:
        gc.unfreeze()
