"""The keeper's loop: what it waits for, and that a request to stop ends it."""

import logging
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

from openme import interrupts

_log = logging.getLogger("openme.keeper")


class Readable(Protocol):
    """What the kernel tells to be readable."""

    def fileno(self) -> int:
        """Its descriptor."""


class Ending(Enum):
    """Why the keeper stopped serving."""

    ASKED = "asked"
    LISTENER_GONE = "listener gone"
    TRIAL_OVER = "trial over"


class Loop:
    """Waits, and calls whom it concerns."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        """For those who wait for a socket to take more."""
        self.ending: Ending | None = None
        """Why there is no further turn, once there is a reason."""

    def watch(self, source: Readable, callback: Callable[[], object]) -> None:
        """Call back in each turn in which this is readable."""
        self.selector.register(source, selectors.EVENT_READ, callback)

    def forget(self, source: Readable) -> None:
        """Watch it no longer."""
        self.selector.unregister(source)

    def wait(self, seconds: float) -> None:
        """Wait for so long, and never for less, or until something is readable, and call back."""
        for key, _ in self.selector.select(seconds):
            key.data()

    def end(self, why: Ending) -> None:
        """Have this turn be the last one. The first reason counts."""
        if self.ending is None:
            self.ending = why

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Hear those that ask to stop or to look at the config, and of children that end.

        Those that were blocked until then are let in.
        """
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)  # noqa: FBT003  # the standard library's signature
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                if not interrupts.is_ignored(number):
                    signal.signal(number, lambda *_: self.end(Ending.ASKED))
            # These only wake us: a turn looks at everything, the config and the children too.
            signal.signal(signal.SIGHUP, lambda *_: _log.info("asked to look at the config"))
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.siginterrupt(signal.SIGCHLD, False)  # noqa: FBT003  # the standard library's signature
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.ENDINGS)
            self.watch(reader, lambda: reader.recv(64))
            yield
        finally:
            signal.set_wakeup_fd(previous)
            reader.close()
            writer.close()
