"""Start-up and end of the server: what needs privileges comes first, then the two processes part."""

import fcntl
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openme.clocks import read_clocks
from openme.config.model import ServerConfig
from openme.config.who_can_knock import CURE, hides_without_clients, nobody_can_knock
from openme.control import place, serving
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.firewall import registry
from openme.firewall.base import Firewall, FirewallError
from openme.interrupts import check, held_back, ignore
from openme.keeper import revoked_keys
from openme.keeper.epochs import Epochs
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.rules import rules_for
from openme.kernel_filter.filter import KernelFilter
from openme.listener.listener import Listener
from openme.ports import merged
from openme.processes.children import (
    ListenerAndGuardian,
    close_all_but,
    detach,
    fork_with_lifeline,
    wait_for,
)
from openme.processes.listener_process import ListenerProcess
from openme.processes.listener_reports import Reports, how_it_ended, last_words, tell, worded
from openme.processes.own_user import user_for
from openme.processes.privileges import (
    User,
    has,
    has_net_admin,
    keep_secrets_in_memory,
    take_on,
)
from openme.processes.roles import CAP_KILL, KEEPER, LISTENER, TRIAL_GUARD
from openme.processes.sandbox import confine, find_landlock
from openme.run_dir import RUN_DIR
from openme.seam.channel import FRAME_SIZES, ChannelClosedError, channel, received
from openme.seam.messages import REPORT_SIZE, NoLandlock, Ready
from openme.server import hidden_ports
from openme.server.addresses import OwnAddresses
from openme.server.clock_steps import ClockSteps
from openme.server.config_watch import ConfigWatch, say_warnings
from openme.server.earlier_sessions import track_earlier_sessions
from openme.server.epoch_keys import open_epochs
from openme.server.file_changes import FileChanges
from openme.server.firewall_lock import firewall_lock
from openme.server.first_start import FirstStart
from openme.server.garbage import set_aside
from openme.server.health_port import own_health_port
from openme.server.health_port import worded as health_words
from openme.server.hidden_ports import HiddenPorts
from openme.server.interfaces import watch_interfaces
from openme.server.keeper_process import KeeperProcess, Parts
from openme.server.knock_filter import filtered
from openme.server.leftovers import LeftoverRules, refuse_beside_existing_server, remove_leftovers
from openme.server.loop import Ending
from openme.server.preflight import NEEDS_NET_ADMIN, before_start
from openme.server.saved_rules import saved_rule_warnings
from openme.server.sockets import bind_knock
from openme.server.state_dir import is_open_to_others, unusable
from openme.server.state_file import DEFAULT_STATE_FILE, make_run_dir
from openme.server.stored import REFUSES_CHANGES, prepare_memory, say_memory
from openme.server.takeover import take_over
from openme.server.trial import Trial
from openme.store.places import beside, has_lived
from openme.store.sqlite import SqliteStore

_LAST_WORDS = 10_000  # messages of a listener that has ended among which we look for its last words
_GLANCE = 0.2  # seconds
_STARTING = 30.0  # seconds that the listener has to confine itself, which takes some hundredths of one

_log = logging.getLogger("openme.server")


@contextmanager
def state_lock(state_dir: Path) -> Iterator[bool]:
    """Make `state_dir` (0700) if it is missing and hold it: one server at a time. OpenmeError if it is taken.

    Whether nothing in it shows that a server has run on it before.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before the first file of ours is made there: a start that is refused must not look like a server's life.
        _close_to_others(state_dir)
        is_new = not has_lived(state_dir)
        descriptor = _open_lock(state_dir)
    except OSError as error:
        raise unusable(state_dir, error.strerror or "it cannot be used") from None
    try:
        try:
            _lock(descriptor)
        except BlockingIOError:
            raise OpenmeError(
                f"another server is running on {state_dir}", "stop it first, or give this one a state_dir of its own"
            ) from None
        yield is_new
    finally:
        os.close(descriptor)


def _close_to_others(state_dir: Path) -> None:
    if is_open_to_others(state_dir):
        try:
            state_dir.chmod(0o700)
        except OSError:
            raise OpenmeError(f"state_dir {state_dir} is open to others", f"chmod 700 {state_dir}") from None


def _lock(descriptor: int) -> None:
    """Take the lock; BlockingIOError if another server has it. A command that looks at it holds it for microseconds."""
    deadline = time.monotonic() + _GLANCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _open_lock(state_dir: Path) -> int:
    flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(state_dir / place.LOCK_NAME, os.O_RDWR | flags, 0o600)
    except OSError as error:
        # A disk that takes no changes must keep nobody out: what there is can be locked, or one in the run directory.
        if error.errno not in REFUSES_CHANGES:
            raise
    try:
        return os.open(state_dir / place.LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(beside(RUN_DIR, place.LOCK_NAME, state_dir), os.O_RDWR | flags, 0o600)


def serve(
    config_path: Path, *, interface: str | None, state_file: str | None, trial: float | None = None, alone: bool = False
) -> int:
    """Run the server until it is told to stop. 0 after SIGTERM or SIGINT, 1 when it ended by itself.

    `state_file`: who is in is written there; empty for nowhere, None for the usual place, which a dry run leaves alone.

    `trial`: hide the ports whatever the config says, and undo it after so many seconds unless a client has knocked.
    `alone`: also where no client could knock.

    OpenmeError, and nothing left behind, when it cannot start. Asked to end while it starts, it undoes what it has made
    and ends by that signal; from the first rule on it goes on until it serves, and stops then.
    """
    overrides: dict[str, Any] = {} if interface is None else {"interface": interface}
    if trial is not None:
        overrides["drop_ports"] = True
    watch = ConfigWatch(config_path, overrides, tighten=os.geteuid() == 0)
    config = watch.config
    if trial is not None and not alone and (why := nobody_can_knock(config, datetime.now(UTC))) is not None:
        raise OpenmeError(f"nobody could end this trial: {why}", f"{CURE}; or say --yes to see it time out")
    found = before_start(config, config_path)
    if found.refusals:
        raise found.refusals[0]
    say_warnings(config)
    for warning in found.warnings:
        _log.warning("%s", warning)
    with held_back(), ExitStack() as stack:
        leftovers = LeftoverRules(config.firewall)
        stack.callback(leftovers.close)
        leftovers.say()
        for line in saved_rule_warnings(config.firewall):
            _log.warning("%s", line)
        sessions = _state_path(state_file, config)
        check()
        prepared = _prepare(stack, config_path, config, sessions)
        watch.keep_copy()
        on_trial = None
        if trial is not None:
            guarded = registry.kind_of(config.firewall).abilities.stays
            passed = _start_trial_guard(stack, config.firewall, prepared.epochs) if guarded else lambda: None
            on_trial = Trial(trial, passed)
        hidden = HiddenPorts(config.state_dir, confirmed=trial is None)
        for warning in prepared.give_up():
            _log.warning("%s", warning)
        status = _keep(prepared, watch, hidden, sessions, on_trial)
        leftovers.say()
        return status


def _state_path(given: str | None, config: ServerConfig) -> Path | None:
    if given is None:
        return DEFAULT_STATE_FILE if registry.kind_of(config.firewall).abilities.lets_in else None
    return Path(given) if given else None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What was made while this process still had its privileges."""

    listener: socket.socket
    children: ListenerAndGuardian
    control: socket.socket
    firewall_lock: socket.socket | None
    store: SqliteStore
    firewall: Firewall
    own_addresses: OwnAddresses
    epochs: Epochs | None
    listens: bool
    no_filter: str | None
    systemd: socket.socket | None
    files: FileChanges
    clock_steps: ClockSteps
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    no_landlock: str | None

    def give_up(self) -> list[str]:
        """Keep CAP_NET_ADMIN, the files of the config, state and run directory, and nothing else."""
        take_on(KEEPER)
        return [
            worded(shortfall, self.no_landlock if isinstance(shortfall, NoLandlock) else None)
            for shortfall in confine(KEEPER, self.readable, self.writable)
        ]


def _prepare(stack: ExitStack, config_path: Path, config: ServerConfig, state_file: Path | None) -> _Prepared:
    """Everything that needs privileges or files, in one place and before they go; the listener parts from us here.

    What a later process or kernel filter needs is made here too. All modules are imported by now: afterwards neither
    process can read the installation.
    """
    firewall = registry.kind_of(config.firewall).open()  # whose absence must leave no files behind
    make_run_dir()
    is_new = stack.enter_context(state_lock(config.state_dir))
    prepare_memory(config, is_new=is_new)  # first of all: whatever fails later, the next start is not the first one
    user, _ = user_for(stack, config.run_as, (config_path.resolve(), config.state_dir))
    knock = stack.enter_context(bind_knock(config.udp_port))
    kernel_filter, no_filter = filtered(knock)
    if no_filter is not None:
        _log.warning("%s", no_filter)
    health, why_not = own_health_port(config)
    if health is not None:
        stack.enter_context(health)
    if why_not is not None:
        _log.warning("%s", health_words(config, why_not))
    lock = stack.enter_context(firewall_lock(registry.kind_of(config.firewall).abilities.lock))
    keep_secrets_in_memory()
    no_landlock = find_landlock()
    set_aside()
    children, keeper_end = _start_processes(stack, user, knock, health, kernel_filter)
    # From here on this process holds no descriptor that a stranger's bytes come through.
    knock.close()
    if health is not None:
        health.close()

    store = SqliteStore(config.state_dir, RUN_DIR)
    stack.callback(store.close)
    control_socket = stack.enter_context(serving.listen(config.state_dir))
    stack.callback(serving.remove, config.state_dir)
    writable = [config.state_dir]
    for directory in {RUN_DIR, *([] if state_file is None else [state_file.parent])}:
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
        if directory.is_dir():
            writable.append(directory)
    return _Prepared(
        listener=keeper_end,
        children=children,
        control=control_socket,
        firewall_lock=lock,
        store=store,
        firewall=firewall,
        own_addresses=OwnAddresses(),
        epochs=open_epochs(config, store, read_clocks()) if config.has_epochs else None,
        listens=health is not None,
        no_filter=no_filter,
        systemd=_systemd(stack),
        files=stack.enter_context(closing(FileChanges(_followed(config_path, config.state_dir)))),
        clock_steps=stack.enter_context(closing(ClockSteps())),
        # An edit replaces the file, so it is the directory that must stay readable; of a link both ends.
        readable=tuple({config_path.absolute().parent, config_path.resolve().parent}),
        writable=tuple(writable),
        no_landlock=no_landlock,
    )


def _followed(config_path: Path, state_dir: Path) -> tuple[Path, ...]:
    """The files that others change, and the keeper follows."""
    names = (revoked_keys.FILE_NAME, revoked_keys.COPY_NAME, hidden_ports.FILE_NAME)
    return (config_path, *(state_dir / name for name in names))


def _start_processes(
    stack: ExitStack,
    user: User | None,
    knock: socket.socket,
    health: socket.socket | None,
    kernel_filter: KernelFilter | None,
) -> tuple[ListenerAndGuardian, socket.socket]:
    """The listener and its guardian, and the keeper's end of the channel."""
    listener_end, keeper_end = channel()
    stack.enter_context(keeper_end)
    with listener_end:
        child = _start_listener(user, listener_end, knock, health, kernel_filter)
    if kernel_filter is not None:
        kernel_filter.close()
    children = ListenerAndGuardian(child, keeper_end.close)
    stack.callback(_end_processes, children)
    above_listener = user is not None and has(CAP_KILL)
    children.start_guardian(None if above_listener else user)
    return children, keeper_end


def _start_listener(
    user: User | None,
    keeper: socket.socket,
    knock: socket.socket,
    health: socket.socket | None,
    kernel_filter: KernelFilter | None,
) -> int:
    sys.stderr.flush()
    with held_back():
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            ignore()
            detach({kept.fileno() for kept in (keeper, knock, health) if kept is not None})
            take_on(LISTENER, user)
            process = ListenerProcess(Listener(kernel_filter), knock, health, keeper, kernel_filter)
            tell(keeper, [*confine(LISTENER), Ready()])
            process.run()
            status = 0
        except BaseException as error:  # noqa: BLE001  # the child must not run on into its parent's code
            tell(keeper, [last_words(error)])
        finally:
            os._exit(status)


def _end_processes(children: ListenerAndGuardian) -> None:
    if not children.end():
        _log.error("the listener does not end and keeps the knock port: kill -9 %d", children.listener)


def _start_trial_guard(stack: ExitStack, firewall: str, epochs: Epochs | None) -> Callable[[], None]:
    """A process that takes the rules away when we are gone, however we went, before the returned function was called.

    Whoever tries openme on a machine far away must get back in although it was killed. It holds a pipe that nobody
    writes to and its right to change the firewall, and reads nothing else. The key in `epochs` it forgets: it may live
    on when that has been erased in its parent.
    """

    def watch(lifeline: int) -> None:
        if epochs is not None:
            epochs.forget()
        os.setpgid(0, 0)  # what ends its parent's group is to find it alive
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        close_all_but({0, 1, 2, lifeline})
        take_on(TRIAL_GUARD)
        if os.read(lifeline, 1) == b"":
            registry.clean_up(firewall)

    child, ours = fork_with_lifeline(watch)
    stack.callback(wait_for, child)
    stack.callback(os.close, ours)

    def passed() -> None:
        with suppress(BrokenPipeError):  # somebody has ended it: nobody would undo anything, as is wanted from now on
            os.write(ours, b"1")

    return passed


def _keep(
    prepared: _Prepared, watch: ConfigWatch, hidden: HiddenPorts, state_file: Path | None, trial: Trial | None
) -> int:
    config = watch.config.with_health_port(listens=prepared.listens)
    store = prepared.store
    store.load(round(config.replay_window * 10**9), read_clocks().unix_ns)
    say_memory(store, read_clocks())
    journal = Journal()
    reports = Reports(prepared.children.guardian, no_filter=prepared.no_filter)
    keeper = Keeper(config, prepared.own_addresses)
    keeper.epochs = prepared.epochs
    keeper.revoked_with = watch.revoked_with
    seen = sorted(store.seen().items(), key=lambda item: item[1].at)
    keeper.remember_sources((knock.source, client_key) for client_key, knock in seen)
    _await_listener(prepared, reports)
    interfaces = watch_interfaces()
    if interfaces is not None:
        interfaces.look(config.interface, read_clocks().monotonic)
    check()  # for the last time: from the first rule on a request to stop waits until the process can follow it
    first = FirstStart(prepared.firewall, hidden, lambda: reports.is_serving)
    _start_firewall(prepared.firewall, config, hidden, () if interfaces is None else interfaces.indexes)
    try:
        take_over(prepared.firewall, keeper, store, read_clocks())
        process = KeeperProcess(
            Parts(
                keeper=keeper,
                store=store,
                firewall=prepared.firewall,
                watch=watch,
                journal=journal,
                listener=prepared.listener,
                control=prepared.control,
                firewall_lock=prepared.firewall_lock,
                state_file=state_file,
                trial=trial,
                reports=reports,
                hidden=hidden,
                interfaces=interfaces,
                files=prepared.files,
                clock_steps=prepared.clock_steps,
            )
        )
        ending = _run(process, lambda: _say_ready(config, prepared.systemd, trial))
    except BaseException:
        if first.undo():
            _end_processes(prepared.children)
            raise
        # The table stays: what was hidden stays hidden, open doors close on time, the next start takes it over.
        _log.error("ending; the ports stay hidden until the server is started again")
        raise
    if ending is Ending.LISTENER_GONE:
        _hear_last_words(prepared.listener, reports)
        if (status := prepared.children.status(0.5)) is not None:
            _log.error("the listener %s", how_it_ended(status))
        undone = process.is_on_trial or first.undo()
        _log.error(
            "ending; %s", "it is undone" if undone else "the ports stay hidden until the server is started again"
        )
        return 1
    # First whoever listens, then what hides it: the health port is at no moment there for everybody.
    _end_processes(prepared.children)
    prepared.firewall.stop()
    if state_file is not None:
        with suppress(OSError):
            state_file.unlink()
    _log.info("stopped; the firewall is as it was before")
    return 1 if ending is Ending.TRIAL_OVER else 0


def _run(process: KeeperProcess, ready: Callable[[], None]) -> Ending:
    try:
        return process.run(ready)
    finally:
        ignore()  # a second one must change neither what is undone now nor the exit code


def _await_listener(prepared: _Prepared, reports: Reports) -> None:
    """OpenmeError, and no rule is made, if the listener does not come to wait for its keys: nobody could knock."""
    deadline = time.monotonic() + _STARTING
    arrivals = select.poll()
    arrivals.register(prepared.listener, select.POLLIN)
    try:
        while not reports.is_ready and (left := deadline - time.monotonic()) > 0:
            check()
            arrivals.poll(min(left, _GLANCE) * 1000)
            for message in received(prepared.listener, (REPORT_SIZE,), 1):
                reports.on_report_untrusted(message, time.monotonic())
    except ChannelClosedError:
        raise OpenmeError(f"the listener {how_it_ended(prepared.children.status(_STARTING))}") from None
    if not reports.is_ready:
        raise OpenmeError(f"the listener has not begun within {_STARTING:g} s")


def _hear_last_words(listener: socket.socket, reports: Reports) -> None:
    """What the listener has said since we read last: why it ended, perhaps. Its knocks come too late."""
    with suppress(ChannelClosedError, OSError):
        for message in received(listener, FRAME_SIZES, _LAST_WORDS):
            if len(message) == REPORT_SIZE:
                reports.on_report_untrusted(message, time.monotonic())


def _start_firewall(firewall: Firewall, config: ServerConfig, hidden: HiddenPorts, indexes: Iterable[int]) -> None:
    """Put the rules in force. FirewallError, and the set of hidden ports is as it was before, if they are refused."""
    kept = hidden.ports
    hidden.note(config)
    rules = rules_for(config, hidden.ports, indexes)
    try:
        firewall.start(rules)
    except FirewallError:
        hidden.take_back(kept)
        raise
    hidden.took(config)
    if registry.kind_of(config.firewall).abilities.tracks_connections:
        track_earlier_sessions(merged((*config.managed_ports, *rules.hidden)))


def clean_up() -> tuple[list[str], list[str]]:
    """Remove what a dead server left in the kernel's firewall, whatever the config says now, or if there is none.

    An existing server's rules too: returns what of those was removed, and what was left in doubt, as lines.
    OpenmeError, and nothing is removed, if a server is running on this firewall.
    """
    if not has_net_admin():
        raise OpenmeError(NEEDS_NET_ADMIN, "sudo openme serve --clean-up")
    refuse_beside_existing_server()
    kinds = registry.those_that_stay()
    with ExitStack() as stack:
        for scope in {kind.abilities.lock for kind in kinds}:
            stack.enter_context(firewall_lock(scope))
        for kind in kinds:
            registry.clean_up(kind.name)
        return remove_leftovers()


def _say_ready(config: ServerConfig, systemd: socket.socket | None, trial: Trial | None) -> None:
    if trial is not None:
        duration = format_duration(trial.seconds)
        _log.info("the ports are hidden; unless a client knocks within %s, this is undone", duration)
    _log.info("serving: knock port %d/udp, %d clients", config.udp_port, len(config.clients))
    if (warning := hides_without_clients(config, datetime.now(UTC))) is not None:
        _log.error("%s", warning)
    if systemd is not None:
        with suppress(OSError):
            systemd.send(b"READY=1")


def _systemd(stack: ExitStack) -> socket.socket | None:
    """The socket on which systemd waits to hear that the ports are hidden (sd_notify(3)), where it does."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    try:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        return None
    return notify
