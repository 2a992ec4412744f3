"""Looks whether the config file has changed, before every grant."""

import logging
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openme.config.model import ConfigError, ServerConfig
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.server.privileges import die_with_parent

LARGE = 1000
"""Clients up to which a knock waits for a changed file (0.1 s); above, a process of its own reads it meanwhile."""
_REMIND = 60.0  # seconds between two lines about a file that is still broken

_log = logging.getLogger("openme.config")
_Signature = tuple[int, int, int, int, int] | None
_Outcome = ServerConfig | OpenmeError
_UNREAD: _Signature = (-1, -1, -1, -1, -1)


class ConfigWatch:
    """Holds the last good config. A stat is enough to see a change; a file that no longer loads changes nothing."""

    def __init__(self, path: Path, overrides: Mapping[str, Any] | None = None, *, tighten: bool = False) -> None:
        """Load the config for the first time; OpenmeError if it does not load.

        `overrides`, fields of `ServerConfig` from the command line, stand above the file's own, now and after every
        change. `tighten`: see `load_server_config`.
        """
        self._path = path
        self._overrides = dict(overrides or {})
        self._signature = self._look()
        self._reader: _Reader | None = None
        self._revoked: set[str] = set()
        self._refusal: str | None = None
        self._again = False
        self.config = self._load(tighten=tighten)
        self.fault: str | None = None
        """Why the file on disk is not in force; None when it is."""
        self._last_said = float("-inf")

    @property
    def is_reading(self) -> bool:
        """Whether a changed file is being read, so that the last good one still decides."""
        return self._reader is not None

    def refresh(self) -> ServerConfig | None:
        """The new config if the file has changed and loads, else None. Waits only up to `LARGE` clients."""
        if self._reader is not None:
            return self._take_over()
        signature = self._look()
        if signature == self._signature:
            self._remind()
            return None
        # Taken before reading: a change while reading is seen at the next look.
        self._signature = signature
        if len(self.config.clients) > LARGE:
            _log.info("the config has changed; reading its %d clients meanwhile", len(self.config.clients))
            self._revoked.clear()
            self._reader = _Reader(self._load)
            return None
        try:
            outcome: _Outcome = self._load()
        except OpenmeError as error:
            outcome = error
        return self._settle(outcome)

    def refuse(self, config: ServerConfig, reason: str) -> None:
        """The firewall did not take what was read last, for this reason: the file is at fault, `config` is in force."""
        self.config = config
        self.fault = reason
        if reason != self._refusal:
            self._refusal = reason
            self._last_said = float("-inf")
            self._remind()

    def read_again(self) -> None:
        """Read a file that the firewall did not take once more at the next look: the fault may have been the host's."""
        if self._refusal is not None and self.fault == self._refusal and self._reader is None:
            self._signature = _UNREAD
            self._again = True

    def revoke(self, name: str) -> ServerConfig | None:
        """The last good config less a client that was just removed from a file which is not in force.

        None where the file is in force, so that the client is gone already.
        """
        if self._reader is None and self.fault is None:
            return None
        self._revoked.add(name)
        self.config = _without(self.config, {name})
        return self.config

    def _take_over(self) -> ServerConfig | None:
        if self._reader is None or (outcome := self._reader.poll()) is None:
            return None
        _log.info("read the changed config in %.1f s", self._reader.seconds)
        self._reader = None
        if isinstance(outcome, ServerConfig):
            # What was revoked after the reading began may still stand in what was read.
            outcome = _without(outcome, self._revoked)
        return self._settle(outcome)

    def _settle(self, outcome: _Outcome) -> ServerConfig | None:
        again, self._again = self._again, False
        if isinstance(outcome, OpenmeError):
            self.fault = outcome.message
            self._last_said = float("-inf")
            self._remind()
            return None
        self.fault = None
        self.config = outcome
        if not again:
            say_warnings(outcome)
        return outcome

    def _load(self, *, tighten: bool = False) -> ServerConfig:
        try:
            config = load_server_config(self._path, tighten=tighten)
        except ConfigError as error:
            if "permission denied" in error.message and os.geteuid() == 0:
                # Root may read it; it is our own sandbox that knows no other directory than the one we started with.
                raise OpenmeError(f"{self._path}: now lies in another directory: restart the server") from None
            raise
        return replace(config, **self._overrides)

    def _look(self) -> _Signature:
        """What tells one state of the file from another; None when there is no file."""
        try:
            s = os.stat(self._path)  # noqa: PTH116  # the cheapest way to ask, on the path of every knock
        except OSError:
            return None
        return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode

    def _remind(self) -> None:
        now = time.monotonic()
        if self.fault is not None and now - self._last_said >= _REMIND:
            self._last_said = now
            _log.error("the config on disk is NOT in force, the last good one is: %s", self.fault)


def _without(config: ServerConfig, names: set[str]) -> ServerConfig:
    clients = {name: client for name, client in config.clients.items() if name not in names}
    return config if len(clients) == len(config.clients) else replace(config, clients=clients)


class _Reader:
    """A child process that loads the config and leaves it in memory that both share."""

    def __init__(self, load: Callable[[], ServerConfig]) -> None:
        self._started = time.monotonic()
        self._result = os.memfd_create("config", os.MFD_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            try:
                die_with_parent()
                try:
                    outcome: _Outcome = load()
                except OpenmeError as error:
                    outcome = OpenmeError(error.message, error.hint)
                with os.fdopen(self._result, "wb") as file:
                    pickle.dump(outcome, file, pickle.HIGHEST_PROTOCOL)
            finally:
                os._exit(0)

    @property
    def seconds(self) -> float:
        """How long it has been reading."""
        return time.monotonic() - self._started

    def poll(self) -> _Outcome | None:
        """What the child has read, or None while it still reads."""
        if os.waitpid(self._child, os.WNOHANG)[0] == 0:
            return None
        with os.fdopen(self._result, "rb") as file:
            file.seek(0)
            content = file.read()
        if not content:
            return OpenmeError("the process that read the config has died")
        # Our own child wrote it, into memory that nobody else has.
        outcome: _Outcome = pickle.loads(content)  # noqa: S301
        return outcome


def say_warnings(config: ServerConfig) -> None:
    """Log what a config that loads is to be told about, disabled clients above all."""
    for warning in config.warnings:
        _log.warning("%s", warning)
    for fault in config.client_faults:
        _log.error("client disabled: %s", fault)
