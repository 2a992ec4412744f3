"""`openme revoke`: each step is true before the next one, and nothing is said that is not so.

    1  the client's key is in `revoked` in `state_dir`, on the disk
    2  the running server, if there is one, lets nobody with that key in any more, and has closed its doors
    3  the entry is out of the file, which takes half a minute among 100,000
    4  the server is asked whether that file is the one that it reads

A step that fails does not keep the others from being made. The server is asked first which key it has in force under
the name: the file may say another, or be one that it does not read.
"""

import argparse
import time
from pathlib import Path

from openme.cli.output import complain, note, warn
from openme.cli.running_server import RunningServer, another_file, another_serves
from openme.config.client_keys import client_keys
from openme.config.edit import NoClientError, remove_client, state_dir_of
from openme.config.faults import ConfigError
from openme.config.server import load_server_config
from openme.control import asking
from openme.control.requests import (
    AnyFileReply,
    Client,
    ClientReply,
    FileReply,
    FileRequest,
    OtherVersionError,
    Reload,
    Revoke,
    RevokeReply,
)
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import FILE_NAME, read_revoked, revoke_keys


def revoke(args: argparse.Namespace) -> int:
    """Run the command: 0 if all of it is so, else what is not, an error each."""
    return _Revocation(args.config, args.name, cut=args.cut).run()


class _Revocation:
    def __init__(self, path: Path, name: str, *, cut: bool) -> None:
        self._path = path
        self._state_dir = state_dir_of(path)
        self._server = RunningServer(path, self._state_dir)
        self._name = name
        self._cut = cut
        self._problems: list[OpenmeError] = []
        self._silent: OpenmeError | None = None
        """Why it is not known what the server does."""
        self._other_version: OtherVersionError | None = None
        self._runs = True
        self._key_is_known = True
        self._not_recorded: OpenmeError | None = None
        self._not_edited: OpenmeError | None = None
        self._connections_cut = 0

    def run(self) -> int:
        name = self._name
        known = self._ask(Client(name=name))
        keys = _keys_in(known)
        earlier = self._revoked_earlier()
        if keys:
            self._out(keys)
        # What the server has in force is what stands in the file, unless it says otherwise.
        if not keys or not _is_in_force(known):
            try:
                filed = client_keys(self._path, name) - keys
            except ConfigError:
                filed = frozenset()  # the edit says why
            self._key_is_known = bool(keys | filed)
            if filed or not keys:
                self._out(filed or frozenset(earlier))
            keys |= filed
        try:
            remove_client(self._path, name)
        except NoClientError as error:
            if not keys:
                since = max(earlier.values(), default=None)
                why = error.hint if since is None else f"its key was revoked {since}: no knock with it opens"
                self._problems.append(OpenmeError(error.message, why))
        except ConfigError as error:
            self._not_edited = error
        self._judge(self._ask(Reload()))
        if not self._runs and (other := another_serves(self._state_dir)) is not None:
            self._problems.append(OpenmeError(f"{other.message}: whether it lets {name} in is not known", other.hint))
        if self._problems:
            for problem in self._problems[:-1]:
                complain(problem)
            raise self._problems[-1]
        self._report()
        return 0

    def _ask(self, request: FileRequest[AnyFileReply]) -> AnyFileReply | None:
        """The server's answer, or None; one that has not answered is not asked again."""
        if self._silent is not None or not self._runs:
            return None
        try:
            return self._server.exchange(request)
        except asking.NoServerError:
            self._runs = False
        except asking.NoAnswerError as error:
            self._silent = error
        except OtherVersionError as error:
            if not isinstance(request, Client):  # its next replies say as much
                self._other_version = error
        except OpenmeError as error:
            if not isinstance(request, Client):  # of an older server, whose next answers say as much
                self._problems.append(error)
        return None

    def _revoked_earlier(self) -> dict[bytes, str]:
        """The keys under this name that were revoked before, and when; empty if that is not known."""
        try:
            listed = read_revoked(self._state_dir).keys
        except OpenmeError:
            return {}
        return {key: revocation.at for key, revocation in listed.items() if revocation.name == self._name}

    def _out(self, keys: frozenset[bytes]) -> None:
        """Steps 1 and 2 for these keys, and for what else the server has under the name."""
        if keys:
            try:
                revoke_keys(self._state_dir, keys, self._name, time.time())
            except OpenmeError as error:
                self._not_recorded = error
        reply = self._ask(Revoke(name=self._name, keys=keys, cut=self._cut))
        if reply is None:
            return
        self._connections_cut += reply.cut or 0
        if reply.not_closed:
            self._problems.append(
                OpenmeError(
                    f"no further knock of {self._name} opens, but the firewall refused to close what is open:"
                    f" {reply.not_closed}",
                    "a door closes when its time is over; see the server's log",
                )
            )
        if late := _keys_in(reply) - keys:
            self._out(late)  # the file has changed since we asked

    def _judge(self, reply: FileReply | None) -> None:
        """Step 4, and what the failures so far mean for the next start."""
        name, listed = self._name, self._state_dir / FILE_NAME
        failed = self._not_edited or self._not_recorded
        if failed is not None:
            if self._not_edited is not None and not self._key_is_known:
                then = f"the key of {name} cannot be read there, and so is not revoked"
            elif self._not_recorded is None:
                then = f"no start lets it in again, as {listed} names its key, but its entry still stands in the file"
            elif self._not_edited is None:
                then = f"a start with an older copy of {self._path} lets it in again: {listed} does not name its key"
            else:
                then = "the next start of the server lets it in again"
            out = f"{name} is out of the running server; " if self._runs and self._silent is None else ""
            self._problems.insert(
                0,
                OpenmeError(f"{failed.message}: {out}{then}", failed.hint or f"mend that, then: openme revoke {name}"),
            )
        if self._silent is not None:
            may = "it may let it in" if self._not_recorded else f"it looks at {listed} before its next knock"
            self._problems.append(
                OpenmeError(
                    f"{self._silent.message}: whether {name} is out of it is not known; if it still serves, {may}",
                    f"see to the server, then: openme revoke {name}",
                )
            )
        if reply is not None and (other := another_file(self._path, reply)) is not None:
            self._problems.append(OpenmeError(f"{other.message}: {name} is out of it", other.hint))
        if (older := self._other_version) is not None:
            self._problems.append(OpenmeError(f"{older.message}: {name} may still be in", older.hint))
        if reply is not None and reply.fault:
            warn(f"the running server keeps its last good config, less {name}: {reply.fault}")

    def _report(self) -> None:
        name = self._name
        if self._runs:
            note(f"revoked {name}: no further knock opens, open doors are closed")
            if self._cut:
                note(f"connections cut: {self._connections_cut}")
            return
        note(f"revoked {name}: no further knock opens; no server is running on {self._state_dir}")
        try:
            load_server_config(self._path)
        except OpenmeError as error:
            warn(f"the config has other faults, no server can start with it: {error.message}")
        if self._cut:
            warn("no server is running, so no connection was cut")


def _keys_in(reply: ClientReply | RevokeReply | None) -> frozenset[bytes]:
    return frozenset() if reply is None else reply.keys


def _is_in_force(reply: FileReply | None) -> bool:
    """Whether the server has in force what stands in our file."""
    return reply is not None and reply.same is True and not reply.fault and not reply.reading
