"""The state file: who is in, for people and for other programs (spec config.md, `serve`)."""

import logging
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from openme.clocks import Now
from openme.config.model import ClientEntry
from openme.files import replacing
from openme.firewall.base import Steps
from openme.keeper.events import Ended, Events, LetIn, Moved, NewConfig
from openme.keeper.grants import Grants
from openme.run_dir import RUN_DIR
from openme.server.history import History
from openme.server.slices import Slices
from openme.server.state_text import StateLines, json_text

DEFAULT_STATE_FILE = RUN_DIR / "sessions.json"
_CLIENTS_AT_ONCE = 50
_INTERVAL = 1.0  # seconds; a thousand people who knock at once must not mean a thousand files

_log = logging.getLogger("openme.keeper")


def make_run_dir() -> None:
    """Make the run directory, before anything looks into it; a user who may not goes without."""
    with suppress(OSError):
        RUN_DIR.mkdir(mode=0o700, exist_ok=True)


def run_dir_fault(run_dir: Path = RUN_DIR) -> str | None:
    """What is wrong with the run directory as root finds it, with the cure; None where all is well."""
    try:
        status = run_dir.lstat()
    except FileNotFoundError:
        above = run_dir.parent
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            return None
        fault, cure = f"cannot be made in {above}", f"make {above} writable"
    except OSError as error:
        fault, cure = (error.strerror or "cannot be looked at").lower(), "see what is there"
    else:
        if not stat.S_ISDIR(status.st_mode):
            fault, cure = "is not a directory", f"rm {run_dir}"
        elif status.st_uid != os.geteuid():
            fault, cure = "belongs to another user", f"chown root: {run_dir}"
        elif status.st_mode & 0o022:
            fault, cure = "can be changed by others", f"chmod 700 {run_dir}"
        else:
            return None
    return f"{run_dir} {fault}: what is kept there, a copy of the mark and who is in, cannot be relied on ({cure})"


class StateFile:
    """Writes the file, once a second at most, of what has changed: in steps between knocks."""

    def __init__(  # noqa: PLR0917  # what the file tells, each once
        self,
        path: Path | None,
        grants: Grants,
        history: History,
        client: Callable[[bytes], ClientEntry | None],
        rest: Callable[[], Mapping[str, Any]],
        slices: Slices,
        clocks: Callable[[], Now],
    ) -> None:
        """`path`: None writes nothing. `client` tells who has a public key now, `rest` what else stands in the file."""
        self._path = path
        self._grants = grants
        self._history = history
        self._client = client
        self._rest = rest
        self._slices = slices
        self._clocks = clocks
        self._lines = StateLines()
        self._changed: set[bytes] = set(grants.clients())
        self._seen: set[bytes] = set(history)
        self._names_changed = False
        self._is_due = False
        self._is_being_written = False
        self._written = float("-inf")
        self._has_failed = False

    def follow(self, events: Events) -> None:
        """Subscribe to all that changes what stands in the file."""
        if self._path is not None:
            events.subscribe(LetIn, self.let_in)
            events.subscribe(Moved, self.moved)
            events.subscribe(Ended, self.ended)
            events.subscribe(NewConfig, self.new_config)

    def let_in(self, event: LetIn) -> None:
        """Somebody is in, or for longer."""
        self._changed.add(event.grant.client_key)
        self._seen.add(event.grant.client_key)
        self._is_due = True

    def moved(self, event: Moved) -> None:
        """Grants go on as others."""
        self._changed.update(grant.client_key for pair in event.grants for grant in pair)
        self._is_due = True

    def ended(self, event: Ended) -> None:
        """Grants are over."""
        self._changed.update(grant.client_key for grant, _ in event.grants)
        self._is_due = True

    def new_config(self, _event: NewConfig) -> None:
        """Names may be others', and who has gone is not listed any longer."""
        self._names_changed = True
        self._is_due = True

    def tick(self, now: float) -> None:
        """Begin to write it if something has changed, unless that was less than a second ago; in monotonic seconds."""
        if now >= self.next_at:
            self._slices.add(self.write())

    @property
    def next_at(self) -> float:
        """When `tick` begins to write it, in monotonic seconds: long ago if at once, `inf` if nothing has changed."""
        return self._written + _INTERVAL if self._is_due and not self._is_being_written else inf

    def begin(self) -> Steps[None]:
        """Write it for the first time, without what a server that was killed has left unfinished beside it."""
        if self._path is not None:
            _remove_unfinished(self._path)
        yield from self.write()

    def write(self) -> Steps[None]:
        """Write it."""
        if self._path is None:
            return
        self._is_due = False
        self._is_being_written = True
        try:
            yield from self._change_lines()
            rest = yield from json_text(self._rest())
            # Nobody is in after a reboot, so that it need not be durable. Made anew each time, so that whatever lies
            # there, in a directory that others may write too, is not written into.
            with replacing(self._path, str(os.getpid())) as put:
                for piece in self._lines.pieces(self._clocks().unix, rest):
                    put(piece)
                    yield
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                _log.warning("%s: cannot be written: %s", self._path, error.strerror)
            self._has_failed = self._is_due = True
        finally:
            self._is_being_written = False
            self._written = self._clocks().monotonic

    def _change_lines(self) -> Steps[None]:
        if self._names_changed:
            self._names_changed = False
            self._lines.forget_seen()
            self._seen.update(self._history)
        changed, self._changed = self._changed, set()
        for number, client_key in enumerate(changed, 1):
            yield from self._lines.change(client_key, self._grants.of_client(client_key))
            if number % _CLIENTS_AT_ONCE == 0:
                yield
        seen, self._seen = self._seen, set()
        for number, client_key in enumerate(seen, 1):
            if (client := self._client(client_key)) is not None:
                self._lines.saw(client.name, self._history.at(client_key))
            if number % _CLIENTS_AT_ONCE == 0:
                yield


def _remove_unfinished(path: Path) -> None:
    prefix = f".{path.name}."
    with suppress(OSError):
        for beside in list(path.parent.iterdir()):
            if beside.name.startswith(prefix) and beside.name[len(prefix) :].isdecimal():
                beside.unlink()
