"""What the server says to the operator's commands, and does for them (control/requests.py)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from openme.clocks import Now
from openme.config.content_hash import content_hash
from openme.config.section import nearest
from openme.control.handlers import Handlers
from openme.control.requests import (
    Client,
    ClientReply,
    Close,
    CloseReply,
    FileReply,
    FileRequest,
    NewRatchet,
    Reload,
    ReloadReply,
    Reply,
    Request,
    Reset,
    ResetReply,
    Revoke,
    RevokeReply,
    SaveRatchet,
    Sessions,
    SessionsReply,
    Stored,
    Unhide,
    UnhideReply,
)
from openme.errors import OpenmeError
from openme.firewall.base import CutTarget, Steps
from openme.keeper.grants import Grant, Grants
from openme.keeper.keeper import Keeper
from openme.ports import common
from openme.processes.listener_reports import Reports
from openme.reasons import End
from openme.server.config_switch import ConfigSwitch
from openme.server.config_watch import ConfigWatch
from openme.server.control_service import Answer
from openme.server.cutting import Cutting
from openme.server.doors import Doors
from openme.server.epoch_service import EpochService
from openme.server.hidden_ports import HiddenPorts, refuse_named, unnamed
from openme.server.history import History
from openme.server.interface_rules import InterfaceRules
from openme.server.state_text import sessions_value
from openme.server.stored import moment, stored_reply
from openme.store.base import Store

if TYPE_CHECKING:
    from collections.abc import Callable

_COMPARED_AT_ONCE = 500  # names with one that is misspelt
_NAMES_AT_ONCE = 1000

CutReplyT = TypeVar("CutReplyT", RevokeReply, CloseReply)

_log = logging.getLogger("openme.keeper")


class AboutFile(TypedDict):
    """The fields of a `FileReply`."""

    file: str
    same: bool | None
    fault: str | None
    reading: bool


class AdminAnswers:
    """One method for each request; what takes long is answered in steps, between which knocks are served."""

    def __init__(  # noqa: PLR0917  # what commands ask about, each once
        self,
        keeper: Keeper,
        grants: Grants,
        store: Store,
        watch: ConfigWatch,
        hidden: HiddenPorts,
        history: History,
        doors: Doors,
        cutting: Cutting,
        switch: ConfigSwitch,
        epochs: EpochService,
        interface: InterfaceRules,
        reports: Reports,
    ) -> None:
        """`reports`: the listener's, which say what of it is not in force."""
        self._keeper = keeper
        self._grants = grants
        self._store = store
        self._watch = watch
        self._hidden = hidden
        self._history = history
        self._doors = doors
        self._cutting = cutting
        self._switch = switch
        self._interface = interface
        self._reports = reports
        self._handlers: Handlers[Callable[[Any, Now], Answer]] = Handlers(
            {
                Sessions: self._sessions,
                Reload: self._reload,
                Client: self._client,
                Revoke: self._revoke,
                Close: self._close,
                Reset: self._reset,
                Unhide: self._unhide,
                Stored: lambda _request, _now: stored_reply(store),
                SaveRatchet: epochs.save,
                NewRatchet: epochs.begin_anew,
            }
        )

    def answer(self, request: Request[Reply], now: Now) -> Answer:
        """Do what is asked; OpenmeError."""
        outcome = self._handlers.of(request)(request, now)
        if not isinstance(request, FileRequest):
            return outcome
        file = self._about_file(request.sha256)
        return (
            replace(outcome, **file)
            if isinstance(outcome, FileReply)
            else _with(file, cast("Steps[FileReply]", outcome))
        )

    def _about_file(self, sha256: str | None) -> AboutFile:
        """The fields about the file, for a command that has seen this hash of its own."""
        return {
            "file": str(self._watch.path),
            "same": None if sha256 is None else content_hash(self._watch.path) == sha256,
            "fault": self._watch.fault,
            "reading": self._watch.is_reading,
        }

    # -- who is in

    def _sessions(self, _request: Sessions, now: Now) -> Steps[SessionsReply]:
        last_seen = yield from self._history.by_name(self._keeper.client)
        value = yield from sessions_value(self._grants.gradually(), last_seen, now.unix)
        return SessionsReply(**value, **self.rest_of_sessions())

    def rest_of_sessions(self) -> dict[str, Any]:
        """What the state file and the answer about sessions say besides those."""
        return {
            "hidden_though_unnamed": [str(item) for item in unnamed(self._keeper.config, self._hidden.ports)],
            "warnings": [*self._interface.warnings, *self._reports.shortfalls],
        }

    # -- clients

    def _reload(self, request: Reload, now: Now) -> ReloadReply:
        """The tick before this has looked at the files; `add` may also lift what no file names."""
        config = self._watch.lift(request.lifted)
        if config is not None:
            self._switch.use(config, now)
        serving = self._keeper.config
        ports = {"udp": serving.udp_port, "tcp": serving.health_port if serving.listens else None}
        return ReloadReply(lifted=config is not None, ports=ports)

    def _client(self, request: Client, _now: Now) -> ClientReply:
        keys = self._watch.keys_of(request.name)
        return ClientReply(keys=keys, revoked=self._watch.is_revoked(keys | request.keys))

    def _revoke(self, request: Revoke, now: Now) -> Steps[RevokeReply]:
        """Nobody with the key in force under this name, nor with one of those given, gets in from now on."""
        keys = self._watch.keys_of(request.name) | request.keys
        targets = self._targets(request.name, keys, established=request.cut)
        if (config := self._watch.revoke(request.name, request.keys)) is not None:
            self._switch.use(config, now)
        outcome = RevokeReply(keys=keys, not_closed=self._doors.why_left_open(now.monotonic))
        return self._when_cut(request.name, targets, outcome, cut=request.cut)

    def _close(self, request: Close, now: Now) -> Steps[CloseReply]:
        name = request.name
        targets = self._targets(name, self._watch.keys_of(name), established=request.cut)
        grants = self._keeper.grants_of(name)
        self._doors.end([(grant, End.CLOSED) for grant in grants], now)
        outcome = CloseReply(
            closed=(),
            not_closed=self._doors.why_left_open(now.monotonic),
            known=name in self._keeper.config.clients,
            near=self._near(name),
        )
        return _with_closed(grants, self._when_cut(name, targets, outcome, cut=request.cut))

    def _near(self, name: str) -> str | None:
        """Whom somebody may have meant who says a name that nobody has; of very many, by the first letters."""
        names = self._keeper.config.clients
        if name in names:
            return None
        if len(names) <= _COMPARED_AT_ONCE:
            return nearest(name, names)
        start = name[:2].lower()
        return nearest(name, islice((known for known in names if known[:2].lower() == start), _COMPARED_AT_ONCE))

    def _targets(
        self, name: str, keys: Iterable[bytes], *, established: bool
    ) -> tuple[Steps[list[CutTarget]], Iterable[CutTarget]]:
        """Every address that this client has opened lately, also by doors closed long since; and the doors open now."""
        keys = {*keys, *self._history.keys_of(name)}
        grants = self._keeper.grants_of(name)  # now: in a moment they are ended
        known = (CutTarget(grant.address, grant.ports, established, grant.network) for grant in grants)

        def find() -> Steps[list[CutTarget]]:
            targets: list[CutTarget] = []
            for key in keys:
                holders = self._store.holders_of(key)
                targets.extend(CutTarget(h.address, h.ports, established, h.network) for h in holders)
                yield
            return targets

        return find(), known

    def _when_cut(
        self,
        name: str,
        targets: tuple[Steps[list[CutTarget]], Iterable[CutTarget]],
        answer: CutReplyT,
        *,
        cut: bool,
    ) -> Steps[CutReplyT]:
        """The answer, once the client's exchanges and, where `cut` asks for it, connections have ended."""
        asked = self._cutting.add(*targets)

        def wait() -> Steps[CutReplyT]:
            ended = yield from asked.outcome()
            if not cut:
                return answer
            _log.info("%s: cut %d connections", name, ended)
            return replace(answer, cut=ended)

        return wait()

    # -- a client's time

    def _reset(self, request: Reset, now: Now) -> ResetReply:
        if request.everybody:
            return self._reset_all(now)
        name = request.name
        client = self._keeper.config.clients.get(name)
        if client is None:
            return ResetReply(known=False, near=self._near(name))
        try:
            done = self._store.reset(client.public_key.raw, now.unix_ns)
        except OpenmeError as error:
            raise OpenmeError(f"{name} is let in until the next start, then say it again: {error.message}") from None
        if done is None:
            return ResetReply()
        _log.info("%s: its time was reset by the operator", name)
        return ResetReply(was_ahead=True, shut=[(moment(first), moment(last)) for first, last in done.shut])

    def _reset_all(self, now: Now) -> ResetReply:
        """Begin everybody's time anew; where the memory was lost it is the operator's word that the clock is right."""
        before_ns = self._store.floor_ns
        try:
            done = self._store.reset_all(now.unix_ns)
        except OpenmeError as error:
            raise OpenmeError(f"this holds until the next start, then say it again: {error.message}") from None
        floor_ns = self._store.floor_ns
        _log.warning("everybody's time was reset by the operator")
        moved = floor_ns is not None and floor_ns != before_ns
        return ResetReply(
            clients=len(done),
            since=moment(floor_ns) if floor_ns is not None and floor_ns > now.unix_ns else None,
            lost_until=moment(before_ns) if moved and before_ns is not None else None,
        )

    # -- ports

    def _unhide(self, request: Unhide, now: Now) -> UnhideReply:
        """Hide these ports no longer; the command has taken them off `hide:` in the file."""
        if self._watch.is_reading:
            # What is being read may still list them, and would have them kept again.
            return UnhideReply(reading=True)
        ports = request.ports
        config = self._keeper.config
        refuse_named(config, ports)
        shown = common(ports, (*self._hidden.ports, *config.hide)) if config.drop_ports else ()
        self._hidden.remove(ports)
        if not self._switch.use(self._watch.unlist(ports), now):
            raise OpenmeError(f"not shown yet: {self._watch.fault}")
        _log.info("no longer hidden, on request: %s", ", ".join(map(str, shown)) or "nothing that was hidden")
        return UnhideReply(shown=tuple(map(str, shown)))


def _with_closed(grants: Sequence[Grant], outcome: Steps[CloseReply]) -> Steps[CloseReply]:
    """The outcome, in the end, and the addresses and networks of these grants."""
    closed = []
    for number, grant in enumerate(grants, 1):
        closed.append(grant.place)
        if number % _NAMES_AT_ONCE == 0:
            yield
    return replace((yield from outcome), closed=tuple(closed))


def _with(file: AboutFile, outcome: Steps[FileReply]) -> Steps[FileReply]:
    """The outcome, in the end, and what is known of the file now."""
    return replace((yield from outcome), **file)
