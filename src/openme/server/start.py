"""Start-up and end of the server: what needs privileges comes first, then the two processes part."""

import errno
import fcntl
import logging
import os
import pwd
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openme.config.model import ServerConfig
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.firewall.base import Firewall
from openme.firewall.choose import open_firewall
from openme.keeper.epochs import Epochs
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.rules import rules_for
from openme.keeper.store import Store, beside, has_lived
from openme.listener.listener import Listener
from openme.server import control
from openme.server.addresses import OwnAddresses
from openme.server.channel import channel
from openme.server.config_watch import ConfigWatch, say_warnings
from openme.server.earlier_sessions import track_earlier_sessions
from openme.server.epoch_keys import open_epochs
from openme.server.interfaces import known_interfaces
from openme.server.keeper_process import HEARD, Ending, KeeperProcess, Parts, Trial, adopted_grants, read_clocks
from openme.server.listener_process import ListenerProcess
from openme.server.privileges import (
    become,
    die_with_parent,
    has_net_admin,
    keep_net_admin_alone,
    keep_secrets_in_memory,
    listener_account,
    refuse_writable,
)
from openme.server.sandbox import confine_guardian, confine_keeper, confine_listener
from openme.server.sockets import bind_health, bind_knock
from openme.server.state_file import DEFAULT_STATE_FILE, RUN_DIR, make_run_dir
from openme.server.stored import REFUSES_CHANGES, prepare_memory, say_memory

LOCK_NAME = "lock"
FIREWALL_LOCK = b"\0openme-firewall"
_GRACE = 3.0  # seconds that a child gets to end by itself

_log = logging.getLogger("openme.server")


@contextmanager
def state_lock(state_dir: Path) -> Iterator[bool]:
    """Make `state_dir` (0700) if it is missing and hold it: one server at a time. OpenmeError if it is taken.

    Whether nothing in it shows that a server has run on it before.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not has_lived(state_dir)
        descriptor = _open_lock(state_dir)
    except OSError as error:
        raise OpenmeError(
            f"state_dir {state_dir}: {error.strerror}", "run it as root, or name another state_dir in the config"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OpenmeError(
                f"another server is running on {state_dir}", "stop it first, or give this one a state_dir of its own"
            ) from None
        yield is_new
    finally:
        os.close(descriptor)


def _open_lock(state_dir: Path) -> int:
    flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(state_dir / LOCK_NAME, os.O_RDWR | flags, 0o600)
    except OSError as error:
        # A disk that takes no changes must keep nobody out: what there is can be locked, or one in the run directory.
        if error.errno not in REFUSES_CHANGES:
            raise
    try:
        return os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(beside(RUN_DIR, LOCK_NAME, state_dir), os.O_RDWR | flags, 0o600)


@contextmanager
def firewall_lock(firewall: str) -> Iterator[None]:
    """One server per network namespace: two would take the one table from each other for ever.

    The lock is an abstract socket, which belongs to the namespace, leaves no file and is gone however its holder ends.
    Anybody may take the name, so a holder of less right than ours is passed over.
    """
    if firewall == "memory":
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as held:
        try:
            held.bind(FIREWALL_LOCK)
            held.listen(socket.SOMAXCONN)  # whoever asks stays in the queue: nobody ever answers
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _lock_holder() in {0, os.geteuid()}:
                raise OpenmeError(
                    "another server is running on this machine's firewall",
                    "stop it first; one server can hide all ports and serve all clients",
                ) from None
        yield


def _lock_holder() -> int | None:
    """The user who holds the firewall's lock, as the kernel saw it; None: nobody who listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(0)
        try:
            asking.connect(FIREWALL_LOCK)
        except OSError:
            return None
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])


def _check_mode(state_dir: Path) -> None:
    status = state_dir.stat()
    if status.st_uid not in {0, os.geteuid()}:
        raise OpenmeError(f"state_dir {state_dir} belongs to another user", f"sudo chown -R root: {state_dir}")
    if status.st_mode & 0o077:
        try:
            state_dir.chmod(0o700)
        except OSError:
            raise OpenmeError(f"state_dir {state_dir} is open to others", f"chmod 700 {state_dir}") from None


def need_privilege(config: ServerConfig) -> None:
    """OpenmeError unless this process may change the firewall that the config names."""
    if config.firewall != "memory" and not has_net_admin():
        raise OpenmeError(
            "changing the firewall needs root (CAP_NET_ADMIN)",
            "run it as root: sudo openme serve; or set 'firewall: memory' for a dry run",
        )


def serve(config_path: Path, *, interface: str | None, state_file: str | None, trial: float | None = None) -> int:
    """Run the server until it is told to stop. 0 after SIGTERM or SIGINT, 1 when it ended by itself.

    `state_file`: who is in is written there; empty for nowhere, None for the usual place, which a dry run leaves alone.

    `trial`: hide the ports whatever the config says, and undo it after so many seconds unless a client has knocked.
    OpenmeError, and nothing left behind, when it cannot start.
    """
    overrides: dict[str, Any] = {} if interface is None else {"interface": interface}
    if trial is not None:
        overrides["drop_ports"] = True
    watch = ConfigWatch(config_path, overrides, tighten=os.geteuid() == 0)
    config = watch.config
    need_privilege(config)
    say_warnings(config)
    if config.interface is not None and config.interface not in known_interfaces():
        known = ", ".join(known_interfaces())
        _log.warning("interface %s is not there (%s are): waiting for it by name", config.interface, known)
    with ExitStack() as stack:
        sessions = _state_path(state_file, config)
        prepared = _prepare(stack, config_path, config, sessions)
        on_trial = None
        if trial is not None:
            on_trial = Trial(trial, (lambda: None) if config.firewall == "memory" else _start_trial_guard(stack))
        for warning in prepared.give_up():
            _log.warning("%s", warning)
        return _keep(prepared, watch, sessions, on_trial)


def _state_path(given: str | None, config: ServerConfig) -> Path | None:
    if given is None:
        return None if config.firewall == "memory" else DEFAULT_STATE_FILE
    return Path(given) if given else None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What was made while this process still had its privileges."""

    listener: socket.socket
    end_listener: Callable[[], None]
    control: socket.socket
    store: Store
    firewall: Firewall
    own_addresses: OwnAddresses
    epochs: Epochs | None
    systemd: socket.socket | None
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]

    def give_up(self) -> list[str]:
        """Keep CAP_NET_ADMIN, the files of the config, state and run directory, and nothing else."""
        keep_net_admin_alone()
        return confine_keeper(self.readable, self.writable)


def _prepare(stack: ExitStack, config_path: Path, config: ServerConfig, state_file: Path | None) -> _Prepared:
    """Everything that needs privileges or files, in one place and before they go; the listener parts from us here.

    What a later process or kernel filter needs is made here too. All modules are imported by now: afterwards neither
    process can read the installation.
    """
    account = None
    if os.geteuid() == 0:
        account, warning = listener_account(config.run_as)
        if warning:
            _log.warning("%s", warning)
    firewall = open_firewall(config.firewall)  # whose absence must leave no files behind
    make_run_dir()
    is_new = stack.enter_context(state_lock(config.state_dir))
    _check_mode(config.state_dir)
    if account is not None:
        refuse_writable(account, (config_path.resolve(), config.state_dir))
    prepare_memory(config, is_new=is_new)
    knock = stack.enter_context(bind_knock(config.udp_port))
    health = stack.enter_context(bind_health(config.health_port))
    stack.enter_context(firewall_lock(config.firewall))
    listener_end, keeper_end = channel()
    stack.enter_context(keeper_end)
    keep_secrets_in_memory()
    with listener_end:
        child = _start_listener(account, listener_end, knock, health)
    _start_guardian(stack, account, child)
    end_listener = partial(_end_listener, child, keeper_end)
    stack.callback(end_listener)
    # From here on this process holds no descriptor that a stranger's bytes come through.
    knock.close()
    health.close()

    store = Store(config.state_dir, RUN_DIR)
    stack.callback(store.close)
    control_socket = stack.enter_context(control.listen(config.state_dir))
    stack.callback(control.remove, config.state_dir)
    writable = [config.state_dir]
    for directory in {RUN_DIR, *([] if state_file is None else [state_file.parent])}:
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
        if directory.is_dir():
            writable.append(directory)
    return _Prepared(
        listener=keeper_end,
        end_listener=end_listener,
        control=control_socket,
        store=store,
        firewall=firewall,
        own_addresses=OwnAddresses(),
        epochs=open_epochs(config, store, read_clocks()) if "v2" in config.protocols else None,
        systemd=_systemd(stack),
        # An edit replaces the file, so it is the directory that must stay readable; of a link both ends.
        readable=tuple({config_path.absolute().parent, config_path.resolve().parent}),
        writable=tuple(writable),
    )


def _start_listener(
    account: pwd.struct_passwd | None, keeper: socket.socket, knock: socket.socket, health: socket.socket
) -> int:
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _ignore_endings()
        _close_input_and_output()
        _close_all_but({2, keeper.fileno(), knock.fileno(), health.fileno()})
        become(account)
        keep_secrets_in_memory()  # once more: a change of user makes a process dumpable again
        die_with_parent()
        for warning in confine_listener():
            _log.warning("%s", warning)
        ListenerProcess(Listener(), knock, health, keeper).run()
        status = 0
    except OpenmeError as error:
        _log.error("listener: %s", error.message)  # one line for the operator
    except Exception:  # noqa: BLE001  # the child must not run on into its parent's code
        _log.exception("listener: a mistake of openme's own")
    finally:
        os._exit(status)


def _close_input_and_output() -> None:
    """Nothing of the operator's terminal or pipes but stderr; the numbers stay taken, so that no stranger gets them."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _start_guardian(stack: ExitStack, account: pwd.struct_passwd | None, listener: int) -> None:
    """A process of the listener's user that ends the listener when we are gone, however we went.

    An honest listener ends by itself when the channel does. One that hangs, or that somebody has taken over, would keep
    the knock port and so the next server from starting; and we, without the right to signal another user's process,
    could not end it, nor could the kernel in our name (prctl(2), PR_SET_PDEATHSIG, asks for the parent's rights).
    """

    def watch(lifeline: int) -> None:
        watched = os.pidfd_open(listener)
        _close_input_and_output()
        _close_all_but({2, lifeline, watched})
        become(account)
        keep_secrets_in_memory()
        confine_guardian()
        # Readable when the listener has ended, or when nobody holds the other end of the pipe any more.
        select.select([lifeline, watched], [], [])
        signal.pidfd_send_signal(watched, signal.SIGKILL)

    _fork_with_lifeline(stack, watch)


def _fork_with_lifeline(stack: ExitStack, run: Callable[[int], None]) -> int:
    """Fork a process that runs `run(lifeline)` and ends; the descriptor to write to it by.

    `lifeline` is the reading end of a pipe: at its end when nobody holds the other one, which is ours, any more. When
    the stack closes, so does ours, and the process is waited for.
    """
    lifeline, ours = os.pipe()
    child = os.fork()
    if child:
        os.close(lifeline)
        stack.callback(_wait_for, child)
        stack.callback(os.close, ours)
        return ours
    try:
        _ignore_endings()
        run(lifeline)
    finally:
        os._exit(0)


def _ignore_endings() -> None:
    """A terminal's Ctrl-C reaches all processes; the keeper ends the others when it has closed the firewall."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _close_all_but(kept: set[int]) -> None:
    low = 3
    for number in sorted(n for n in kept if n >= low):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _end_listener(child: int, keeper_end: socket.socket) -> None:
    """Let the listener see that nobody holds the channel any more, and wait; nothing is done a second time."""
    keeper_end.close()
    # What hangs is for the guardian to end: we have given up the right to signal another user's process.
    _wait_for(child)


def _wait_for(child: int) -> None:
    """Wait for the end of a child that has been told, for some seconds: one that is stopped must not keep us."""
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.005)


def _start_trial_guard(stack: ExitStack) -> Callable[[], None]:
    """A process that takes the rules away when we are gone, however we went, before the returned function was called.

    Whoever tries openme on a machine far away must get back in although it was killed. It holds a pipe that nobody
    writes to and its right to change the firewall, and reads nothing else.
    """

    def watch(lifeline: int) -> None:
        os.setpgid(0, 0)  # what ends its parent's group is to find it alive
        _close_input_and_output()
        _close_all_but({2, lifeline})
        keep_secrets_in_memory()
        if os.read(lifeline, 1) == b"":
            open_firewall("nft").stop()

    ours = _fork_with_lifeline(stack, watch)

    def passed() -> None:
        os.write(ours, b"1")

    return passed


def _keep(prepared: _Prepared, watch: ConfigWatch, state_file: Path | None, trial: Trial | None) -> int:
    config = watch.config
    store = prepared.store
    replay = store.load(round(config.replay_window * 10**9), read_clocks().unix_ns)
    say_memory(store, replay, read_clocks())
    journal = Journal()
    keeper = Keeper(config, replay, journal, prepared.own_addresses)
    keeper.epochs = prepared.epochs
    seen = sorted(store.seen().items(), key=lambda item: item[1].at)
    keeper.remember_sources((knock.source, client_key) for client_key, knock in seen)
    # From the first rule on, a request to stop waits until the process can follow it and take the rules away again.
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    _take_over(prepared.firewall, keeper, store)
    try:
        process = KeeperProcess(
            Parts(
                keeper=keeper,
                store=store,
                firewall=prepared.firewall,
                watch=watch,
                journal=journal,
                listener=prepared.listener,
                control=prepared.control,
                state_file=state_file,
                trial=trial,
            )
        )
        ending = process.run(lambda: _say_ready(config, prepared.systemd, trial))
    except BaseException:
        # The table stays: what was hidden stays hidden, open doors close on time, the next start takes it over.
        _log.error("ending; the ports stay hidden until the server is started again")
        raise
    if ending is Ending.LISTENER_GONE:
        undone = process.is_on_trial
        _log.error(
            "ending; %s", "it is undone" if undone else "the ports stay hidden until the server is started again"
        )
        return 1
    # First whoever listens, then what hides it: the health port is at no moment there for everybody.
    prepared.end_listener()
    prepared.firewall.stop()
    if state_file is not None:
        with suppress(OSError):
            state_file.unlink()
    _log.info("stopped; the firewall is as it was before")
    return 1 if ending is Ending.TRIAL_OVER else 0


def _take_over(firewall: Firewall, keeper: Keeper, store: Store) -> None:
    firewall.start(rules_for(keeper.config))
    if keeper.config.firewall != "memory":
        track_earlier_sessions(keeper.config.managed_ports)
    now = read_clocks()
    doors = firewall.doors()
    if not doors:
        return
    grants, strays = adopted_grants(doors, store.holders(), keeper.config, now)
    keeper.adopt(grants)
    for grant in grants:
        _log.info("%s: still open for %s from before this start", grant.client_name, grant.address)
    if strays:
        firewall.close((door.port_list, door.address) for door in strays)
        _log.info("closed %d doors from before this start that nobody may hold any more", len(strays))


def clean_up() -> None:
    """Remove what a dead server left in the kernel's firewall, whatever the config says now, or if there is none.

    OpenmeError if a server is running on this firewall.
    """
    if not has_net_admin():
        raise OpenmeError("changing the firewall needs root (CAP_NET_ADMIN)", "sudo openme serve --clean-up")
    with firewall_lock("nft"):
        open_firewall("nft").stop()


def _say_ready(config: ServerConfig, systemd: socket.socket | None, trial: Trial | None) -> None:
    if trial is not None:
        duration = format_duration(trial.seconds)
        _log.info("the ports are hidden; unless a client knocks within %s, this is undone", duration)
    _log.info("serving: knock port %d/udp, %d clients", config.udp_port, len(config.clients))
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
