"""Asking the running server, also when its config no longer loads, and whether it reads the file that we mean."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

from openme.cli.output import warn
from openme.config.content_hash import content_hash
from openme.config.edit import set_server, state_dir_of
from openme.config.locked import locked_directory
from openme.config.server import load_server_config
from openme.control import asking
from openme.control.requests import (
    AnyFileReply,
    AnyReply,
    FileReply,
    FileRequest,
    OtherVersionError,
    Reload,
    Request,
    with_hash,
)
from openme.errors import OpenmeError
from openme.server.firewall_lock import firewall_holder

FOUND_BY_ITSELF = "the running server finds the change by itself, or at its restart"
Fields = Mapping[str, str | Sequence[str] | None]

_LOOKS = 5  # at a file that somebody else is editing
_RETRY = 0.1  # seconds between two of them


class RunningServer:
    """The server on a `state_dir`, as a command beside it sees it. One that did not answer is not asked again."""

    def __init__(self, path: Path, state_dir: Path) -> None:
        """`path`: the config that the command reads and writes."""
        self._path = path
        self._state_dir = state_dir
        self._may_answer = True
        self._told_fault: str | None = None

    def exchange(self, request: FileRequest[AnyFileReply]) -> AnyFileReply:
        """The server's reply to a request that carries the hash of our file. As `asking.ask`.

        Where somebody edits the file meanwhile, so that the two have not seen the same, it is compared again; the last
        time while nobody who asks for the directory's lock can edit it.
        """
        ours = content_hash(self._path)
        reply = asking.ask(self._state_dir, with_hash(request, ours))
        for look in range(_LOOKS):
            if reply.same is not False or content_hash(self._path) == ours:
                break
            time.sleep(_RETRY)
            with ExitStack() as stack:
                if look == _LOOKS - 1:
                    stack.enter_context(locked_directory(self._path.resolve().parent, self._path))
                ours = content_hash(self._path)
                again = asking.ask(self._state_dir, Reload(sha256=ours))
            reply = replace(reply, file=again.file, same=again.same, fault=again.fault, reading=again.reading)
        return reply

    def tell(self, request: FileRequest[AnyFileReply], otherwise: str) -> AnyFileReply | None:
        """Tell the running server of a change that is made already; its answer, or None if there is none.

        A server that does not answer, or keeps its last good config, is a warning: the change stands all the same.
        `otherwise` is when the server finds it without being told. OpenmeError if it reads another file than ours.
        """
        reply = self._answer(request, f"whether it knows of the change is not known; {otherwise}")
        if reply is not None and reply.fault and reply.fault != self._told_fault:
            self._told_fault = reply.fault
            warn(f"the running server keeps its last good config: {reply.fault}")
        return reply

    def refuse_another(self) -> None:
        """OpenmeError, before anything is changed, if a server runs and reads another file than ours."""
        try:
            self._answer(Reload(), f"whether it reads {self._path} is not known; {FOUND_BY_ITSELF}")
        except OpenmeError as error:
            raise OpenmeError(f"{error.message}: nothing was changed", error.hint) from None

    def set(self, values: Fields, before: Fields) -> None:
        """Set keys of `server:` in our file and have the server read them.

        OpenmeError if it reads another file: the keys are then what `before` says, as they were.
        """
        set_server(self._path, values)
        try:
            self.tell(Reload(), FOUND_BY_ITSELF)
        except OpenmeError as error:
            set_server(self._path, before)
            raise OpenmeError(f"{error.message}: the change was taken back", error.hint) from None

    def _answer(self, request: FileRequest[AnyFileReply], unknown: str) -> AnyFileReply | None:
        if not self._may_answer:
            return None
        try:
            reply = self.exchange(request)
        except asking.NoServerError:
            if (other := another_serves(self._state_dir)) is not None:
                self._may_answer = False
                warn(f"{other.message}: {unknown}; {other.hint}")
            return None
        except OtherVersionError:
            raise
        except OpenmeError as error:
            self._may_answer = False
            warn(f"{error.message}: {unknown}")
            return None
        refuse_another(self._path, reply)
        return reply


def ask(path: Path, request: Request[AnyReply]) -> AnyReply:
    """The server's reply. OpenmeError: what is wrong with the config if that explains why no server is found."""
    state_dir = state_dir_of(path)
    try:
        if isinstance(request, FileRequest):
            return cast("AnyReply", RunningServer(path, state_dir).exchange(request))
        return asking.ask(state_dir, request)
    except asking.NoServerError:
        load_server_config(path)
        raise


def another_serves(state_dir: Path) -> OpenmeError | None:
    """What to say, where no server runs on `state_dir`, if one serves on this machine's firewall all the same."""
    if firewall_holder() not in {0, os.geteuid()}:
        return None
    return OpenmeError(
        f"a server is running on this machine, but not on {state_dir}", "repeat it with that server's --config"
    )


def another_file(path: Path, reply: FileReply) -> OpenmeError | None:
    """What to say if the server that gave this reply reads another file than `path`; else None."""
    if reply.same is not False:
        return None
    ours = Path(os.path.abspath(path))  # noqa: PTH100  # the name as the user gave it
    theirs = Path(reply.file)
    if ours == theirs:
        return OpenmeError(
            f"the running server reads another file by the name {theirs} than {ours} here",
            "a file that is mounted by itself, as into a container, stays the old one when it is edited: mount its"
            " directory instead, restart the server, then repeat",
        )
    return OpenmeError(
        f"the running server reads {theirs}, and {ours} is another file",
        f"repeat it with --config {theirs}; if that is this file mounted by itself, as into a container, mount its"
        " directory instead and restart the server",
    )


def refuse_another(path: Path, reply: FileReply, done: str | None = None) -> None:
    """OpenmeError as `another_file` has it; `done`: what has happened all the same."""
    other = another_file(path, reply)
    if other is not None:
        raise OpenmeError(f"{other.message}: {done}" if done else other.message, other.hint)
