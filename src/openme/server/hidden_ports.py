"""The set of hidden ports, `hidden_ports` in `state_dir`: what was hidden once stays hidden until the operator says so.

Whatever an edit, a new name of a group, a fault or a revocation does to the config: a port that a server has hidden and
that nobody names any more is hidden all the same, until `openme unhide PORT` or `drop_ports: false`
(docs/decisions/0007-hidden-ports.md).

The file is text, a port or range a line in the order of `ports.merged`, and at the end `check` with the first 16 hex
digits of SHA-256 over the lines before:

    22/tcp
    8080-8090/tcp
    check f34529521616b31d

Of a damaged file whatever lines can be read still count. openme's own health port is not in the set: it is hidden
because openme listens there, and when it moves, the old number is of no meaning. Another program's is.
"""

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from pathlib import Path

from openme.config.faults import ConfigError
from openme.config.locked import replace_file
from openme.config.model import ServerConfig
from openme.errors import OpenmeError
from openme.files import sync_directory
from openme.ports import PortRange, common, merged, parse_port_spec, port, without

FILE_NAME = "hidden_ports"
MAX_BYTES = 4 * 2**20  # 65,535 single ports of two protocols take 1.4 MB
_MOST_NAMES = 5
RETRY = 5.0  # seconds between two times of putting the file there as it should be

_log = logging.getLogger("openme.server")


class DamagedHiddenPortsError(OpenmeError):
    """A file that is not whole: its `content`, and the `ports` that can be read of it."""

    def __init__(self, path: Path, content: bytes, ports: tuple[PortRange, ...]) -> None:
        super().__init__(
            f"{path}: damaged: a port that was hidden and is named by nobody may show",
            "list under hide: in the config what is to be hidden",
        )
        self.content = content
        self.ports = ports


def read_hidden_ports(state_dir: Path) -> tuple[PortRange, ...] | None:
    """The set in `state_dir`, merged; None if there is no such file. DamagedHiddenPortsError; OpenmeError."""
    path = state_dir / FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}", "run it as root: sudo openme …") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OpenmeError(f"{path}: not a file", "remove it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    ports, whole = parse_hidden_ports(content)
    if not whole:
        raise DamagedHiddenPortsError(path, content, ports)
    return ports


def parse_hidden_ports(content: bytes) -> tuple[tuple[PortRange, ...], bool]:
    """The ports of all lines that can be read, merged, and whether the file is whole. Never raises."""
    listed, _, check = content.rpartition(b"check ")
    whole = len(content) <= MAX_BYTES and check == _check(listed) + b"\n"
    ports: list[PortRange] = []
    for line in content.decode("ascii", "replace").splitlines():
        with suppress(ValueError):
            ports += parse_port_spec(line)
    return merged(ports), whole


def render_hidden_ports(ports: Iterable[PortRange]) -> bytes:
    """The content of the file."""
    listed = "".join(f"{item}\n" for item in merged(ports)).encode("ascii")
    return listed + b"check " + _check(listed) + b"\n"


def _check(listed: bytes) -> bytes:
    return hashlib.sha256(listed).hexdigest()[:16].encode("ascii")


def write_hidden_ports(state_dir: Path, ports: Iterable[PortRange]) -> None:
    """Put the set in the place of the file, in one step and on the disk, 0600; of an empty one there is no file.

    OpenmeError if the disk refuses.
    """
    path = state_dir / FILE_NAME
    if ports := merged(ports):
        replace_file(path, render_hidden_ports(ports), None, path)
        return
    try:
        path.unlink(missing_ok=True)
        sync_directory(state_dir)
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}") from None


def unnamed(config: ServerConfig, kept: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """What is hidden under this config though no group or client names it: of the kept set and of `hide:`."""
    if not config.drop_ports:
        return ()
    return without((*kept, *config.hide), (*config.named_ports, port("tcp", config.health_port)))


def refuse_named(config: ServerConfig, ports: Iterable[PortRange]) -> None:
    """OpenmeError, with who names it, if one of these ports is hidden because it is named."""
    ports = tuple(ports)
    if common(ports, [port("tcp", config.health_port)]):
        raise OpenmeError(f"{config.health_port}/tcp is the health port, which is hidden as long as it is that")
    named = common(ports, config.named_ports)
    if not named:
        return
    what = ", ".join(map(str, named))
    who = namers(config, ports)
    raise OpenmeError(f"{what} is still named by {who}", "take it out there first: nothing was changed")


def namers(config: ServerConfig, ports: Iterable[PortRange]) -> str:
    """Which groups and clients name one of these ports, which somebody names: the first few."""
    ports = tuple(ports)
    groups = [f"group {name}" for name, ranges in config.groups.items() if common(ports, ranges)]
    clients = [f"client {name}" for name, client in config.clients.items() if common(ports, client.ports)]
    return ", ".join([*groups, *clients][:_MOST_NAMES]) or "a client that is disabled"


def kept_ports(config: ServerConfig) -> tuple[tuple[PortRange, ...], str | None]:
    """For commands: the set as it stands in `state_dir`, as far as it can be read, and what is wrong with it."""
    try:
        return read_hidden_ports(config.state_dir) or (), None
    except DamagedHiddenPortsError as error:
        return error.ports, error.message
    except OpenmeError as error:
        return (), error.message


def write_kept_without(state_dir: Path, ports: Iterable[PortRange]) -> None:
    """Take ports out of the set where no server runs; the caller holds the lock. OpenmeError if the disk refuses."""
    try:
        kept = read_hidden_ports(state_dir) or ()
    except DamagedHiddenPortsError as error:
        kept = error.ports
    if (left := without(kept, ports)) != kept:
        write_hidden_ports(state_dir, left)


def _is_there(path: Path) -> bool:
    """Whether the file is there; False also where nobody lets us look."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


class HiddenPorts:
    """The set as the server holds it: in memory, and on the disk as far as the disk lets it.

    Without a `state_dir` it is in memory alone.
    """

    def __init__(self, state_dir: Path | None = None, *, confirmed: bool = True) -> None:
        """Read the set. `confirmed` False: a trial, which writes nothing that is new until `confirm`."""
        self._state_dir = state_dir
        self._confirmed = confirmed
        self.ports: tuple[PortRange, ...] = ()
        """What is kept hidden, merged."""
        self._on_disk: tuple[PortRange, ...] | None = ()  # None: whatever is there is to be replaced
        self._failing = False
        self._next_try = float("-inf")
        self._said: tuple[PortRange, ...] = ()
        if state_dir is not None:
            self._read(state_dir)
        self.is_first = state_dir is not None and self.ports == () == self._on_disk
        """Whether no server has ever hidden anything on this `state_dir`."""
        self._before: tuple[PortRange, ...] = self.ports  # what a trial that has not passed leaves in the file

    def _read(self, state_dir: Path) -> None:
        try:
            self.ports = self._on_disk = read_hidden_ports(state_dir) or ()
        except DamagedHiddenPortsError as error:
            self.ports, self._on_disk = error.ports, None
            found = ", ".join(map(str, error.ports)) or "nothing"
            _log.error("%s; what can be read of it stays hidden: %s", error.message, found)
            kept = state_dir / f"{FILE_NAME}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            with suppress(ConfigError):
                replace_file(kept, error.content, None, kept)
                _log.error("a copy of it is kept as %s", kept)
        except OpenmeError as error:
            self._on_disk = None
            _log.error("the set of hidden ports cannot be read: %s", error.message)  # one line for the operator

    def note(self, config: ServerConfig) -> None:
        """Keep what this config names, before it is hidden: from then on no edit shows it."""
        if config.drop_ports:
            others = () if config.health_port_is_ours else (port("tcp", config.health_port),)
            self._keep(merged((*self.ports, *config.named_ports, *config.hide, *others)))

    def took(self, config: ServerConfig) -> None:
        """The firewall has taken the rules of this config. One that hides nothing empties the set."""
        if not config.drop_ports:
            if self.ports:
                shown = ", ".join(map(str, self.ports))
                _log.warning("drop_ports is false: %s not hidden any more, and forgotten", shown)
            self._keep(())
        self._say(config)

    def take_back(self, ports: tuple[PortRange, ...]) -> None:
        """The firewall has refused what was noted: `ports` is the set from before."""
        self._keep(ports)

    def remove(self, ports: Iterable[PortRange]) -> None:
        """Keep these no longer. OpenmeError, and they are still kept, if the disk refuses."""
        ports = tuple(ports)
        self._before = without(self._before, ports)
        left = without(self.ports, ports)
        on_disk = left if self._confirmed else self._before
        if self._state_dir is not None and on_disk != self._on_disk:
            self._on_disk = None  # after a failure nobody knows
            write_hidden_ports(self._state_dir, on_disk)
            self._on_disk = on_disk
        self.ports = left

    def confirm(self) -> None:
        """The trial has passed: what it hides is kept from now on."""
        self._confirmed = True
        self._keep(self.ports)

    def tick(self, now: float) -> None:
        """Write again where the disk has refused, and where the file has gone. `now` in monotonic seconds."""
        if self._state_dir is None or not self._confirmed:
            return
        if self.ports and not _is_there(self._state_dir / FILE_NAME):
            self._on_disk = None
        if now >= self.next_at:
            self._next_try = now + RETRY
            self._keep(self.ports)

    @property
    def next_at(self) -> float:
        """When `tick` has something to write, in monotonic seconds: long ago if at once, `inf` if nothing is known of.

        That the file has gone is seen at a tick.
        """
        is_kept = self._state_dir is None or not self._confirmed or self.ports == self._on_disk
        return inf if is_kept else self._next_try

    def _say(self, config: ServerConfig) -> None:
        now = unnamed(config, self.ports)
        if now and now != self._said:
            listed = ", ".join(map(str, now))
            _log.warning("hidden, but no longer in the config: %s (openme unhide PORT shows one)", listed)
        self._said = now

    def _keep(self, ports: tuple[PortRange, ...]) -> None:
        self.ports = ports
        if self._state_dir is None or not self._confirmed or ports == self._on_disk:
            return
        self._on_disk = None  # after a failure nobody knows
        try:
            write_hidden_ports(self._state_dir, ports)
        except OpenmeError as error:
            if not self._failing:
                _log.error(
                    "the set of hidden ports cannot be kept (%s): a restart shows what the config no longer names",
                    error.message,
                )
            self._failing = True
            return
        if self._failing:
            _log.info("the set of hidden ports is on the disk again")
        self._failing = False
        self._on_disk = ports
