"""A look, what it finds, and how looks run: side by side, each with a deadline, all within another."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from openme.errors import OpenmeError

Subject = TypeVar("Subject")

LOOK_SECONDS = 8.0
"""For one look, unless its row says otherwise."""
ALL_SECONDS = 17.0
"""For all of them, so that the command ends within 20 s on a slow machine too."""


class Finding(NamedTuple):
    """Something that is wrong. `cause` is a word of the table in docs/troubleshooting.md and never changes its meaning.

    `text`: what was seen; `cure`: what to do about it.
    """

    cause: str
    text: str
    cure: str


class NotLookedError(Exception):
    """A look cannot be taken here; in words, why."""


class Look(NamedTuple, Generic[Subject]):
    """A row: what is looked at, which causes it can find, and by which function.

    `after`: looks that must have found nothing, since what they find explains what this one would see. `seconds`: until
    it is given up.
    """

    name: str
    causes: tuple[str, ...]
    take: Callable[[Subject], Iterable[Finding]]
    after: tuple[str, ...] = ()
    seconds: float = LOOK_SECONDS


class NotLooked(NamedTuple):
    """A look that was not taken, or not to its end, and why."""

    look: str
    why: str


class Report(NamedTuple):
    """What came of a table of looks, in its order. `looked`: the names of those that were taken to their end."""

    findings: tuple[Finding, ...]
    looked: tuple[str, ...]
    not_looked: tuple[NotLooked, ...]


class _Taking(Generic[Subject]):
    """One look on its way."""

    def __init__(self, look: Look[Subject]) -> None:
        self.look = look
        self.findings: tuple[Finding, ...] = ()
        self.why: str | None = None
        self.is_settled = threading.Event()

    def take(self, subject: Subject, before: Sequence["_Taking[Subject]"], end: float) -> None:
        """Wait for what comes `before`, then look; in a thread of its own, which may be left behind."""
        for other in before:
            other.is_settled.wait(max(0.0, end - time.monotonic()))
        if explained := [other.look.name for other in before if other.findings]:
            self.why = f"what was found at {explained[0]} comes first"
        else:
            done = threading.Event()
            threading.Thread(target=self._look, args=(subject, done), daemon=True).start()
            if not done.wait(max(0.0, min(self.look.seconds, end - time.monotonic()))):
                self.why = "it took too long"
        self.is_settled.set()

    def _look(self, subject: Subject, done: threading.Event) -> None:
        try:
            found = tuple(self.look.take(subject))
        except NotLookedError as error:
            self.why = str(error)
        except OpenmeError as error:
            self.why = error.message
        except OSError as error:
            self.why = (error.strerror or str(error)).lower()
        except Exception as error:  # noqa: BLE001  # one look that fails must not cost the others
            self.why = f"internal error ({type(error).__name__}), please report it"
        else:
            if not self.is_settled.is_set():
                self.findings = found
        done.set()


def run(looks: Sequence[Look[Subject]], subject: Subject, seconds: float = ALL_SECONDS) -> Report:
    """Take all looks; returns within `seconds`, whatever they wait for."""
    end = time.monotonic() + seconds
    taken = {look.name: _Taking(look) for look in looks}
    for taking in taken.values():
        before = [taken[name] for name in taking.look.after]
        threading.Thread(target=taking.take, args=(subject, before, end), daemon=True).start()
    for taking in taken.values():
        if not taking.is_settled.wait(max(0.0, end - time.monotonic())):
            taking.why = "it took too long"
            taking.is_settled.set()
    return Report(
        tuple(finding for taking in taken.values() for finding in taking.findings),
        tuple(name for name, taking in taken.items() if taking.why is None),
        tuple(NotLooked(name, taking.why) for name, taking in taken.items() if taking.why is not None),
    )
