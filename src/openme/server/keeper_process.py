"""The keeper's shell put together: frames in, doors out; the only process that touches the firewall and the disk.

Each part has a module of its own and knows those that it is given here; what follows from an event has subscribed to it
(keeper/events.py). This one knows them all, and the order of a turn.
"""

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from openme.clocks import Now, read_clocks
from openme.config.model import ServerConfig
from openme.control.requests import Reply, Request
from openme.firewall.base import Firewall, Rules
from openme.keeper.deliveries import Deliveries
from openme.keeper.events import Events, NewConfig
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.rules import rules_for
from openme.processes.listener_reports import Reports
from openme.seam.channel import FRAME_SIZES, ChannelClosedError, Outbox, received
from openme.seam.messages import REPORT_SIZE, Serve
from openme.server import logs
from openme.server.admin_answers import AdminAnswers
from openme.server.admission import Admission
from openme.server.clock_steps import ClockSteps
from openme.server.config_switch import ConfigSwitch
from openme.server.config_watch import ConfigWatch
from openme.server.control_service import Answer, ControlService
from openme.server.cutting import Cutting
from openme.server.doors import Doors
from openme.server.epoch_service import EpochService
from openme.server.exchanges import Exchanges
from openme.server.expiry import Expiry
from openme.server.file_changes import POLL_INTERVAL, FileChanges
from openme.server.garbage import search_seldom, set_aside
from openme.server.hidden_ports import HiddenPorts
from openme.server.history import History
from openme.server.interface_rules import InterfaceRules
from openme.server.interfaces import InterfaceWatch
from openme.server.leaving_health_port import LeavingHealthPort
from openme.server.loop import Ending, Loop
from openme.server.slices import Slices
from openme.server.state_file import StateFile
from openme.server.store_faults import StoreFaults
from openme.server.trial import Trial
from openme.server.v1_keys import V1Keys
from openme.server.verdicts import Verdicts
from openme.store.base import Store

_BATCH = 256  # frames that share one sync of the disk and one firewall transaction
_BUSY_LISTENER = 0.01  # seconds until orders are offered again to a listener that would not take them
_LATE_LINES = 0.5  # seconds until lines are offered again to a stderr that had no room

_log = logging.getLogger("openme.keeper")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the keeper works with, made by `server.start`. Of what is None nobody tells, or there is none."""

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
    files: FileChanges | None = None
    clock_steps: ClockSteps | None = None


class KeeperProcess:
    """Runs until it is told to stop or the listener is gone."""

    def __init__(self, parts: Parts, clocks: Callable[[], Now] = read_clocks) -> None:
        self._parts = parts
        self._clocks = clocks
        keeper, grants, store, firewall = parts.keeper, parts.keeper.grants, parts.store, parts.firewall
        self.loop = Loop()
        self.slices = Slices()
        self.events = Events(self.slices.add)
        self.outbox = Outbox(parts.listener)
        deliveries = Deliveries()
        self._verdicts = Verdicts(keeper, self.outbox, deliveries)
        self.history = History(store.seen())
        self.doors = Doors(
            firewall,
            grants,
            self._rules_for(keeper.config),
            lambda: keeper.config.knock_timeout,
            self.events,
            self.slices,
            clocks,
        )
        self._cutting = Cutting(firewall, self.slices, grants.is_open, lambda: self.doors.are_on_their_way)
        self.exchanges = Exchanges(self._cutting, store, keeper.client, self.slices, clocks)
        self.admission = Admission(keeper, store, self.doors.open, self._verdicts, self.events, clocks)
        self.switch = ConfigSwitch(
            keeper,
            grants,
            parts.watch,
            parts.hidden,
            self._rules_for,
            self.doors,
            self.exchanges,
            self.events,
            clocks,
        )
        self._expiry = Expiry(keeper, self.doors, self.exchanges, clocks())
        self._epochs = EpochService(keeper, store, self.outbox, deliveries)
        self._v1_keys = V1Keys(self.outbox)
        self._interface = InterfaceRules(parts.interfaces, keeper, self.doors)
        self._leaving = LeavingHealthPort(parts.reports, self.outbox, self.switch.use)
        self._store_faults = StoreFaults(store)
        self._lines_wait = False
        self._admin = AdminAnswers(
            keeper,
            grants,
            store,
            parts.watch,
            parts.hidden,
            self.history,
            self.doors,
            self._cutting,
            self.switch,
            self._epochs,
            self._interface,
            parts.reports,
        )
        self.state_file = StateFile(
            parts.state_file,
            grants,
            self.history,
            keeper.client,
            self._admin.rest_of_sessions,
            self.slices,
            clocks,
        )
        self.control = ControlService(parts.control, self.answer, self.loop, self.slices)
        self._subscribe()
        parts.watch.forget_in_child = self._forget_secrets

    def _subscribe(self) -> None:
        """Whom events are told, in this order: whatever decides is first, whoever only tells others comes behind."""
        events, store = self.events, self._parts.store
        for part in (self._epochs, self._v1_keys, self._expiry, self._leaving):
            part.follow(events)
        events.subscribe(NewConfig, lambda event: store.set_window(round(event.config.replay_window * 10**9)))
        events.subscribe(NewConfig, lambda event: self._interface.look(event.now))
        self._verdicts.follow(events)
        self._parts.journal.follow(events)
        self.history.follow(events)
        self.state_file.follow(events)
        if (trial := self._parts.trial) is not None:
            trial.begin(events, self._clocks().monotonic, self._parts.hidden.confirm)

    def _rules_for(self, config: ServerConfig) -> Rules:
        interfaces = self._parts.interfaces
        indexes = () if interfaces is None else interfaces.indexes_of(config.interface)
        return rules_for(config, self._parts.hidden.ports, indexes)

    # -- serving

    def run(self, ready: Callable[[], None] = lambda: None) -> Ending:
        """Serve, until there is a reason to stop.

        `ready` is called once a signal would be heard and the state file is there. Signals that the caller has blocked
        until then are let in.
        """
        with self.loop.signals():
            self._watch()
            try:
                self._begin()
                ready()
                self.tick()  # what has changed before the kernel was asked to tell of it
                while self.loop.ending is None:
                    self.turn()
            except ChannelClosedError as error:
                _log.error("the listener is gone (%s)", error)  # the operator needs the fact, not a trace
                return Ending.LISTENER_GONE
            finally:
                self.slices.close()
                self.control.close()
        return self.loop.ending

    @property
    def is_on_trial(self) -> bool:
        """Whether nobody has knocked yet who would end the trial."""
        return self._parts.trial is not None and self._parts.trial.is_running

    def _watch(self) -> None:
        """Have the loop call for whatever may come."""
        parts, loop = self._parts, self.loop
        loop.watch(parts.listener, self.on_frames)
        loop.watch(parts.control, self.control.on_readable)
        if (lock := parts.firewall_lock) is not None:
            loop.watch(lock, lambda: _make_room(lock))
        if parts.firewall.changes is not None:
            loop.watch(parts.firewall.changes, self.doors.on_ruleset_change)
        if parts.firewall.surroundings is not None:
            loop.watch(parts.firewall.surroundings, lambda: None)  # each turn has it adapt
        if parts.interfaces is not None:
            loop.watch(parts.interfaces.changes, parts.interfaces.has_changed)
        for news in (parts.files, parts.clock_steps):
            if news is not None and news.tells:
                loop.watch(news, news.read)  # each turn looks at them

    def _begin(self) -> None:
        """Let the listener begin, and do what is due since the run before."""
        self._v1_keys.give(self._parts.keeper.config)
        self._epochs.tick(self._clocks())
        self.outbox.put([Serve()])
        for _ in self.state_file.begin():  # before anybody is told that we serve
            pass
        self.exchanges.end_what_was_lost_before()
        search_seldom()
        set_aside()  # or the garbage collector would look through every client again and again: 50 ms for 20,000

    def turn(self) -> None:
        """One turn of the loop: what has come, then those who wait, then a share of long work, then what is due."""
        now = self._clocks()
        self.loop.wait(max(0.0, self.next_at(now) - now.monotonic))
        self.outbox.flush()
        self.admission.serve_waiting()
        if self.slices:
            self.slices.advance()
            set_aside()  # what steps have left behind would be looked through again and again as well
        self.tick()

    def next_at(self, now: Now) -> float:
        """When the next turn begins, in monotonic seconds, if nothing is readable before: in the past if at once.

        Each part says when it has something to do that nobody else tells of; for those who cannot, all of them are
        looked at in intervals besides (docs/decisions/0030-the-keeper-sleeps.md).
        """
        if self.admission or self.slices:
            return now.monotonic
        parts = self._parts
        every = (
            POLL_INTERVAL if parts.files is None else parts.files.interval,
            inf if parts.clock_steps is not None and parts.clock_steps.tells else POLL_INTERVAL,
            parts.firewall.adapts_every,
            _LATE_LINES if self._lines_wait else inf,
            _BUSY_LISTENER if self.outbox else inf,
        )
        return min(
            now.monotonic + min(every),
            self.doors.next_at,
            self.switch.next_at,
            self._interface.next_at,
            self._leaving.next_at,
            parts.hidden.next_at,
            self._epochs.next_at(now),
            self._expiry.next_at(now),
            self.state_file.next_at,
            parts.journal.next_at,
            parts.reports.next_at,
            inf if parts.trial is None else parts.trial.next_at,
        )

    def on_frames(self) -> None:
        """Read what the listener says: knocks, which are decided, and reports."""
        frames = []
        for message in received(self._parts.listener, FRAME_SIZES, _BATCH):
            if len(message) == REPORT_SIZE:
                self._parts.reports.on_report_untrusted(message, self._clocks().monotonic)
            else:
                frames.append(message)
        if not frames:
            return
        now = self._clocks()
        with self.admission.holding(frames):
            self.switch.follow(now)
            self._epochs.tick(now)
            self.admission.admit_untrusted(frames, now)

    def tick(self) -> None:
        """Do what is due, and see what may have changed."""
        now, parts = self._clocks(), self._parts
        if self.doors.repair(now.monotonic):
            self.exchanges.end_what_began_without_rules()
        parts.firewall.adapt()
        self.switch.follow(now)
        self._interface.look(now)
        self._leaving.tick(now)
        parts.hidden.tick(now.monotonic)
        self._epochs.tick(now)
        self._verdicts.tell_sources()
        self._expiry.tick(now)
        self.state_file.tick(now.monotonic)
        parts.journal.report(now.monotonic)
        self._epochs.note_fetched(parts.reports.take_delivered())
        self._store_faults.tick()
        parts.reports.tick(now.monotonic)
        self._lines_wait = logs.write_late()
        if parts.trial is not None and parts.trial.is_over(now.monotonic):
            self.loop.end(Ending.TRIAL_OVER)

    def answer(self, request: Request[Reply]) -> Answer:
        """Do what a command asks, by files as they are now; OpenmeError."""
        self.tick()
        return self._admin.answer(request, self._clocks())

    def _forget_secrets(self) -> None:
        """For a child that is forked from here: it may still be there when an epoch's key is erased."""
        self.admission.forget_secrets()
        self.outbox.wipe()
        self._epochs.forget_secrets()


def _make_room(lock: socket.socket) -> None:
    """Take those off the queue who have asked whose the firewall is, which the kernel has told them."""
    with suppress(OSError):
        for _ in range(_BATCH):
            lock.accept()[0].close()
