"""Ctrl-C, SIGTERM and SIGHUP: their default action until there is something to undo, and none of them is ever lost.

Python's own way, a KeyboardInterrupt between any two bytecodes, loses Ctrl-C wherever an exception goes nowhere (in
weakref callbacks, of which each import has one, `__del__`, hooks around fork(2)) and changes it where one is wrapped
(`__set_name__` before Python 3.12). So `openme` never has that on, but one of these:

- the kernel's default action, from the first line on (`cli.entry`): it ends the process, which has made nothing yet.
- `held_back`: what is made and undone in a moment. The signals wait in the kernel, and do what they do afterwards.
- `check` and `heard`, within that: where it may take longer, and a signal that waits is to begin the undoing.
- `ending`: what goes on until Ctrl-C, which ends it with an exit code at once.

What whoever started us had ignored (nohup(1), a job in the background of a shell without job control) stays ignored.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDINGS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
_CAN_BLOCK = hasattr(signal, "pthread_sigmask")  # not on Windows, whose console ends a process by itself


class Interrupted(KeyboardInterrupt):
    """A signal has asked us to end, while there was something to undo. `outcome`: what is so now, in a few words."""

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(number, outcome)
        self.number = number
        self.outcome = outcome


def is_ignored(number: int) -> bool:
    """Whether this signal does nothing, as somebody wanted it."""
    return signal.getsignal(number) is signal.SIG_IGN


def ignore() -> None:
    """From here on nothing interrupts: all is undone, and how we end is settled."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def end_by(number: int) -> int:
    """End this process by a signal, so that a shell sees it and ends its loop; its exit code if that is not allowed."""
    with suppress(OSError, KeyboardInterrupt):
        signal.signal(number, signal.SIG_DFL)
        if _CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    return 128 + number


@contextmanager
def held_back() -> Iterator[None]:
    """Let no request to end through in here: it waits, and does afterwards what it would have done.

    A process that is forked in here begins with them held back, and leaves it at that or ignores them first.
    """
    if not _CAN_BLOCK:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check() -> None:
    """Interrupted if a request to end is held back: a place at which whoever holds it back can undo what was done."""
    if not _CAN_BLOCK:
        return
    for number in signal.sigpending().intersection(ENDINGS):
        if not is_ignored(number):  # the kernel keeps it all the same while it is blocked: signal(7)
            raise Interrupted(number)


@contextmanager
def heard() -> Iterator[None]:
    """Within `held_back`, for what may take long: a request to end is raised as Interrupted. Nothing, elsewhere.

    One whose exception got lost in here is raised at the end. In the main thread.
    """
    blocked = [n for n in _blocked() if not is_ignored(n)]
    if not blocked:
        yield
        return
    came: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise Interrupted(number)

    before = {number: signal.signal(number, on_signal) for number in blocked}
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # is in force also where it raises what came just before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Interrupted(came[0])


def _blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()).intersection(ENDINGS) if _CAN_BLOCK else set()


@contextmanager
def ending(code: Callable[[], int]) -> Iterator[None]:
    """Ctrl-C in here ends the process at once, wherever it is, with this exit code; what it has printed is out.

    No exception is raised, so none can be lost. Nothing in here may need an undoing but what is `held_back`.
    """
    if is_ignored(signal.SIGINT):
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            # RuntimeError: it is being written to, and what was interrupted does not go on.
            with suppress(OSError, RuntimeError, ValueError):
                stream.flush()
        os._exit(code())

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
