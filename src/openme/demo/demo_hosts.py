"""Hosts for the demo: shells in network and process namespaces of their own, joined by cables.

Nothing has a name on this machine: a host is one bash, and with it everything that it started goes, its network too.
Should the demo itself be killed, each bash finds its input at an end and goes by itself.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from openme.errors import OpenmeError
from openme.interrupts import ENDINGS, Interrupted, ignore, is_ignored

_COMMAND_SECONDS = 30.0
_ENDING_SECONDS = 1.0  # that `unshare` has to end by itself, which takes some hundredths of one
_MARK = "demo-host-is-done"
_CURES = {
    "Operation not permitted": "run it as root of the machine itself, or give the container CAP_SYS_ADMIN and a"
    " security profile (seccomp, AppArmor) that allows unshare",
    "No space left on device": "allow more namespaces: sysctl user.max_net_namespaces user.max_pid_namespaces"
    " user.max_mnt_namespaces shows the limits",
    "Invalid argument": "boot a kernel with network and process namespaces (CONFIG_NET_NS, CONFIG_PID_NS)",
}


class Interruptions:
    """Ctrl-C, SIGTERM and SIGHUP end the demo with one exception, and never between making a thing and noting it.

    The first one counts: while things are taken down, further ones are ignored.
    """

    def __init__(self) -> None:
        self._held = False
        self._came: int | None = None

    def catch(self) -> None:
        """From now on."""
        for number in ENDINGS:
            if not is_ignored(number):
                signal.signal(number, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is made in here is noted before an interruption comes through."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def check(self) -> None:
        """Interrupted if one has come, also one whose exception got lost."""
        if self._came is not None:
            raise Interrupted(self._came)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._came is None:
            self._came = number
        if not self._held:
            ignore()
            self.check()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command printed, both streams together, and its exit code."""

    output: str
    code: int


class _HasEndedError(Exception):
    """A host's output is at its end."""


class Host:
    """A shell that stands for a machine. Commands run one after the other and share variables and descriptors."""

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        # A session of its own: the terminal's Ctrl-C is for the demo, which then ends its hosts in order.
        self._process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        """A process of this machine in the host's network namespace, once a command has run in it."""
        return self._process.pid

    def run(self, command: str, *, show: bool = True) -> Outcome:
        """Run a line of shell to its end, shown as it is typed and with its output as it comes.

        OpenmeError if the host ends, or the command takes too long.
        """
        if show:
            print(f"{self.name} $ {command}", flush=True)
        lines: list[str] = []
        deadline = time.monotonic() + _COMMAND_SECONDS
        try:
            assert self._process.stdin is not None  # noqa: S101  # it is a pipe
            self._process.stdin.write(f"{{ {command}\n}} </dev/null; echo {_MARK} $?\n".encode())
            self._process.stdin.flush()
            while not (line := self._line(deadline, command)).startswith(_MARK):
                lines.append(line)
                if show:
                    print(line, flush=True)
        except _HasEndedError:
            raise self._ended(lines) from None
        except BrokenPipeError:
            if self._process.poll() is None and not self._has_hung_up():
                raise  # it was our own reader who left
            raise self._ended(lines) from None
        return Outcome("\n".join(lines), int(line.split()[1]))

    def _line(self, deadline: float, command: str) -> str:
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise OpenmeError(f"{self.name}: no end of '{command}' after {_COMMAND_SECONDS:.0f} s")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise _HasEndedError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")

    def end(self) -> None:
        """Kill everything that runs on this host and wait until it is gone."""
        pid = self._process.pid
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()  # a shell that is still to come finds its input at an end
        # The shell is process 1 of its namespace: with it the kernel kills all the others, then `unshare` ends.
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
                os.kill(int(child), signal.SIGKILL)
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _has_hung_up(self) -> bool:
        """Whether our end of its output is all that is left of it."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def _ended(self, lines: list[str]) -> OpenmeError:
        """What to say of a host that has ended: what the program said that was to make it, and the cure for that."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        with suppress(OSError):
            while data := os.read(self._process.stdout.fileno(), 65536):
                self._rest += data
        said = "; ".join([*lines, *self._rest.decode(errors="replace").split("\n")]).strip("; ")
        return OpenmeError(f"the demo's host {self.name} has ended{': ' + said if said else ''}", _cure(said))


def _cure(said: str) -> str:
    """What helps when `unshare` said this: the words for the errors of unshare(2)."""
    for words, cure in _CURES.items():
        if words in said:
            return cure
    return "it needs root, network namespaces and process namespaces"


@dataclass(frozen=True, slots=True)
class Cable:
    """Two ends: host, device, address."""

    near: tuple[Host, str, str]
    far: tuple[Host, str, str]


def connect(cable: Cable) -> None:
    """Lay the cable inside the two hosts' namespaces; this machine never sees a device of it."""
    (near, near_device, near_address), (far, far_device, far_address) = cable.near, cable.far
    link = ["link", "add", near_device, "type", "veth", "peer", "name", far_device, "netns", str(far.pid)]
    _inside(near, *link)
    for host, device, own, peer in (
        (near, near_device, near_address, far_address),
        (far, far_device, far_address, near_address),
    ):
        _inside(host, "address", "add", own, "peer", peer, "dev", device)
        _inside(host, "link", "set", device, "up")


def _inside(host: Host, *words: str) -> None:
    command = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpenmeError(
            f"ip {' '.join(words)}: {done.stderr.strip()}", "the kernel needs network namespaces and veth"
        )
