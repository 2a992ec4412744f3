"""Looks whether the config file has changed, before every grant."""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openme.config.model import DisabledClient, ServerConfig
from openme.config.parsed_copy import remove_copy
from openme.config.server_keys import public_key_of
from openme.config.who_can_knock import hides_without_clients
from openme.config.widened import widened
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import revoked_names, without_revoked
from openme.ports import PortRange, without
from openme.server.config_handover import WasRead
from openme.server.config_reading import ConfigFile, Reader, keep_copy
from openme.server.revoked_watch import RevokedWatch

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 1 << 15
"""Bytes up to which a knock waits for a changed file (250 clients, 0.01 s); a process of its own reads a larger one
meanwhile, however few clients were known before.
"""
_REMIND = 60.0  # seconds between two lines about a file that is still broken

_log = logging.getLogger("openme.config")
_Signature = tuple[int, int, int, int, int] | None
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
        self._file = ConfigFile(path, overrides or {})
        self._signature = self._look()
        self._reader: Reader | None = None
        self._refusal: str | None = None
        self._again = False
        self._to_keep: WasRead | None = None
        self._last_good = self._first(tighten=tighten)
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

    def keep_copy(self) -> None:
        """Keep a copy of what was read first, for the next start. Whoever calls this is alone with `state_dir`."""
        read, self._to_keep = self._to_keep, None
        if read is None:
            remove_copy(self._last_good.state_dir)
        elif (fault := keep_copy(read, self._last_good.state_dir)) is not None:
            _say_no_copy(fault)

    def _first(self, *, tighten: bool) -> ServerConfig:
        if not _is_large(self._signature):
            return self._file.load(tighten=tighten)
        reader = Reader(lambda: self._file.read_large(tighten=tighten), self.forget_in_child)
        read = reader.wait()
        if isinstance(read.outcome, OpenmeError):
            raise read.outcome
        _say_read("the config", read, reader)
        self._to_keep = read
        return read.outcome

    def refresh(self) -> ServerConfig | None:
        """The new config if the file or the revoked keys have changed and load, else None.

        Waits for a file of up to `LARGE` bytes, and always for the revoked keys.
        """
        revoked = self._revoked.refresh()
        if self._follow_file():
            return self.config
        return self._follow_revoked() if revoked else None

    @property
    def next_at(self) -> float:
        """When `refresh` has to say again what is wrong, in monotonic seconds; `inf` if nothing is.

        That a process has read the file nobody knows beforehand; the kernel tells that it has ended (SIGCHLD).
        """
        own = inf if self.fault is None or self._reader is not None else self._last_said + _REMIND
        return min(own, self._revoked.next_at)

    def _follow_file(self) -> bool:
        """Look at the file; whether another config has come into force."""
        has_changed = False
        if self._reader is not None:
            if (read := self._reader.poll()) is None:
                return False
            _say_read("the changed config", read, self._reader)
            self._reader = None
            if read.copy_fault is not None:
                _say_no_copy(read.copy_fault)
            has_changed = self._settle(read.outcome)
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
            self._reader = Reader(self._read_changed, self.forget_in_child)
            return False
        remove_copy(self._last_good.state_dir)
        try:
            return self._settle(self._compared(self._file.load()))
        except OpenmeError as error:
            return self._settle(error)

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

    def _settle(self, outcome: ServerConfig | OpenmeError) -> bool:
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

    def _read_changed(self) -> WasRead:
        """What the file says now, with a copy kept of it; in a process of its own."""
        public_key_of.remember(self._last_good.index.keys())
        read = self._file.read_large()
        if isinstance(read.outcome, OpenmeError):
            return read
        fault = keep_copy(read, self._last_good.state_dir)
        return replace(read, outcome=self._compared(read.outcome), copy_fault=fault)

    def _compared(self, config: ServerConfig) -> ServerConfig:
        """The config, with a warning for each client that may do more than under the last good one."""
        more = widened(self._last_good, config)
        return replace(config, warnings=(*config.warnings, *more)) if more else config

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


def _is_large(signature: _Signature) -> bool:
    return signature is not None and signature[1] > LARGE


def _say_read(what: str, read: WasRead, reader: Reader) -> None:
    clients = " (clients: from the copy that was kept)" if read.by_copy else ""
    _log.info("read %s in %.1f s%s", what, reader.seconds, clients)


def _say_no_copy(fault: str) -> None:
    _log.warning("no copy of what the config says can be kept (%s): the next start has to read all of it", fault)


def say_warnings(config: ServerConfig) -> None:
    """Log what a config that loads is to be told about, disabled clients above all."""
    for warning in config.warnings:
        _log.warning("%s", warning)
    for fault in config.client_faults:
        _log.error("client disabled: %s", fault)
    if (nobody := hides_without_clients(config, datetime.now(UTC))) is not None:
        _log.error("%s", nobody)  # which no level silences: whoever starts such a server shuts himself out
