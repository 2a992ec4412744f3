"""Several changes that stand together or not at all, also when Ctrl-C or SIGTERM comes between them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from openme.errors import OpenmeError

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(BaseException):
    """A signal has asked us to end."""


def all_or_nothing(do: Callable[[], None], undo: Callable[[], str]) -> None:
    """Call `do`; if it raises, or a signal asks us to end meanwhile, `undo`, which nothing interrupts.

    `undo` may be called at any point of `do` or right after it. It returns what is so afterwards, in a few words: those
    of an OpenmeError with exit code 128 + n after signal n. What `do` raises comes out again. A signal that is ignored
    stays ignored. In the main thread.
    """
    came: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        ignore()
        came.append(number)
        raise _Interrupted

    def ignore() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    before = {number: signal.getsignal(number) for number in _ENDINGS}
    before = {number: handler for number, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    raised: BaseException | None = None
    try:
        try:
            for number in before:
                signal.signal(number, on_signal)
            do()
        finally:
            ignore()  # one that comes before this line is through ignores them too
    except BaseException as error:  # noqa: BLE001  # it goes on below
        raised = error
    try:
        if raised is None and not came:
            return
        outcome = undo()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if raised is not None and not isinstance(raised, _Interrupted):
        raise raised
    raise OpenmeError(f"interrupted: {outcome}", exit_code=128 + came[0])


@contextmanager
def held_back() -> Iterator[None]:
    """For the moment that one change and the note of it take: a signal that comes meanwhile comes right afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
