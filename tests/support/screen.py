"""A program at a terminal of its own, at which a test types."""

import errno
import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.command import DEADLINE

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?<>=!]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][AB0]|[=>78])|\r")


class Terminal:
    """What a program has written, and the keys that it is given."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.written = b""

    def type(self, keys: str) -> None:
        """As if somebody did."""
        os.write(self._descriptor, keys.encode())

    @property
    def text(self) -> str:
        """What was written, without what moves and colours it."""
        return _ESCAPES.sub("", self.written.decode("utf-8", "replace"))

    def until(self, pattern: str) -> re.Match[str]:
        """Read until this is written; AssertionError with what was, when it is not in time."""
        end = time.monotonic() + DEADLINE
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                assert self._read(), f"it ended without {pattern!r}: {self.text!r}"
        return found

    def all(self) -> str:
        """All that is written until the program ends, as it is."""
        end = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < end, f"it does not end: {self.text!r}"
            if select.select([self._descriptor], [], [], 0.1)[0] and not self._read():
                return self.written.decode("utf-8", "replace")

    def _read(self) -> bool:
        try:
            read = os.read(self._descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the other end is closed
                raise
            read = b""
        self.written += read
        return bool(read)


@contextmanager
def at_a_terminal(words: Sequence[str], environment: Mapping[str, str], directory: Path) -> Iterator[Terminal]:
    """Run a program at a terminal of its own, of 200 columns; ended afterwards if it still runs."""
    child, descriptor = pty.fork()
    if child == 0:  # pragma: no cover  # another process
        try:
            os.chdir(directory)
            os.execvpe(words[0], list(words), dict(environment))  # noqa: S606  # as everywhere in these tests
        finally:
            os._exit(127)
    try:
        import termios  # noqa: PLC0415  # beside its use

        termios.tcsetwinsize(descriptor, (50, 200))
        yield Terminal(descriptor)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(descriptor)
