"""The keeper's shell: frames in, doors out; the only process that touches the firewall and the disk."""

import json
import logging
import secrets
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openme.config.model import ServerConfig
from openme.config.section import nearest
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.firewall.base import Door, Firewall, FirewallError
from openme.keeper.epochs import Epochs
from openme.keeper.grants import Change, DoorKey, Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Judgement, Keeper, Now, Stranger
from openme.keeper.policy import client_lists
from openme.keeper.ratchet_file import write_ratchet
from openme.keeper.rules import rules_for
from openme.keeper.store import Accepted, Holder, Store
from openme.keys.erasing import wipe
from openme.server import control
from openme.server.channel import FRAME_SIZES, ChannelClosedError, Outbox, received
from openme.server.config_watch import ConfigWatch
from openme.server.epoch_keys import erase_before, open_epochs, write_new
from openme.server.state_file import sessions_value, write_state_file
from openme.server.stored import moment, stored_value
from openme.wire import v2
from openme.wire.frame import KEY_SIZE, Order, OrderKind, accepted, known_source

if TYPE_CHECKING:
    from openme.wire.knock import IPAddress

_BATCH = 256  # frames that share one sync of the disk and one firewall transaction
_MAX_STRANGERS = 256  # that wait for their client to be searched for
_STRANGERS_PATIENCE = 3.0  # seconds after which one who still waits has knocked again or gone
_STRANGERS_SHARE = 0.01  # seconds for them before the people we know get their turn again
_REPAIR_INTERVAL = 0.4  # seconds between two repairs of the firewall
_STATE_INTERVAL = 0.2  # seconds; a thousand people who knock at once must not mean a thousand files
_BUSY_LISTENER = 0.01  # seconds until orders are offered again to a listener that would not take them
_ERASING_INTERVAL = 60.0  # seconds between two tries to erase an epoch's key from a disk that refuses
_MAX_RECEIPTS = 256  # of one client and address that are remembered, to be forgotten when the opening ends early
_TICK = 0.5  # seconds between two looks at expiry and config, so that what ends is closed within a second

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_log = logging.getLogger("openme.keeper")


def read_clocks() -> Now:
    """Both clocks as they stand."""
    return Now(time.time_ns(), time.monotonic())


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
    trial: Trial | None = None


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
        self._journal = parts.journal
        self._listener = parts.listener
        self._outbox = Outbox(parts.listener)
        self._receipts: dict[tuple[bytes, IPAddress], list[bytes]] = {}
        self._control = parts.control
        self._state_file = parts.state_file
        self._clocks = clocks
        self._rules = rules_for(parts.keeper.config)
        self._seen = {key: (seen.name, seen.at) for key, seen in parts.store.seen().items()}
        self._selector = selectors.DefaultSelector()
        self._strangers: deque[tuple[float, Stranger]] = deque()
        self._searched: Stranger | None = None
        self._stop: Ending | None = None
        self._trial = parts.trial
        self._trial_until = None if parts.trial is None else clocks().monotonic + parts.trial.seconds
        self._disk_fault: str | None = None
        self._state_file_fault = False
        self._state_changed = False
        self._ruleset_changed = False
        self._given: dict[int, bytes] = {}
        self._next_erasing = float("-inf")
        self._next_repair = float("-inf")
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
            signal.signal(number, self._on_stop)
        # The config is looked at twice a second anyway; this only wakes us.
        signal.signal(signal.SIGHUP, lambda *_: _log.info("asked to look at the config"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        self._selector.register(wake_reader, selectors.EVENT_READ, lambda: wake_reader.recv(64))
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_frames)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        if self._firewall.changes is not None:
            self._selector.register(self._firewall.changes, selectors.EVENT_READ, self._on_ruleset_change)
        self._give_v1_keys()
        self._follow_epochs(self._clocks())
        self._outbox.put([Order(OrderKind.SERVE)])
        self._write_state()
        ready()
        try:
            while self._stop is None:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._outbox.flush()
                self._serve_strangers()
                self._tick()
        except ChannelClosedError as error:
            _log.error("the listener is gone (%s)", error)  # the operator needs the fact, not a trace
            return Ending.LISTENER_GONE
        finally:
            signal.set_wakeup_fd(previous)
        return self._stop

    @property
    def is_on_trial(self) -> bool:
        """Whether nobody has knocked yet who would end the trial."""
        return self._trial_until is not None

    def _timeout(self) -> float:
        if self._strangers or self._searched:
            return 0
        return _BUSY_LISTENER if self._outbox else _TICK

    def _on_stop(self, *_: object) -> None:
        self._stop = Ending.ASKED

    def _tick(self) -> None:
        now = self._clocks()
        self._repair(now)
        self._follow_config(now)
        self._follow_epochs(now)
        self._tell_sources()
        over = self._keeper.grants.expire(now.monotonic)
        for grant in over:
            self._receipts.pop((grant.client_key, grant.address), None)
            self._journal.closed(grant, "its time is over")
        early = self._keeper.overdue(now)
        if early:
            self._end(early, now)
        if over or early:
            self._state_changed = True
        if self._state_changed and now.monotonic - self._state_written >= _STATE_INTERVAL:
            self._state_written = now.monotonic
            self._state_changed = False
            self._write_state()
        self._journal.report(now.monotonic)
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
            _log.warning("openme's rules were removed from the firewall: putting them back")
            self._firewall.apply(self._rules, self._doors_to_restore(now).values())
        except FirewallError as error:
            _log.error("the rules could not be put back: %s", error.message)  # one line for the operator
            self._ruleset_changed = True

    def _doors_to_restore(self, now: Now) -> dict[DoorKey, Door]:
        return self._keeper.grants.lasting_doors_of(self._keeper.grants, now.monotonic)

    # -- knocks

    def _on_frames(self) -> None:
        frames = list(received(self._listener, FRAME_SIZES, _BATCH))
        if not frames:
            return
        now = self._clocks()
        self._follow_config(now)
        self._follow_epochs(now)
        judgements = []
        for frame in frames:
            outcome = self._keeper.recognise_untrusted(frame, now)
            if frame[0] == v2.VERSION:
                wipe(frame)  # it holds the key to one knock
            if isinstance(outcome, Judgement):
                judgements.append(outcome)
            else:
                self._queue(outcome)
        self._finish(judgements, now)

    def _queue(self, stranger: Stranger) -> None:
        """Let a stranger wait. When too many do, one drawn by lot goes, so that nobody can fill the queue for long."""
        if len(self._strangers) >= _MAX_STRANGERS:
            del self._strangers[secrets.randbelow(_MAX_STRANGERS)]
            self._journal.counts.add("busy")
        self._strangers.append((time.monotonic(), stranger))

    def _serve_strangers(self) -> None:
        """Search for the clients of those who wait, for a bounded time: the people we know come first."""
        until = time.monotonic() + _STRANGERS_SHARE
        now = self._clocks()
        judgements = []
        while (stranger := self._searched or self._next_stranger()) is not None:
            self._searched = stranger
            found = self._keeper.search(stranger, now, lambda: time.monotonic() < until)
            if found is None:
                break
            self._searched = None
            judgements.append(found)
        self._finish(judgements, now)

    def _next_stranger(self) -> Stranger | None:
        """Whoever came last, so that after a flood nobody waits behind it; who waits too long has gone by now."""
        oldest_that_counts = time.monotonic() - _STRANGERS_PATIENCE
        while self._strangers and self._strangers[0][0] < oldest_that_counts:
            self._strangers.popleft()
            self._journal.counts.add("busy")
        return self._strangers.pop()[1] if self._strangers else None

    def _finish(self, judgements: list[Judgement], now: Now) -> None:
        """What follows from judgements: the disk, the doors, the listener, the journal."""
        if not judgements:
            return
        # The nonces are durable before a door opens: a crash in between costs an honest client one knock.
        self._store.commit([known for j in judgements if (known := self._for_the_disk(j, now)) is not None])
        self._say_disk()
        granted = [j.grant for j in judgements if j.grant is not None]
        opened = self._open(granted, now) if granted else set()
        for judgement in judgements:
            self._tell_verdict(judgement, now, opened=id(judgement.grant) in opened)
        for judgement in judgements:
            if judgement.grant is not None and judgement.source is not None and id(judgement.grant) in opened:
                grant = judgement.grant
                self._journal.accepted(grant, judgement.source, grant.deadline - now.monotonic)
                self._seen[grant.client_key] = (grant.client_name, now.unix)
                self._pass_trial(grant.client_name)
        if granted:
            self._state_changed = True

    def _for_the_disk(self, judgement: Judgement, now: Now) -> Accepted | None:
        if judgement.remembered is None or judgement.client is None:
            return None
        grant = judgement.grant
        holder = None
        if grant is not None:
            holder = Holder(
                grant.client_key, grant.address, grant.client_name, grant.ports, grant.opened_at, grant.expires_at
            )
        renewed_to = self._keeper.renewed_to(judgement)
        return Accepted(judgement.remembered, judgement.client.name, now.unix, holder, renewed_to)

    def _tell_verdict(self, judgement: Judgement, now: Now, *, opened: bool) -> None:
        """Tell the listener, who makes the receipt now that the firewall has answered. Version 1 has none."""
        grant = judgement.grant
        if judgement.tag is None or grant is None or not opened:
            kind = OrderKind.ACCEPTED if opened else OrderKind.REFUSED
            self._outbox.put([Order(kind, key=judgement.tag or bytes(KEY_SIZE))])
            return
        text = self._keeper.receipt_for(judgement, now) or b""
        self._outbox.put(accepted(judgement.tag, round(grant.deadline * 10**9), text))
        tags = self._receipts.setdefault((grant.client_key, grant.address), [])
        tags.append(judgement.tag)
        del tags[:-_MAX_RECEIPTS]

    def _forget_receipts(self, grant: Grant) -> None:
        tags = self._receipts.pop((grant.client_key, grant.address), [])
        self._outbox.put([Order(OrderKind.FORGET_RECEIPT, key=tag) for tag in tags])

    def _open(self, grants: list[Grant], now: Now) -> set[int]:
        """Open the doors of these grants in one transaction; which of them (by `id`) are open now."""
        earlier = [self._keeper.grants.add(grant) for grant in grants]
        doors = self._keeper.grants.doors_of(grants, now.monotonic)
        try:
            self._apply(Change(open=tuple(doors.values())))
        except FirewallError as error:
            _log.error("a good knock opened nothing: %s", error.message)  # one line for the operator
            for grant, before in zip(reversed(grants), reversed(earlier), strict=True):
                self._keeper.grants.take_back(grant, before)
            return set()
        return {id(grant) for grant in grants}

    def _pass_trial(self, name: str) -> None:
        if self._trial is not None and self._trial_until is not None:
            self._trial_until = None
            self._trial.passed()
            _log.info("%s has knocked: the ports stay hidden until this server is stopped", name)

    # -- config

    def _follow_config(self, now: Now) -> None:
        config = self._watch.refresh()
        if config is not None:
            self._use(config, now)
            _log.info("config in force: %d clients", len(config.clients))

    def _use(self, config: ServerConfig, now: Now) -> None:
        """Put a changed config in force: for the next knock, for open doors, in the firewall and in the listener."""
        config = self._keep_what_needs_a_restart(config)
        if ("v2" in config.protocols) != (self._keeper.epochs is not None):
            self._switch_v2(config, now)
        outcome = self._keeper.reconfigure(config, now)
        for grant, why in outcome.ended:
            self._forget_receipts(grant)
            self._journal.closed(grant, why)
        before, self._rules = self._rules, outcome.rules
        try:
            if outcome.rules != before:
                self._firewall.apply(outcome.rules, outcome.change.open)
                self._apply(Change(close=outcome.change.close))
            else:
                self._apply(outcome.change)
        except FirewallError as error:
            # One line for the operator; the doors that should have closed do so when their time is over.
            _log.error("the changed config is not in the firewall: %s", error.message)
        self._give_v1_keys()
        self._state_changed = True

    def _keep_what_needs_a_restart(self, config: ServerConfig) -> ServerConfig:
        current = self._keeper.config
        fixed = ("udp_port", "health_port", "firewall", "state_dir", "run_as", "epoch_length")
        for name in fixed:
            if getattr(config, name) != getattr(current, name):
                _log.warning("%s has changed: this takes effect when the server is restarted", name)
        return replace(config, **{name: getattr(current, name) for name in fixed})

    # -- keys

    def _give_v1_keys(self) -> None:
        """Make the listener hold the version 1 keys that the config names, while it accepts that version."""
        config = self._keeper.config
        keys = (config.private_key, config.previous_private_key) if "v1" in config.protocols else ()
        wanted = {number: key.raw for number, key in enumerate(keys) if key is not None}
        if wanted == self._given:
            return
        for number in self._given.keys() - wanted.keys():
            self._outbox.put([Order(OrderKind.FORGET_V1_KEY, number)])
        self._outbox.put([Order(OrderKind.USE_V1_KEY, number, key) for number, key in wanted.items()])
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

    def _save_ratchet(self, now: Now) -> dict[str, Any]:
        """See that the ratchet file is there: somebody may have removed it, or there was none yet."""
        epochs, config = self._keeper.epochs, self._keeper.config
        try:
            if epochs is not None:
                write_ratchet(config.state_dir, epochs.ratchet)
                return {"made": False}
            opened = open_epochs(config, self._store, now)
        except OpenmeError as error:
            return {"error": error.message}
        except OSError as error:
            return {"error": f"the epoch keys cannot be written: {error.strerror}"}
        if opened is None:
            return {"error": "the epoch keys cannot be written"}
        self._use_epochs(opened, now)
        return {"made": True}

    def _new_ratchet(self, length: object, now: Now) -> dict[str, Any]:
        """Begin a new ratchet, on the operator's word: every version 2 client file is of no use from now on."""
        config = self._keeper.config
        if length not in {None, config.epoch_length}:
            running = format_duration(config.epoch_length)
            return {"error": f"the running server was started with epoch_length {running}: stop it first, then rotate"}
        try:
            ratchet = write_new(config, now.unix_ns)
        except OpenmeError as error:
            return {"error": error.message}
        self._store.note_ratchet(ratchet.index, ratchet.public_key(ratchet.index))
        self._store.forget_renewals()
        _log.warning("there is a new ratchet: version 2 clients need new files")
        self._use_epochs(Epochs(ratchet, config.replay_window, config.epoch_horizon), now)
        return {}

    def _use_epochs(self, epochs: Epochs, now: Now) -> None:
        """Put these in the place of those in force; where version 2 is off, the file is read when it is switched on."""
        self._drop_epochs()
        if "v2" not in self._keeper.config.protocols:
            epochs.ratchet.forget()
            return
        self._keeper.epochs = epochs
        self._follow_epochs(now)

    def _drop_epochs(self) -> None:
        """Forget the epochs in force, here and in the listener; the file is left as it is."""
        if (epochs := self._keeper.epochs) is not None:
            self._outbox.put([Order(OrderKind.FORGET_EPOCH_KEY, index) for index in epochs.live])
            epochs.ratchet.forget()
            self._keeper.epochs = None

    def _follow_epochs(self, now: Now) -> None:
        """Give the listener the keys of live epochs, take the others away, and erase what evidence allows."""
        epochs = self._keeper.epochs
        if epochs is None:
            return
        change = epochs.look(now.unix_ns, now.monotonic)
        self._outbox.put([Order(OrderKind.FORGET_EPOCH_KEY, index) for index in change.ended])
        for index in change.begun:
            self._outbox.put([Order(OrderKind.USE_EPOCH_KEY, index, epochs.ratchet.private_key(index))])
        first = epochs.first_to_keep(now.monotonic)
        if first is None or now.monotonic < self._next_erasing:
            return
        self._outbox.put([Order(OrderKind.FORGET_EPOCH_KEY, index) for index in epochs.live if index < first])
        if not erase_before(first, epochs, self._keeper.config.state_dir, self._store):
            self._next_erasing = now.monotonic + _ERASING_INTERVAL

    def _tell_sources(self) -> None:
        """Name the addresses that clients knock from to the listener, which then does not make them wait."""
        sources = self._keeper.new_sources
        while sources:
            self._outbox.put([known_source(sources.popleft())])

    # -- ending grants

    def _end(self, ended: list[tuple[Grant, str]], now: Now) -> None:
        change = self._keeper.grants.remove([grant for grant, _ in ended], now.monotonic)
        for grant, why in ended:
            self._forget_receipts(grant)
            self._journal.closed(grant, why)
        try:
            self._apply(change)
        except FirewallError as error:
            _log.error("doors could not be closed early: %s", error.message)  # one line for the operator

    def _apply(self, change: Change) -> None:
        """Make the firewall's doors agree with the grants; FirewallError if it cannot be made to."""
        try:
            self._apply_once(change)
        except FirewallError as error:
            # Most likely somebody has flushed the host's ruleset. Put ours back, then try once more.
            _log.warning("the firewall refused (%s): putting the rules in force again", error.message)
            doors = self._doors_to_restore(self._clocks())
            self._firewall.apply(self._rules, [door for key, door in doors.items() if key not in change.close])
            self._apply_once(change)

    def _apply_once(self, change: Change) -> None:
        if change.close:
            self._firewall.close(change.close)
        if change.open:
            self._firewall.open(change.open)

    # -- the control socket

    def _on_control(self) -> None:
        with suppress(OSError):
            peer, _ = self._control.accept()
            if not control.is_allowed(peer):
                peer.close()
                return
            self._selector.register(peer, selectors.EVENT_READ, lambda: self._on_request(peer))

    def _on_request(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        with peer, suppress(OSError):
            peer.setblocking(False)  # noqa: FBT003  # the standard library's signature
            raw = peer.recv(control.MAX_REQUEST)
            if raw:
                peer.settimeout(1.0)
                try:
                    answer = self._answer(raw)
                except FirewallError as error:
                    answer = {"error": error.message}
                peer.sendall(json.dumps(answer).encode())

    def _answer(self, raw: bytes) -> dict[str, Any]:
        try:
            request = json.loads(raw)
            command = request["command"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": "the server did not understand the request"}
        self._tick()
        now = self._clocks()
        if command == "sessions":
            return self._sessions(now)
        name = str(request.get("name"))
        if command == "reload":
            return {"fault": self._watch.fault, "reading": self._watch.is_reading}
        if command == "revoke":
            return self._revoke(name, now, cut=bool(request.get("cut")))
        if command == "close":
            return self._close(name, now, cut=bool(request.get("cut")))
        if command == "reset":
            return self._reset_all(now) if request.get("all") else self._reset(name, now)
        if command == "stored":
            return stored_value(self._store)
        if command == "ratchet":
            return self._save_ratchet(now)
        if command == "new_ratchet":
            return self._new_ratchet(request.get("epoch_length"), now)
        return {"error": "the server is of another version than this command: restart it"}

    def _revoke(self, name: str, now: Now, *, cut: bool) -> dict[str, Any]:
        """The client is out of the file; end what it has, also while that file is still being read."""
        if (config := self._watch.revoke(name)) is not None:
            self._use(config, now)
        outcome: dict[str, Any] = {"fault": self._watch.fault}
        if cut:
            outcome["cut"] = self._cut(name)
        return outcome

    def _close(self, name: str, now: Now, *, cut: bool) -> dict[str, Any]:
        grants = self._keeper.grants_of(name)
        self._end([(grant, "closed by the operator") for grant in grants], now)
        self._write_state()
        outcome: dict[str, Any] = {
            "closed": [str(grant.address) for grant in grants],
            "known": name in self._keeper.config.clients,
            "near": nearest(name, self._keeper.config.clients),
        }
        if cut:
            outcome["cut"] = self._cut(name)
        return outcome

    def _reset(self, name: str, now: Now) -> dict[str, Any]:
        client = self._keeper.config.clients.get(name)
        if client is None:
            return {"known": False, "near": nearest(name, self._keeper.config.clients)}
        done = self._keeper.reset(client.public_key.raw, now)
        if done is None:
            return {"known": True, "was_ahead": False}
        try:
            self._store.reset([done], None)
        except OpenmeError as error:
            return {"error": f"{name} is let in until the next start, then say it again: {error.message}"}
        _log.info("%s: its time begins anew, on the operator's word", name)
        return {"known": True, "was_ahead": True, "shut": [[moment(first), moment(last)] for first, last in done.shut]}

    def _reset_all(self, now: Now) -> dict[str, Any]:
        """Begin everybody's time anew; where the memory was lost it is the operator's word that the clock is right."""
        before_ns = self._keeper.floor_ns
        done = self._keeper.reset_all(now)
        floor_ns = self._keeper.floor_ns
        try:
            self._store.reset(done, floor_ns)
        except OpenmeError as error:
            return {"error": f"this holds until the next start, then say it again: {error.message}"}
        _log.warning("everybody's time begins anew, on the operator's word")
        moved = floor_ns is not None and floor_ns != before_ns
        return {
            "clients": len(done),
            "from": moment(floor_ns) if floor_ns is not None and floor_ns > now.unix_ns else None,
            "lost_until": moment(before_ns) if moved and before_ns is not None else None,
        }

    def _cut(self, name: str) -> int:
        """End the connections of every address that this client has opened lately, also of doors closed long since."""
        count = 0
        for holder in self._store.holders():
            if holder.client_name == name and holder.ports:
                count += self._firewall.cut(holder.address, holder.ports)
        _log.info("%s: cut %d connections", name, count)
        return count

    # -- what others see

    def _sessions(self, now: Now) -> dict[str, Any]:
        names = {client.public_key.raw: name for name, client in self._keeper.config.clients.items()}
        last_seen = {names[key]: at for key, (_, at) in self._seen.items() if key in names}
        return sessions_value(self._keeper.grants, last_seen, now.unix)

    def _write_state(self) -> None:
        if self._state_file is None:
            return
        try:
            write_state_file(self._state_file, self._sessions(self._clocks()))
            self._state_file_fault = False
        except OSError as error:
            if not self._state_file_fault:
                _log.warning("%s: cannot be written: %s", self._state_file, error.strerror)
            self._state_file_fault = True

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
            )
        )
    return grants, [d for d in doors if id(d) not in held]
