"""Looks whether the config file has changed, before every grant."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openme.config.faults import ConfigError
from openme.config.model import DisabledClient, ServerConfig
from openme.config.server import load_server_config
from openme.config.who_can_knock import hides_without_clients
from openme.config.widened import widened
from openme.errors import OpenmeError
from openme.firewall.base import Steps
from openme.interrupts import held_back
from openme.keeper.revoked_keys import revoked_names, without_revoked
from openme.ports import PortRange, without
from openme.processes.privileges import take_on
from openme.processes.roles import CONFIG_READER
from openme.server.config_parts import read_parts, write_parts
from openme.server.garbage import set_aside
from openme.server.revoked_watch import RevokedWatch

LARGE = 1 << 15
"""Bytes up to which a knock waits for a changed file (250 clients, 0.01 s); a process of its own reads a larger one
meanwhile, however few clients were known before.
"""
_REMIND = 60.0  # seconds between two lines about a file that is still broken

_log = logging.getLogger("openme.config")
_Signature = tuple[int, int, int, int, int] | None
_Outcome = ServerConfig | OpenmeError
_UNREAD: _Signature = (-1, -1, -1, -1, -1)


class ConfigWatch:
    """Holds the last good config, less what is revoked.

    A stat is enough to see a change; a file that no longer loads changes nothing. An entry whose key is revoked is
    disabled in whatever comes into force, however it was read.
    """

    def __init__(self, path: Path, overrides: Mapping[str, Any] | None = None, *, tighten: bool = False) -> None:
        """Load the config, and the revoked keys of its `state_dir`, for the first time; OpenmeError if that fails.

        `overrides`, values of keys from the command line, stand above the file's own, now and after every change.
        `tighten`: see `load_server_config`.
        """
        self._path = path
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  # not resolved: a link may come to point elsewhere
        """The name under which the file is read."""
        self.forget_in_child: Callable[[], None] = lambda: None
        """What a child that reads the file does first: it may live on when keys have been erased in this process."""
        self._overrides = overrides or {}
        self._signature = self._look()
        self._reader: _Reader | None = None
        self._refusal: str | None = None
        self._again = False
        self._last_good = self._load(tighten=tighten)
        self._revoked = RevokedWatch(self._last_good.state_dir)
        self._disabled: frozenset[str] = frozenset()
        self.config = self._less_revoked()
        self.fault: str | None = None
        """Why the file on disk is not in force; None when it is."""
        self._last_said = float("-inf")

    @property
    def is_reading(self) -> bool:
        """Whether a changed file is being read, so that the last good one still decides."""
        return self._reader is not None

    @property
    def is_arriving(self) -> bool:
        """Whether each look at the file now takes over a part of what was read."""
        return self._reader is not None and self._reader.is_done

    def refresh(self) -> ServerConfig | None:
        """The new config if the file or the revoked keys have changed and load, else None.

        Waits for a file of up to `LARGE` bytes, and always for the revoked keys.
        """
        revoked = self._revoked.refresh()
        if self._follow_file():
            return self.config
        return self._follow_revoked() if revoked else None

    def _follow_file(self) -> bool:
        """Look at the file; whether another config has come into force."""
        has_changed = False
        if self._reader is not None:
            if (outcome := self._reader.poll()) is None:
                return False
            _log.info("read the changed config in %.1f s", self._reader.seconds)
            self._reader = None
            has_changed = self._settle(outcome)
        # Also behind a reading, or who asks then would be told that the file as it is now is in force already.
        return self._look_at_file() or has_changed

    def _look_at_file(self) -> bool:
        signature = self._look()
        if signature == self._signature:
            self._remind()
            return False
        # Taken before reading: a change while reading is seen at the next look.
        self._signature = signature
        if signature is not None and signature[1] > LARGE:
            _log.info("the config has changed; reading its %d KiB meanwhile", signature[1] >> 10)
            self._reader = _Reader(self._load_changed, self.forget_in_child)
            return False
        try:
            outcome: _Outcome = self._load_changed()
        except OpenmeError as error:
            outcome = error
        return self._settle(outcome)

    def keys_of(self, name: str) -> frozenset[bytes]:
        """The public keys under this name: in the last good config, revoked or not, and revoked by word alone.

        By those the same `revoke`, once the disk takes it, finds what to write though the file names it no more.
        """
        client = self._last_good.clients.get(name)
        return self._revoked.told_of(name) | (frozenset() if client is None else {client.public_key.raw})

    def refuse(self, config: ServerConfig, reason: str) -> None:
        """The firewall did not take what was read last, for this reason: the file is at fault, `config` is in force."""
        self._last_good = config
        self.config = self._less_revoked()
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

    def unlist(self, ports: Iterable[PortRange]) -> ServerConfig:
        """These ports stand under `hide:` of the file no longer; the config in force without them."""
        before = self._last_good
        shown = replace(before, hide=without(before.hide, tuple(ports)))
        self._last_good = shown.with_index(before.index, before.named_ports)
        self.config = self._less_revoked()
        return self.config

    def is_revoked(self, keys: Iterable[bytes]) -> bool:
        """Whether one of these keys is revoked, on the disk or by word."""
        return any(key in self._revoked.keys for key in keys)

    def revoked_with(self, key_id: bytes) -> Sequence[DisabledClient]:
        """The revoked clients with this version 2 key id, whether or not the config names them still."""
        return self._revoked.with_key_id(key_id)

    def revoke(self, name: str, keys: Iterable[bytes] = ()) -> ServerConfig | None:
        """Have the client of this name, and these keys, out of every config from now on; the new one if one changes.

        By key: what is renamed or doubled meanwhile, or still stands in a file that is being read, does not come back.
        """
        return self._follow_revoked() if self._revoked.revoke({*self.keys_of(name), *keys}, name) else None

    def lift(self, keys: Iterable[bytes]) -> ServerConfig | None:
        """Forget what `revoke` was told of these keys; the new config if one changes."""
        return self._follow_revoked() if self._revoked.lift(keys) else None

    def _follow_revoked(self) -> ServerConfig | None:
        """Other keys are revoked than before; the new config if one of them stands in it."""
        before = self._disabled
        config = self._less_revoked()
        if self._disabled == before:
            return None
        for name in self._disabled - before:
            _log.info("%s: revoked", name)
        self.config = config
        return config

    def _less_revoked(self) -> ServerConfig:
        self._disabled = frozenset(revoked_names(self._last_good, self._revoked.keys))
        return without_revoked(self._last_good, self._revoked.keys)

    def _settle(self, outcome: _Outcome) -> bool:
        again, self._again = self._again, False
        if isinstance(outcome, OpenmeError):
            self.fault = outcome.message
            self._last_said = float("-inf")
            self._remind()
            return False
        self.fault = None
        self._last_good = outcome
        self.config = self._less_revoked()
        if not again:
            self._refusal = None  # what the firewall says of another file is news, also in the same words
            say_warnings(self.config)
        return True

    def _load_changed(self) -> ServerConfig:
        """The file as it is now, with a warning for each client that may do more than under the last good config."""
        config = self._load()
        more = widened(self._last_good, config)
        return replace(config, warnings=(*config.warnings, *more)) if more else config

    def _load(self, *, tighten: bool = False) -> ServerConfig:
        try:
            return load_server_config(self._path, tighten=tighten, overrides=self._overrides)
        except ConfigError as error:
            if "permission denied" in error.message and os.geteuid() == 0:
                # Root may read it; it is our own sandbox that knows no other directory than the one we started with.
                raise OpenmeError(f"{self._path}: now lies in another directory: restart the server") from None
            raise

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


class _Reader:
    """A child process that loads the config and leaves it, in parts, in memory that both share."""

    def __init__(self, load: Callable[[], ServerConfig], forget: Callable[[], None]) -> None:
        self._started = time.monotonic()
        self._parts: Steps[_Outcome] | None = None
        self._result = os.memfd_create("config", os.MFD_CLOEXEC)
        with held_back():  # in the child to its end: they are for its parent, with which it ends
            self._child = os.fork()
            if self._child == 0:
                status = 1
                try:
                    take_on(CONFIG_READER)
                    forget()
                    try:
                        outcome: _Outcome = load()
                    except OpenmeError as error:
                        outcome = error
                    with os.fdopen(self._result, "wb") as file:
                        write_parts(outcome, file)
                    status = 0
                finally:
                    os._exit(status)

    @property
    def seconds(self) -> float:
        """How long it has been reading."""
        return time.monotonic() - self._started

    @property
    def is_done(self) -> bool:
        """Whether the child has ended, and what it has read is being taken over."""
        return self._parts is not None

    def poll(self) -> _Outcome | None:
        """What the child has read, or None while it still reads and while there are more parts to take over."""
        if self._parts is None:
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if not ended:
                return None
            if status:  # killed, or short of memory: what it has left may be half of the config
                os.close(self._result)
                return OpenmeError("the process that was reading the config has died")
            self._parts = self._taken_over()
        try:
            next(self._parts)
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome
        set_aside()  # the garbage collector would look through all that has arrived again and again
        return None

    def _taken_over(self) -> Steps[_Outcome]:
        with os.fdopen(self._result, "rb") as file:
            file.seek(0)
            return (yield from read_parts(file))


def say_warnings(config: ServerConfig) -> None:
    """Log what a config that loads is to be told about, disabled clients above all."""
    for warning in config.warnings:
        _log.warning("%s", warning)
    for fault in config.client_faults:
        _log.error("client disabled: %s", fault)
    if (nobody := hides_without_clients(config, datetime.now(UTC))) is not None:
        _log.error("%s", nobody)  # which no level silences: whoever starts such a server shuts himself out
