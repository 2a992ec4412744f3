"""Where the server's lines go: stderr, for people or as JSON; systemd's journal keeps the time itself."""

import json
import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from openme.visible import visible

_MAX_LATE = 1000  # lines that wait for room on stderr
_AT_ONCE = 256  # lines of a group; more are written before it has ended
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _TextFormatter(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__("%(levelname)s: %(message)s" if journald else "%(asctime)s %(levelname)s: %(message)s")
        self.datefmt = "%Y-%m-%dT%H:%M:%SZ"
        self.converter = time.gmtime
        self._journald = journald
        self._second = -1
        self._time = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        """As ever, but put into words once a second."""
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, super().formatTime(record, datefmt)
        return self._time

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        # Neither a line break nor a terminal's escape may make a line of somebody's own.
        line = visible(super().format(record))
        return f"<{_SYSLOG.get(record.levelno, 6)}>{line}" if self._journald else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        value: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        value.update(getattr(record, "facts", {}))
        return json.dumps(value).replace("\x7f", "\\u007f")  # the only control character that it leaves


class _Handler(logging.StreamHandler[TextIO]):
    """Never waits: whoever reads stderr may have stopped, and a server must not stop with him.

    Where there is no room, a line of level debug is dropped: strangers can cause many. The others wait, the latest
    1,000 of them, so that nobody keeps the line about a door from being written by causing many of the rest.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._late: deque[str] = deque(maxlen=_MAX_LATE)
        self._groups = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write it if there is room, behind those that wait; in a group when that has ended."""
        try:
            line = self.format(record) + self.terminator
        except Exception:  # noqa: BLE001  # as every handler of the standard library
            self.handleError(record)
            return
        if record.levelno > logging.DEBUG:
            self._late.append(line)
            if not self._groups or len(self._late) >= _AT_ONCE:
                self.write_late()
        else:
            self.write_late()
            if not self._late and self._has_room():
                self._write(line)

    @contextmanager
    def group(self) -> Iterator[None]:
        """Let lines wait for each other."""
        self._groups += 1
        try:
            yield
        finally:
            self._groups -= 1
            self.write_late()

    def write_late(self) -> bool:
        """Write what waits, as far as there is room; whether some still does."""
        while self._late and self._has_room():
            lines = self._late.popleft()
            # What select(2) calls writable takes so many bytes at once (pipe(7)).
            while self._late and len(lines) + len(self._late[0]) <= select.PIPE_BUF:
                lines += self._late.popleft()
            self._write(lines)
        return bool(self._late)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # closed, or full
            self.stream.write(text)
            self.flush()

    def _has_room(self) -> bool:
        try:
            return bool(select.select([], [self.stream.fileno()], [], 0)[1])
        except (OSError, ValueError):  # closed, or no file at all
            return True


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger("openme").handlers if isinstance(handler, _Handler)]


def write_late() -> bool:
    """Write the lines that stderr had no room for, as far as it has now; whether some still wait."""
    waits = [handler.write_late() for handler in _handlers()]
    return any(waits)


@contextmanager
def together() -> Iterator[None]:
    """Write the lines of a group at once: those of 256 knocks cost a few writes."""
    with ExitStack() as stack:
        for handler in _handlers():
            stack.enter_context(handler.group())
        yield


def set_up(level: str, *, as_json: bool) -> None:
    """Send every line from `level` on to stderr; a full or closed stderr stops nothing."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter(journald="JOURNAL_STREAM" in os.environ))
    logging.raiseExceptions = False
    # Where in the source a line is made nobody is told, so it is not looked for (Logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001  # so documented
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger("openme")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
