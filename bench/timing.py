"""How long a function takes that is called over and over."""

import time
from collections.abc import Callable


def timed(action: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each call."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return taken
