"""Python's search for garbage in cycles, and what it need not look at."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search while much is made that has none, such as a large tree: it would take up to a third of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def as_long_as_the_process() -> Iterator[None]:
    """What is made in here stays, such as modules: no search now, and none later that looks at it, not even at exit."""
    with collector_paused():
        yield
        gc.freeze()
