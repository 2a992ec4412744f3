"""The keeper's shell: frames in, doors out; the only process that touches the firewall and the disk."""

import json
import logging
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from openme import interrupts
from openme.clocks import Now, read_clocks
from openme.config.model import ServerConfig
from openme.config.section import nearest
from openme.config.server_keys import NEED_RESTART
from openme.control import serving
from openme.control.handlers import Handlers
from openme.control.requests import (
    Client,
    ClientReply,
    Close,
    CloseReply,
    FileReply,
    FileRequest,
    NewRatchet,
    NewRatchetReply,
    RatchetReply,
    Reload,
    ReloadReply,
    Reply,
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
    refusal_value,
    reply_value,
    request_untrusted,
)
from openme.control.slow_askers import Replies
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.firewall.base import CutTarget, Door, Firewall, FirewallError, IPAddress, Rules, Steps
from openme.keeper.deliveries import Deliveries
from openme.keeper.epochs import Epochs
from openme.keeper.grants import Change, Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper, Reconfiguration
from openme.keeper.lost_rights import Expiries, lost_by_change, lost_by_keys
from openme.keeper.policy import client_lists, door_network, may_come_from
from openme.keeper.ratchet_file import write_ratchet
from openme.keeper.rules import rules_for
from openme.ports import common
from openme.processes.listener_reports import Reports
from openme.reasons import End
from openme.seam.channel import FRAME_SIZES, ChannelClosedError, Outbox, received
from openme.seam.messages import (
    REPORT_SIZE,
    FamiliarAddress,
    ForgetEpochKey,
    ForgetReceipt,
    ForgetV1Key,
    LeaveHealthPort,
    Serve,
    UseEpochKey,
    UseV1Key,
)
from openme.server import logs
from openme.server.admin import AboutFile, about_file
from openme.server.admission import Admission
from openme.server.config_watch import ConfigWatch
from openme.server.cutting import Cutting
from openme.server.door_steps import AT_ONCE, DoorSteps
from openme.server.epoch_keys import erase_before, open_epochs, write_new
from openme.server.garbage import set_aside
from openme.server.health_port import why_not_ours
from openme.server.health_port import worded as health_words
from openme.server.hidden_ports import HiddenPorts, refuse_named, unnamed
from openme.server.interfaces import InterfaceWatch
from openme.server.slices import Slices
from openme.server.state_file import StateLines, json_text, sessions_value, write_state_file
from openme.server.stored import moment, stored_reply
from openme.server.verdicts import Verdicts
from openme.store.base import Holder, Store

_BATCH = 256  # frames that share one sync of the disk and one firewall transaction
_REPAIR_INTERVAL = 0.4  # seconds between two repairs of the firewall
_FIRST_RETRY = 0.5  # seconds until a config that the firewall refused is tried again; twice as long each time
_LAST_RETRY = 64.0
_ASKING_INTERVAL = 1.0  # seconds between two orders to leave the health port
_STATE_INTERVAL = 1.0  # seconds; a thousand people who knock at once must not mean a thousand files
_BUSY_LISTENER = 0.01  # seconds until orders are offered again to a listener that would not take them
_ERASING_INTERVAL = 60.0  # seconds between two tries to erase an epoch's key from a disk that refuses
_SAID_AT_ONCE = 100  # openings that end, each with a line in the log
_NAMES_AT_ONCE = 1000
_LINES_AT_ONCE = 50
_COMPARED_AT_ONCE = 500  # names with one that is misspelt
ADDRESSES_AT_ONCE = 100
"""Addresses whose doors follow a change in one step: some milliseconds."""
_TICK = 0.5  # seconds between two looks at expiry and config, so that what ends is closed within a second

CutReplyT = TypeVar("CutReplyT", RevokeReply, CloseReply)

_log = logging.getLogger("openme.keeper")


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of so many seconds; `passed` is called once a client has knocked in time."""

    seconds: float
    passed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the keeper works with, made by `server.start`."""

    keeper: Keeper
    store: Store
    firewall: Firewall
    watch: ConfigWatch
    journal: Journal
    listener: socket.socket
    control: socket.socket
    state_file: Path | None
    firewall_lock: socket.socket | None = None
    trial: Trial | None = None
    reports: Reports = field(default_factory=Reports)
    hidden: HiddenPorts = field(default_factory=HiddenPorts)
    interfaces: InterfaceWatch | None = None


class Ending(Enum):
    """Why the keeper stopped serving."""

    ASKED = "asked"
    LISTENER_GONE = "listener gone"
    TRIAL_OVER = "trial over"


class KeeperProcess:
    """Runs until it is told to stop or the listener is gone."""

    def __init__(self, parts: Parts, clocks: Callable[[], Now] = read_clocks) -> None:
        self._keeper = parts.keeper
        self._store = parts.store
        self._firewall = parts.firewall
        self._watch = parts.watch
        self._watch.forget_in_child = self._forget_secrets
        self._journal = parts.journal
        self._listener = parts.listener
        self._reports = parts.reports
        self._outbox = Outbox(parts.listener)
        self._deliveries = Deliveries()
        self._verdicts = Verdicts(self._keeper, self._outbox, self._deliveries)
        self._control = parts.control
        self._firewall_lock = parts.firewall_lock
        self._state_file = parts.state_file
        self._clocks = clocks
        self._hidden = parts.hidden
        self._interfaces = parts.interfaces
        self._rules = self._rules_for(parts.keeper.config)
        """What the firewall took last, and nothing else: this is what a repair puts back."""
        self._retry_at: float | None = None
        self._retry_after = _FIRST_RETRY
        self._seen = {key: (seen.name, seen.at) for key, seen in parts.store.seen().items()}
        self._selector = selectors.DefaultSelector()
        self._slices = Slices()
        self._answers: Handlers[Callable[[Any, Now], Reply | Steps[Reply]]] = Handlers(
            {
                Sessions: self._answer_sessions,
                Reload: self._reload,
                Client: self._client,
                Revoke: self._revoke,
                Close: self._close,
                Reset: self._reset,
                Unhide: self._unhide,
                Stored: lambda _request, _now: stored_reply(self._store),
                SaveRatchet: self._save_ratchet,
                NewRatchet: self._new_ratchet,
            }
        )
        self._replies = Replies(self._selector)
        self._doors = DoorSteps(parts.firewall, self._keeper.grants, self._slices, lambda: self._clocks().monotonic)
        self._following = 0
        self._leaves_health_port = False
        self._next_asking = float("-inf")
        self._next_leaving = float("-inf")
        self._cutting = Cutting(
            parts.firewall, self._slices, self._keeper.grants.is_open, lambda: self._doors or self._following
        )
        self._expiries = Expiries(clocks().utc)
        self._admission = Admission(
            self._keeper, parts.store, parts.journal, self._open, self._verdicts, self._came_in, clocks
        )
        self._stop: Ending | None = None
        self._trial = parts.trial
        self._trial_until = None if parts.trial is None else clocks().monotonic + parts.trial.seconds
        self._disk_fault: str | None = None
        self._state_file_fault = False
        self._state_lines = StateLines()
        self._state_config: ServerConfig | None = None
        self._seen_anew: set[bytes] = set()
        self._state_changed = False
        self._state_being_written = False
        self._ruleset_changed = False
        self._given: dict[int, bytes] = {}
        self._next_erasing = float("-inf")
        self._next_repair = float("-inf")
        self._rules_were_away = False
        self._is_ending = False
        self._left_open: tuple[float, str] | None = None
        self._state_written = float("-inf")

    # -- the loop

    def run(self, ready: Callable[[], None] = lambda: None) -> Ending:
        """Serve, until there is a reason to stop.

        `ready` is called once a signal would be heard and the state file is there. Signals that the caller has blocked
        until then are let in.
        """
        wake_reader, wake_writer = socket.socketpair()
        for end in (wake_reader, wake_writer):
            end.setblocking(False)  # noqa: FBT003  # the standard library's signature
        previous = signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            if not interrupts.is_ignored(number):
                signal.signal(number, self._on_stop)
        # The config is looked at twice a second anyway; this only wakes us.
        signal.signal(signal.SIGHUP, lambda *_: _log.info("asked to look at the config"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.ENDINGS)
        self._selector.register(wake_reader, selectors.EVENT_READ, lambda: wake_reader.recv(64))
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_frames)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        if (lock := self._firewall_lock) is not None:
            self._selector.register(lock, selectors.EVENT_READ, lambda: _make_room(lock))
        if self._firewall.changes is not None:
            self._selector.register(self._firewall.changes, selectors.EVENT_READ, self._on_ruleset_change)
        if self._interfaces is not None:
            self._selector.register(self._interfaces.changes, selectors.EVENT_READ, self._interfaces.has_changed)
        self._give_v1_keys()
        self._follow_epochs(self._clocks())
        self._outbox.put([Serve()])
        for _ in self._write_state():  # before anybody is told that we serve
            pass
        self._end_what_was_lost_before()
        set_aside()  # or the garbage collector would look through every client again and again: 50 ms for 20,000
        ready()
        try:
            while self._stop is None:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._outbox.flush()
                self._admission.serve_waiting()
                if self._slices:
                    self._slices.advance()
                    set_aside()  # what steps have left behind would be looked through again and again as well
                self._tick()
        except ChannelClosedError as error:
            _log.error("the listener is gone (%s)", error)  # the operator needs the fact, not a trace
            return Ending.LISTENER_GONE
        finally:
            signal.set_wakeup_fd(previous)
            wake_reader.close()
            wake_writer.close()
            self._slices.close()
            self._replies.close()
        return self._stop

    @property
    def is_on_trial(self) -> bool:
        """Whether nobody has knocked yet who would end the trial."""
        return self._trial_until is not None

    def _timeout(self) -> float:
        if self._admission or self._slices or self._watch.is_arriving:
            return 0
        return _BUSY_LISTENER if self._outbox else _TICK

    def _on_stop(self, *_: object) -> None:
        self._stop = Ending.ASKED

    def _tick(self) -> None:
        now = self._clocks()
        self._repair(now)
        self._firewall.adapt()
        self._follow_config(now)
        self._follow_interface(now)
        self._leave_health_port(now)
        self._hidden.tick(now.monotonic)
        self._follow_epochs(now)
        self._tell_sources()
        over = self._keeper.grants.expire(now.monotonic)
        for grant in over:
            self._verdicts.take(grant)
            self._journal.closed(grant, End.TIME_OVER)
        early: list[tuple[Grant, End]] = []
        if expired := self._expiries.passed(now.utc):  # a right ends by that alone, or by a config
            early = self._keeper.overdue(expired, now)
            self._end(early, now)
            lost = lost_by_keys(expired, self._keeper.client, self._store.holders_of, now.utc)
            self._end_exchanges(lost, [grant for grant, _ in early])
        if over or early:
            self._state_changed = True
        if (
            self._state_changed
            and not self._state_being_written
            and now.monotonic - self._state_written >= _STATE_INTERVAL
        ):
            self._state_changed = False
            self._slices.add(self._write_state())
        self._journal.report(now.monotonic)
        self._note_deliveries()
        self._say_disk()
        self._reports.tick(now.monotonic)
        logs.write_late()
        if self._trial_until is not None and now.monotonic >= self._trial_until:
            _log.error("nobody has knocked in time: undoing it, the ports are as they were before")
            self._stop = Ending.TRIAL_OVER

    # -- the host's firewall

    def _on_ruleset_change(self) -> None:
        """Somebody has changed the host's ruleset, perhaps we ourselves; perhaps it took our rules with it."""
        if self._firewall.has_changed():
            self._ruleset_changed = True

    def _repair(self, now: Now) -> None:
        """Put our rules back where a flush or a reload of the host's firewall has removed them, open doors included."""
        if not self._ruleset_changed or now.monotonic < self._next_repair:
            return
        self._ruleset_changed = False
        # Another program may want it otherwise, again and again: this is a limit, not a delay before the first time.
        self._next_repair = now.monotonic + _REPAIR_INTERVAL
        try:
            if self._firewall.intact():
                return
            _log.warning("%s: putting openme's rules back", self._firewall.damage)
            self._doors.restore(self._rules)
            self._end_what_began_without_rules()
        except FirewallError as error:
            _log.error("the rules could not be put back: %s", error.message)  # one line for the operator
            self._ruleset_changed = True

    # -- knocks

    def _on_frames(self) -> None:
        frames = []
        for message in received(self._listener, FRAME_SIZES, _BATCH):
            if len(message) == REPORT_SIZE:
                self._reports.on_report_untrusted(message, self._clocks().monotonic)
            else:
                frames.append(message)
        if not frames:
            return
        now = self._clocks()
        with self._admission.holding(frames):
            self._follow_config(now)
            self._follow_epochs(now)
            self._admission.admit_untrusted(frames, now)

    def _forget_secrets(self) -> None:
        """For a child that is forked from here: it may still be there when an epoch's key is erased."""
        self._admission.forget_secrets()
        self._outbox.wipe()
        if self._keeper.epochs is not None:
            self._keeper.epochs.forget()

    def _came_in(self, grant: Grant, now: Now) -> None:
        """A knock has opened."""
        self._seen[grant.client_key] = (grant.client_name, now.unix)
        self._seen_anew.add(grant.client_key)
        self._state_changed = True
        self._pass_trial(grant.client_name)

    def _open(self, grants: list[Grant], now: Now) -> set[int]:
        """Open the doors of these grants in one transaction; which of them (by `id`) are open now."""
        earlier = [self._keeper.grants.add(grant) for grant in grants]
        change = self._keeper.grants.changed_by(grants, earlier, self._rules.port_lists, now.monotonic)
        try:
            self._apply(change)
        except FirewallError as error:
            _log.error("a valid knock opened nothing: %s", error.message)  # one line for the operator
            for grant, before in zip(reversed(grants), reversed(earlier), strict=True):
                self._keeper.grants.take_back(grant, before)
            return set()
        return {id(grant) for grant in grants}

    def _pass_trial(self, name: str) -> None:
        if self._trial is not None and self._trial_until is not None:
            self._trial_until = None
            self._trial.passed()
            self._hidden.confirm()
            _log.info("%s has knocked: the ports stay hidden until this server is stopped", name)

    # -- config

    def _follow_config(self, now: Now) -> None:
        if self._retry_at is not None and now.monotonic >= self._retry_at:
            self._retry_at = None
            self._watch.read_again()
        config = self._watch.refresh()
        if config is not None and self._use(config, now):
            _log.info("config in force: %d clients", len(config.clients))

    def _use(self, config: ServerConfig, now: Now) -> bool:
        """Put a changed config in force: in the firewall, and if that takes it for the next knock and for open doors.

        False, and the config before stays in force, if the firewall refuses.
        """
        config = self._keep_what_needs_a_restart(config)
        kept = self._hidden.ports
        self._hidden.note(config)
        first, rest = self._whose_doors_follow(config)
        plan = self._keeper.plan(config, now, self._rules_for(config), first)
        has_new_rules = plan.rules != self._rules
        if has_new_rules:
            try:
                self._doors.apply(plan.rules, plan.change.open)
            except FirewallError as error:
                self._hidden.take_back(kept)
                self._stay(config, error, now)
                return False
            self._rules = plan.rules
        if self._watch.fault is None:
            # Else this is the last good config, less somebody perhaps, while a refused file waits for its next try.
            self._retry_at, self._retry_after = None, _FIRST_RETRY
        self._hidden.took(config)
        if config.has_epochs != (self._keeper.epochs is not None):
            self._switch_v2(config, now)
        self._follow(plan, Change(close=plan.change.close) if has_new_rules else plan.change, now, rest)
        self._follow_interface(now)
        self._give_v1_keys()
        if config.listens and config.health_port_is_named and not self._leaves_health_port:
            self._leaves_health_port = True
            self._reports.has_left_health_port = False  # what it says unasked counts for nothing
        return True

    def _leave_health_port(self, now: Now) -> None:
        """Once openme listens on the health port no more, since a service has it now, that is hidden as others are."""
        config = self._keeper.config
        if not (config.listens and self._leaves_health_port) or now.monotonic < self._next_leaving:
            return
        if not self._reports.has_left_health_port:
            if now.monotonic >= self._next_asking:  # again, as its answer may be lost in a flood of frames
                self._next_asking = now.monotonic + _ASKING_INTERVAL
                self._outbox.put([LeaveHealthPort()])
            return
        self._next_leaving = now.monotonic + _LAST_RETRY
        config = config.with_health_port(listens=False)
        if self._use(config, now):
            _log.warning("%s", health_words(config, why_not_ours(config) or "it was named by a group or client"))

    def _stay(self, refused: ServerConfig, error: FirewallError, now: Now) -> None:
        """The firewall has refused the rules of a config: the one before stays in force, but for clients that went.

        The reason may be the config or the moment (somebody changes the ruleset, memory is short), which nobody can
        tell apart; so it is tried again, ever more rarely.
        """
        before = self._keeper.config
        keys = {client.public_key.raw for client in refused.clients.values()}
        clients = {name: client for name, client in before.clients.items() if client.public_key.raw in keys}
        if len(clients) == len(before.clients):
            config = before
        else:
            gone = [client.public_key.raw for name, client in before.clients.items() if name not in clients]
            config = replace(before, clients=clients).with_index(before.index.without(gone))
        self._watch.refuse(config, error.message)
        self._ruleset_changed = True  # whatever the try has left behind is put right
        self._retry_at = now.monotonic + self._retry_after
        self._retry_after = min(2 * self._retry_after, _LAST_RETRY)
        first, rest = self._whose_doors_follow(config)
        plan = self._keeper.plan(config, now, self._rules, first)
        self._follow(plan, plan.change, now, rest)

    def _whose_doors_follow(self, config: ServerConfig) -> tuple[list[IPAddress], list[IPAddress]]:
        """The addresses whose doors follow a changed config at once, and those whose doors do so afterwards, in steps.

        Who has gone comes first. Where that is all that has changed of clients, nobody else is looked at.
        """
        grants = self._keeper.grants
        addresses = grants.addresses()
        if len(addresses) <= ADDRESSES_AT_ONCE:
            return addresses, []
        away = config.index.missing(grants.clients())
        first = [grant.address for key in away for grant in grants.of_client(key)]
        if config.index.is_part_of(self._keeper.config.index):
            return first[:ADDRESSES_AT_ONCE], first[ADDRESSES_AT_ONCE:]
        if len(first) < ADDRESSES_AT_ONCE:
            return first + addresses[: ADDRESSES_AT_ONCE - len(first)], addresses
        return first[:ADDRESSES_AT_ONCE], first[ADDRESSES_AT_ONCE:] + addresses

    def _follow(self, plan: Reconfiguration, change: Change, now: Now, rest: list[IPAddress]) -> None:
        """Judge by this plan from now on, whose rules are in force, and do to the doors what is left to do."""
        clients = self._keeper.config.clients
        self._slices.add(self._say_ended(plan.ended))
        self._keeper.follow(plan)
        self._store.set_window(round(plan.config.replay_window * 10**9))
        self._verdicts.move(plan.moved)
        try:
            self._apply_large(change)
        except FirewallError as error:
            # One line for the operator; the doors that should have closed do so when their time is over.
            _log.error("the changed config is not in the firewall: %s", error.message)
            self._note_left_open(error, now)
        self._expiries.follow(plan.config.index.ends)
        lost = lost_by_change(clients, self._keeper.client, self._store.holders_of, now.utc)
        ended = [grant for grant, _ in plan.ended]
        if rest:
            self._following += 1
            self._slices.add(self._follow_later(rest, ended))
        self._end_exchanges(lost, ended)
        set_aside()
        self._state_changed = True

    def _follow_later(self, addresses: list[IPAddress], ended: list[Grant]) -> Steps[None]:
        """Have the doors for these addresses follow the config in force, which may be a later one by then."""
        try:
            for start in range(0, len(addresses), ADDRESSES_AT_ONCE):
                yield
                now = self._clocks()
                part = addresses[start : start + ADDRESSES_AT_ONCE]
                plan = self._keeper.plan(self._keeper.config, now, self._rules, part)
                self._keeper.settle(plan)
                self._verdicts.move(plan.moved)
                if plan.ended:
                    self._slices.add(self._say_ended(plan.ended))
                    ended += (grant for grant, _ in plan.ended)
                self._state_changed = True
                try:
                    self._apply(plan.change)
                except FirewallError as error:
                    _log.error("the changed config is not in the firewall: %s", error.message)  # one line
                    self._note_left_open(error, now)
        finally:
            self._following -= 1

    def _rules_for(self, config: ServerConfig) -> Rules:
        indexes = () if self._interfaces is None else self._interfaces.indexes_of(config.interface)
        return rules_for(config, self._hidden.ports, indexes)

    def _follow_interface(self, now: Now) -> None:
        """Look whether packets still come in by the interface of the config, and keep hidden what is hidden there."""
        if self._interfaces is None:
            return
        name = self._keeper.config.interface
        self._interfaces.look(name, now.monotonic)
        indexes = () if name is None else tuple(sorted(self._interfaces.indexes))
        if indexes == self._rules.interface_indexes or name != self._rules.interface:
            return
        rules = replace(self._rules, interface_indexes=indexes)
        if now.monotonic < self._next_repair:
            return
        self._next_repair = now.monotonic + _REPAIR_INTERVAL
        try:
            self._firewall.apply(rules)
        except FirewallError as error:
            _log.error("the rules do not follow interface %s: %s", name, error.message)  # one line for the operator
            return
        self._rules = rules

    def _keep_what_needs_a_restart(self, config: ServerConfig) -> ServerConfig:
        current = self._keeper.config
        for name in NEED_RESTART:
            if getattr(config, name) != getattr(current, name):
                _log.warning("%s has changed: this takes effect when the server is restarted", name)
        # A port that was left is not taken back; a file says nothing of it.
        listens = False if config.listens is False else current.listens
        kept = replace(config, **{name: getattr(current, name) for name in NEED_RESTART}, listens=listens)
        return kept.with_index(config.index, config.named_ports)

    # -- keys

    def _give_v1_keys(self) -> None:
        """Make the listener hold the version 1 keys that the config names, while it accepts that version."""
        config = self._keeper.config
        wanted = {number: key.raw for number, key in enumerate(config.keys) if key is not None}
        if wanted == self._given:
            return
        for number in self._given.keys() - wanted.keys():
            self._outbox.put([ForgetV1Key(number)])
        self._outbox.put([UseV1Key(number, key) for number, key in wanted.items()])
        self._given = wanted

    def _switch_v2(self, config: ServerConfig, now: Now) -> None:
        """The config has switched version 2 on or off."""
        if self._keeper.epochs is not None:
            self._drop_epochs()
            return
        try:
            self._keeper.epochs = open_epochs(config, self._store, now)
        except OpenmeError as error:
            _log.error("version 2 is not switched on: %s", error.message)  # one line for the operator

    def _save_ratchet(self, _request: SaveRatchet, now: Now) -> RatchetReply:
        """See that the ratchet file is there: somebody may have removed it, or there was none yet."""
        epochs, config = self._keeper.epochs, self._keeper.config
        try:
            if epochs is not None:
                write_ratchet(config.state_dir, epochs.ratchet)
                return RatchetReply(made=False)
            opened = open_epochs(config, self._store, now)
        except OSError as error:
            raise OpenmeError(f"the epoch keys cannot be written: {error.strerror}") from None
        if opened is None:
            raise OpenmeError("the epoch keys cannot be written")
        self._use_epochs(opened, now)
        return RatchetReply(made=True)

    def _new_ratchet(self, request: NewRatchet, now: Now) -> NewRatchetReply:
        """Begin a new ratchet, on the operator's word: every version 2 client file is of no use from now on."""
        config = self._keeper.config
        if request.epoch_length not in {None, config.epoch_length}:
            running = format_duration(config.epoch_length)
            raise OpenmeError(f"the running server was started with epoch_length {running}: stop it first, then rotate")
        ratchet = write_new(config, now.unix_ns)
        self._store.note_ratchet(ratchet.index, ratchet.public_key(ratchet.index))
        self._store.forget_renewals()
        self._deliveries.forget()
        _log.warning("there is a new ratchet: version 2 clients need new files")
        self._use_epochs(Epochs(ratchet, config.replay_window, config.epoch_horizon), now)
        return NewRatchetReply()

    def _use_epochs(self, epochs: Epochs, now: Now) -> None:
        """Put these in the place of those in force; where version 2 is off, the file is read when it is switched on."""
        self._drop_epochs()
        if not self._keeper.config.has_epochs:
            epochs.ratchet.forget()
            return
        self._keeper.epochs = epochs
        self._follow_epochs(now)

    def _drop_epochs(self) -> None:
        """Forget the epochs in force, here and in the listener; the file is left as it is."""
        if (epochs := self._keeper.epochs) is not None:
            self._outbox.put([ForgetEpochKey(index) for index in epochs.live])
            epochs.ratchet.forget()
            self._keeper.epochs = None

    def _follow_epochs(self, now: Now) -> None:
        """Give the listener the keys of live epochs, take the others away, and erase what evidence allows."""
        epochs = self._keeper.epochs
        if epochs is None:
            return
        change = epochs.look(now.unix_ns, now.monotonic)
        self._outbox.put([ForgetEpochKey(index) for index in change.ended])
        for index in change.begun:
            self._outbox.put([UseEpochKey(index, epochs.ratchet.private_key(index))])
        first = epochs.first_to_keep(now.monotonic)
        if first is None or now.monotonic < self._next_erasing:
            return
        self._outbox.put([ForgetEpochKey(index) for index in epochs.live if index < first])
        if not erase_before(first, epochs, self._keeper.config.state_dir, self._store):
            self._next_erasing = now.monotonic + _ERASING_INTERVAL

    def _note_deliveries(self) -> None:
        """Count the keys of receipts that were fetched."""
        fetched = [
            self._deliveries.fetched(self._reports.delivered.popleft()) for _ in range(len(self._reports.delivered))
        ]
        for offer in filter(None, fetched):
            self._store.renew(offer.client_key, offer.last)
        if any(fetched):
            self._store.flush()

    def _tell_sources(self) -> None:
        """Name the addresses that clients knock from to the listener, which then does not make them wait."""
        sources = self._keeper.new_sources
        while sources:
            self._outbox.put([FamiliarAddress(sources.popleft())])

    # -- ending grants

    def _end(self, ended: Sequence[tuple[Grant, End]], now: Now) -> None:
        """End these grants: of very many the last in steps, unless they have been given anew by then."""
        self._end_some(ended[:ADDRESSES_AT_ONCE], now)
        if len(ended) > ADDRESSES_AT_ONCE:
            self._following += 1
            self._slices.add(self._end_later(ended))

    def _end_later(self, ended: Sequence[tuple[Grant, End]]) -> Steps[None]:
        try:
            for start in range(ADDRESSES_AT_ONCE, len(ended), ADDRESSES_AT_ONCE):
                yield
                part = ended[start : start + ADDRESSES_AT_ONCE]
                held = [(grant, why) for grant, why in part if self._keeper.grants.holds(grant)]
                self._end_some(held, self._clocks())
                self._state_changed = True
        finally:
            self._following -= 1

    def _end_some(self, ended: Sequence[tuple[Grant, End]], now: Now) -> None:
        change = self._keeper.grants.remove([grant for grant, _ in ended], now.monotonic)
        change = replace(change, open=tuple(d for d in change.open if d.port_list in self._rules.port_lists))
        self._slices.add(self._say_ended(ended))
        try:
            self._apply_large(change)
        except FirewallError as error:
            _log.error("doors could not be closed early: %s", error.message)  # one line for the operator
            self._note_left_open(error, now)

    def _note_left_open(self, error: FirewallError, now: Now) -> None:
        """Doors that should be closed may be open until their time is over; no command is told otherwise till then."""
        self._left_open = (now.monotonic + self._keeper.config.knock_timeout, error.message)

    def _why_left_open(self, now: Now) -> str | None:
        """Why a door that should be closed may be open, or None."""
        return self._left_open[1] if self._left_open is not None and now.monotonic < self._left_open[0] else None

    def _say_ended(self, ended: Sequence[tuple[Grant, End]]) -> Steps[None]:
        """A line in the log for each, and nothing more for the listener to answer with."""
        # Whoever is let in anew meanwhile keeps what that gives him.
        receipts = [self._verdicts.take(grant) for grant, _ in ended]
        for number, ((grant, why), representatives) in enumerate(zip(ended, receipts, strict=True), 1):
            self._outbox.put([ForgetReceipt(representative) for representative in representatives])
            self._journal.closed(grant, why)
            if number % _SAID_AT_ONCE == 0:
                yield

    def _end_exchanges(self, lost: Steps[list[CutTarget]], ended: Sequence[Grant] = ()) -> None:
        """End the UDP exchanges, and the TCP handshakes under way, that clients have lost the right to.

        Their open doors count too, whether or not the disk knows of them; `ended` may grow while doors follow.
        """
        self._cutting.add(lost, (CutTarget(grant.address, grant.ports, network=grant.network) for grant in ended))

    def _end_what_was_lost_before(self) -> None:
        """What clients lost while no server ran."""
        self._expiries.follow(self._keeper.config.index.ends)
        self._end_exchanges(self._lost_by_all())

    def _lost_by_all(self) -> Steps[list[CutTarget]]:
        """What everybody whom the disk knows has lost. StoreError, at the first step, where it does not tell whom."""
        keys, now = self._store.holder_keys(), self._clocks().utc
        return (yield from lost_by_keys(keys, self._keeper.client, self._store.holders_of, now))

    def _end_what_began_without_rules(self) -> None:
        """What clients without a right may have begun while somebody had taken our rules away.

        One look at all of them at a time, however often that happens.
        """
        self._rules_were_away = True
        if not self._is_ending:
            self._is_ending = True
            self._slices.add(self._end_again())

    def _end_again(self) -> Steps[None]:
        while self._rules_were_away:
            self._rules_were_away = False
            cut = self._cutting.add(self._lost_by_all())
            while not cut.done:
                yield
        self._is_ending = False

    def _apply(self, change: Change) -> None:
        """Make the firewall's doors agree with the grants; FirewallError if it cannot be made to."""
        try:
            self._apply_once(change)
        except FirewallError as error:
            # Most likely somebody has flushed the host's ruleset. Put ours back together with what is to be open, in
            # one transaction: were it two, the second could fail after the first has opened what is then taken back.
            _log.warning("the firewall refused (%s): putting the rules in force again", error.message)
            # Those asked for now come first: of a great many the last wait for their turn.
            self._doors.restore(self._rules, change.open, set(change.close))
            self._apply_once(Change(close=change.close))

    def _apply_large(self, change: Change) -> None:
        """The same for doors of which the last may wait for their turn: not for those that a knock has asked for."""
        self._apply(Change(change.open[:AT_ONCE], change.close))
        self._doors.open(change.open[AT_ONCE:])

    def _apply_once(self, change: Change) -> None:
        if change.close:
            self._doors.close(change.close)
        if change.open:
            self._firewall.open(change.open)

    # -- the control socket

    def _on_control(self) -> None:
        with suppress(OSError):
            peer, _ = self._control.accept()
            if not serving.is_allowed(peer):
                peer.close()
                return
            self._selector.register(peer, selectors.EVENT_READ, lambda: self._on_request(peer))

    def _on_request(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        try:
            peer.setblocking(False)  # noqa: FBT003  # the standard library's signature
            raw = peer.recv(serving.MAX_REQUEST)
        except OSError:
            raw = b""
        if not raw:
            peer.close()
            return
        try:
            answer = self._answer(raw)
        except OpenmeError as error:
            self._replies.send(peer, json.dumps(refusal_value(error)).encode())
            return
        if isinstance(answer, Reply):
            self._replies.send(peer, json.dumps(reply_value(answer)).encode())
        else:
            self._slices.add(self._answer_later(peer, answer))

    def _answer_later(self, peer: socket.socket, steps: Steps[Reply]) -> Steps[None]:
        """Send what comes of it in the end, also when that is our own."""
        text = json.dumps(refusal_value(OpenmeError("the server was stopped before this was done")))
        try:
            try:
                value = reply_value((yield from steps))
            except OpenmeError as error:
                value = refusal_value(error)
            text = yield from json_text(value)
        finally:
            self._replies.send(peer, text.encode())

    def _answer(self, raw: bytes) -> Reply | Steps[Reply]:
        """Do what is asked; OpenmeError."""
        request = request_untrusted(raw)
        self._tick()
        outcome = self._answers.of(request)(request, self._clocks())
        if not isinstance(request, FileRequest):
            return outcome
        file = about_file(self._watch, request.sha256)
        return (
            replace(outcome, **file)
            if isinstance(outcome, FileReply)
            else _with(file, cast("Steps[FileReply]", outcome))
        )

    def _reload(self, request: Reload, now: Now) -> ReloadReply:
        """The tick before this has looked at the files; `add` may also lift what no file names."""
        config = self._watch.lift(request.lifted)
        if config is not None:
            self._use(config, now)
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
            self._use(config, now)
        outcome = RevokeReply(keys=keys, not_closed=self._why_left_open(now))
        return self._when_cut(request.name, targets, outcome, cut=request.cut)

    def _close(self, request: Close, now: Now) -> Steps[CloseReply]:
        name = request.name
        targets = self._targets(name, self._watch.keys_of(name), established=request.cut)
        grants = self._keeper.grants_of(name)
        self._end([(grant, End.CLOSED) for grant in grants], now)
        self._state_changed = True
        outcome = CloseReply(
            closed=(),
            not_closed=self._why_left_open(now),
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

    def _targets(
        self, name: str, keys: Iterable[bytes], *, established: bool
    ) -> tuple[Steps[list[CutTarget]], Iterable[CutTarget]]:
        """Every address that this client has opened lately, also by doors closed long since; and the doors open now."""
        keys = {*keys, *(key for key, (known_as, _) in self._seen.items() if known_as == name)}
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
        if not self._use(self._watch.unlist(ports), now):
            raise OpenmeError(f"not shown yet: {self._watch.fault}")
        _log.info("no longer hidden, on request: %s", ", ".join(map(str, shown)) or "nothing that was hidden")
        return UnhideReply(shown=tuple(map(str, shown)))

    # -- what others see

    def _sessions(self, now: Now) -> Steps[dict[str, Any]]:
        last_seen: dict[str, float] = {}
        for number, (key, (_, at)) in enumerate(list(self._seen.items()), 1):
            if (client := self._keeper.client(key)) is not None:
                last_seen[client.name] = at
            if number % _NAMES_AT_ONCE == 0:
                yield
        value = yield from sessions_value(self._keeper.grants.gradually(), last_seen, now.unix)
        return value | self._rest_of_sessions()

    def _rest_of_sessions(self) -> dict[str, Any]:
        warning = None if self._interfaces is None else self._interfaces.warning
        return {
            "hidden_though_unnamed": [str(item) for item in unnamed(self._keeper.config, self._hidden.ports)],
            "warnings": [] if warning is None else [warning],
        }

    def _change_lines(self) -> Steps[None]:
        """Bring the state file's lines up to date: what has changed of grants, and who has knocked."""
        if self._state_config is not self._keeper.config:
            # Names may have changed, and who has gone is not listed any longer.
            self._state_config = self._keeper.config
            self._state_lines.forget_seen()
            self._seen_anew.update(self._seen)
        touched, self._keeper.grants.touched = self._keeper.grants.touched, set()
        for number, (client_key, address) in enumerate(touched, 1):
            self._state_lines.change((client_key, address), self._keeper.grants.at(address, client_key))
            if number % _LINES_AT_ONCE == 0:
                yield
        seen, self._seen_anew = self._seen_anew, set()
        for number, client_key in enumerate(seen, 1):
            if (client := self._keeper.client(client_key)) is not None:
                self._state_lines.saw(client.name, self._seen[client_key][1])
            if number % _LINES_AT_ONCE == 0:
                yield

    def _answer_sessions(self, _request: Sessions, now: Now) -> Steps[SessionsReply]:
        return SessionsReply(**(yield from self._sessions(now)))

    def _write_state(self) -> Steps[None]:
        if self._state_file is None:
            self._keeper.grants.touched.clear()
            self._seen_anew.clear()
            return
        self._state_being_written = True
        try:
            yield from self._change_lines()
            text = yield from self._state_lines.text(self._clocks().unix, self._rest_of_sessions())
            write_state_file(self._state_file, text)
            self._state_file_fault = False
        except OSError as error:
            if not self._state_file_fault:
                _log.warning("%s: cannot be written: %s", self._state_file, error.strerror)
            self._state_file_fault = True
        finally:
            self._state_being_written = False
            self._state_written = self._clocks().monotonic

    def _say_disk(self) -> None:
        if self._store.failing != self._disk_fault:
            self._disk_fault = self._store.failing
            if self._disk_fault is not None:
                _log.error(
                    "the replay memory cannot be written (%s): deciding from memory; after a restart only knocks made"
                    " since then are accepted",
                    self._disk_fault,
                )
            else:
                _log.info("the replay memory is on the disk again")


def _with_closed(grants: Sequence[Grant], outcome: Steps[CloseReply]) -> Steps[CloseReply]:
    """The outcome, in the end, and the addresses and networks of these grants."""
    closed = []
    for number, grant in enumerate(grants, 1):
        closed.append(grant.place)
        if number % _NAMES_AT_ONCE == 0:
            yield
    return replace((yield from outcome), closed=tuple(closed))


def _make_room(lock: socket.socket) -> None:
    """Take those off the queue who have asked whose the firewall is, which the kernel has told them."""
    with suppress(OSError):
        for _ in range(_BATCH):
            lock.accept()[0].close()


def _with(file: AboutFile, outcome: Steps[FileReply]) -> Steps[FileReply]:
    """The outcome, in the end, and what is known of the file now."""
    return replace((yield from outcome), **file)


def adopted_grants(
    doors: list[Door], holders: list[Holder], config: ServerConfig, now: Now
) -> tuple[list[Grant], list[Door]]:
    """Whose the doors are that an earlier run left open: grants for them, and the doors that are nobody's.

    A door belongs to whoever was given it and still may have it; one whose client was revoked while no server ran, or
    that nobody is known to hold, is for the caller to close.
    """
    clients = {client.public_key.raw: client for client in config.clients.values()}
    grants: list[Grant] = []
    held: set[int] = set()
    for holder in holders:
        client = clients.get(holder.client_key)
        if client is None or (client.expires is not None and client.expires <= now.utc):
            continue
        if door_network(client, holder.named) != holder.network or not may_come_from(client, holder.named):
            continue
        lists = client_lists(client, config.health_port)
        own = [d for d in doors if d.address == holder.address and d.port_list in lists]
        # The kernel knows the remaining time; the stored one tells a shared door's holders apart.
        if not own or holder.expires_at < now.unix - 1:
            continue
        held.update(id(d) for d in own)
        # Somebody may have put an element there by hand, without an end.
        remaining = min(max(d.seconds for d in own), config.knock_timeout)
        grants.append(
            Grant(
                client_key=holder.client_key,
                client_name=client.name,
                address=holder.address,
                ports=client.ports,
                port_lists=tuple(d.port_list for d in own),
                opened_at=holder.opened_at,
                expires_at=now.unix + remaining,
                deadline=now.monotonic + remaining,
                network=holder.network,
                knocked_for=holder.knocked_for,
            )
        )
    return grants, [d for d in doors if id(d) not in held]
