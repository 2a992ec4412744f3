"""A line that tells somebody at a terminal what is waited for, and is gone afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from openme.cli import output

PATIENCE = 0.5
"""Seconds for which nobody needs to be told anything."""


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr that `what` is waited for, and how long so far, where that is a terminal; else nothing."""
    if not output.shows_progress():
        yield
        return
    import threading  # noqa: PLC0415  # for a terminal alone
    import time  # noqa: PLC0415  # as above

    ended = threading.Event()
    begun = time.monotonic()

    def tell() -> None:
        pause = PATIENCE
        while not ended.wait(pause):
            output.overwrite(f"openme: {what} ({time.monotonic() - begun:.0f} s)")
            pause = 1.0
        if pause != PATIENCE:
            output.overwrite("")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
