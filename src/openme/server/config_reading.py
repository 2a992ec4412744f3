"""How the server reads its config: a large one in a process of its own, and by the copy that is kept of it."""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from openme.config.client_table import with_table
from openme.config.faults import ConfigError
from openme.config.model import ServerConfig
from openme.config.parsed_copy import (
    BadCopy,
    Original,
    content_of_copy,
    front_of_copy,
    parse_by_copy,
    program,
    remove_copy,
    write_copy,
)
from openme.config.server import Parse, load_server_config
from openme.config.server_keys import public_key_of
from openme.errors import OpenmeError
from openme.interrupts import held_back
from openme.keys.ed25519 import KEY_SIZE, KeyTextError, parse_public_key
from openme.processes.privileges import die_with_parent, take_on
from openme.processes.roles import CONFIG_READER
from openme.server.config_handover import WasRead, hand_over, take_over

_KEY = re.compile(r"ed25519_pubkey: *([A-Za-z0-9+/]{43}=)")
_MANY = 5_000  # keys from which on it is worth a process
_OWN_SHARE = 30  # per cent of the keys, checked where the rest of the file is read
_DIED = "the process that was reading the config has died"


class ConfigFile:
    """The file at `path`; `overrides`, values of keys below `server:`, stand above what it says."""

    def __init__(self, path: Path, overrides: Mapping[str, Any]) -> None:
        self._path = path
        self._overrides = dict(overrides)
        self._program = program()  # while it can still be read

    def load(self, *, tighten: bool = False, parse: Parse | None = None) -> ServerConfig:
        """The config as it is now; OpenmeError. `tighten`, `parse`: see `load_server_config`."""
        try:
            return load_server_config(self._path, tighten=tighten, overrides=self._overrides, parse=parse)
        except ConfigError as error:
            if "permission denied" in error.message and os.geteuid() == 0:
                # Root may read it; it is our own sandbox that knows no other directory than the one we started with.
                raise OpenmeError(f"{self._path}: now lies in another directory: restart the server") from None
            raise

    def read_large(self, *, tighten: bool = False) -> WasRead:
        """The same with the clients as a table, by the copy if there is one of this file. Never raises OpenmeError."""
        by_copy = False
        front: bytes | None = None

        def parse(text: str, path: Path, warnings: tuple[str, ...], over: Mapping[str, Any] | None) -> ServerConfig:
            nonlocal by_copy, front
            original = Original(text, path, self._program, over or {})
            try:
                config = parse_by_copy(original)
                by_copy = True
            except BadCopy:
                check_beside(text)
                config = with_table(original.parsed())
                front = front_of_copy(config, original)
            return replace(config, warnings=(*warnings, *config.warnings))

        try:
            return WasRead(self.load(tighten=tighten, parse=parse), by_copy, front)
        except OpenmeError as error:
            return WasRead(error)


def keep_copy(read: WasRead, state_dir: Path) -> str | None:
    """Have the copy in `state_dir` be one of what was read, or none; why the disk refuses, None if it does not."""
    config = read.outcome
    if read.by_copy or isinstance(config, OpenmeError):
        return None
    if read.front is None or config.state_dir != state_dir:
        remove_copy(state_dir)
        return None
    try:
        write_copy(state_dir, content_of_copy(read.front, config))
    except OSError as error:
        return error.strerror
    return None


def check_beside(text: str) -> None:
    """Have a process more check most keys of a config that is read here: that takes half of the time.

    It is left to itself; whatever it has not checked when it ends is checked here.
    """
    texts = [key for key in _KEY.findall(text) if not public_key_of.knows(key)]
    others = dict.fromkeys(texts[len(texts) * _OWN_SHARE // 100 :])
    if len(others) < _MANY:
        return
    result = os.memfd_create("checked keys", os.MFD_CLOEXEC)  # a pipe would be full long before it is read
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            _refuse_to_outlive(parent)
            with os.fdopen(result, "wb") as good:
                for key in others:
                    with suppress(KeyTextError):
                        good.write(parse_public_key(key).raw)
        finally:
            os._exit(0)

    def checked() -> Iterable[bytes]:
        os.waitpid(child, 0)
        with os.fdopen(result, "rb") as good:
            good.seek(0)
            raw = good.read()
        return [raw[start : start + KEY_SIZE] for start in range(0, len(raw) - KEY_SIZE + 1, KEY_SIZE)]

    public_key_of.expect(others, checked)


def _refuse_to_outlive(parent: int) -> None:
    """End if the parent was killed before the kernel knew that we end with it: we hold its locks, too."""
    if os.getppid() != parent:
        os._exit(1)


class Reader:
    """A child process that reads the config and leaves it in memory that both share."""

    def __init__(self, read: Callable[[], WasRead], forget: Callable[[], None]) -> None:
        self._started = time.monotonic()
        self._result = os.memfd_create("config", os.MFD_CLOEXEC)
        parent = os.getpid()
        with held_back():  # in the child to its end: they are for its parent, with which it ends
            self._child = os.fork()
            if self._child == 0:
                status = 1
                try:
                    take_on(CONFIG_READER)
                    _refuse_to_outlive(parent)
                    forget()
                    with os.fdopen(self._result, "wb") as file:
                        hand_over(read(), file)
                    status = 0
                finally:
                    os._exit(status)

    @property
    def seconds(self) -> float:
        """How long it has been reading."""
        return time.monotonic() - self._started

    def poll(self) -> WasRead | None:
        """What the child has read; None while it still reads."""
        ended, status = os.waitpid(self._child, os.WNOHANG)
        return self._taken_over(status) if ended else None

    def wait(self) -> WasRead:
        """What the child has read, once it has."""
        return self._taken_over(os.waitpid(self._child, 0)[1])

    def _taken_over(self, status: int) -> WasRead:
        with os.fdopen(self._result, "rb") as file:
            if status:  # killed, or short of memory: what it has left may be half of the config
                return WasRead(OpenmeError(_DIED))
            file.seek(0)
            return take_over(file)
