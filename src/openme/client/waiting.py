"""Waiting for what has no time limit of its own, such as this system's resolver."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` gives, or the OSError or ValueError that it raises; TimeoutError once the seconds are over.

    Whoever is not done by then is left behind in a thread that keeps nothing from ending.
    """
    answers: SimpleQueue[tuple[T, None] | tuple[None, OSError | ValueError]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except (OSError, ValueError) as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError("timed out") from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value]  # None only beside an error, or if ask gave it
