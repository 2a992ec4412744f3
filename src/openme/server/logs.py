"""Where the server's lines go: stderr, for people or as JSON; systemd's journal keeps the time itself."""

import json
import logging
import os
import select
import sys
import time
from typing import Any, TextIO

from openme.visible import visible

_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _TextFormatter(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__("%(levelname)s: %(message)s" if journald else "%(asctime)s %(levelname)s: %(message)s")
        self.datefmt = "%Y-%m-%dT%H:%M:%SZ"
        self.converter = time.gmtime
        self._journald = journald

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
    """Drops a line rather than wait: whoever reads stderr may have stopped, and a server must not stop with him."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it if there is room."""
        try:
            writable = bool(select.select([], [self.stream.fileno()], [], 0)[1])
        except (OSError, ValueError):  # closed, or no file at all
            writable = True
        if writable:
            super().emit(record)


def set_up(level: str, *, as_json: bool) -> None:
    """Send every line from `level` on to stderr; a full or closed stderr stops nothing."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter(journald="JOURNAL_STREAM" in os.environ))
    logging.raiseExceptions = False
    root = logging.getLogger("openme")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
