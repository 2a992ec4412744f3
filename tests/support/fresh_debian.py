"""A freshly installed Debian with systemd, and a terminal in it as its administrator has one.

    with ExitStack() as stack:
        server = FreshDebian(stack, "bookworm", "server", folder)
        with server.installing() as terminal:                # the internet, and no firewall to change
            terminal.type("sudo apt-get install -y nftables")
        server.boot()                                        # its own network, as `server.network` connects it
        server.terminal().type("sudo nft list ruleset")

What is written stays in a layer over the tree that tools/debian-tree keeps, and goes with the stack. The administrator
is called admin and has sudo without a password. Needs root.
"""

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from support.guest_image import CHECKOUT
from support.netns import namespace, until

ADMIN = "admin"
_PACKAGES = (
    "systemd-sysv,dbus,libpam-systemd,sudo,openssh-server,openssh-client,iproute2,iputils-ping,ca-certificates,procps"
)
_READY = re.compile(r"<ready (\d+)>")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07")


class Terminal:
    """A shell on a terminal. What it shows is in `seen` too, for a transcript."""

    def __init__(self, command: list[str]) -> None:
        """`command` starts bash, with `--noprofile --norc -i`."""
        self._master, slave = pty.openpty()
        quiet = termios.tcgetattr(slave)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, quiet)
        termios.tcsetwinsize(slave, (50, 200))
        self._process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""
        self._unread = ""
        self._send("stty -echo; PS1='<ready $?>'; PS2=; cd\n")
        self._wait(_READY, 60)
        while self._read(0.2):
            pass
        self._unread = ""

    def type(self, line: str, seconds: float = 120, answers: tuple[tuple[str, str], ...] = ()) -> tuple[int, str]:
        """Type a command; its exit code and what it showed. `answers`: what to type when a pattern shows, in order."""
        self.start(line)
        shown = ""
        for pattern, words in answers:
            shown += self._wait(re.compile(pattern), seconds)[0]
            self._send(words)
        text, ready = self._wait(_READY, seconds)
        return int(ready.group(1)), shown + text

    def start(self, line: str) -> None:
        """Type a command and leave it running."""
        self.seen += f"$ {line}\n"
        self._send(line + "\n")

    def shows(self, pattern: str, seconds: float = 60) -> str:
        """What shows until a pattern does, which is in it; AssertionError when it does not in time."""
        return self._wait(re.compile(pattern), seconds)[0]

    def interrupt(self, seconds: float = 30) -> tuple[int, str]:
        """Ctrl-C: the exit code and what was shown after it."""
        self._send("\x03")
        text, ready = self._wait(_READY, seconds)
        return int(ready.group(1)), text

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def _send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _wait(self, pattern: re.Pattern[str], seconds: float) -> tuple[str, re.Match[str]]:
        deadline = time.monotonic() + seconds
        while (found := pattern.search(self._unread)) is None:
            assert time.monotonic() < deadline, f"{pattern.pattern!r} not shown in {seconds} s:\n{self._unread}"
            self._read(0.5)
        shown = self._unread[: found.end()]
        self._unread = self._unread[found.end() :]
        shown = _READY.sub("", shown)
        self.seen += shown
        return shown, found

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the shell has gone
            raise AssertionError(f"the terminal was closed:\n{self._unread}") from None
        self._unread += _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
        return True


class FreshDebian:
    """One installation. `network` is its own, connected to nothing yet."""

    def __init__(self, stack: ExitStack, suite: str, name: str, folder: Path, devices: Sequence[str] = ()) -> None:
        """`folder`: for what it writes; on a file system that can be a layer (not on another overlay). `devices`: of
        this machine's that it has too.
        """
        self._devices = [f"--bind={device}" for device in devices]
        tree = f"fresh-{suite}"
        subprocess.run([CHECKOUT / "tools/debian-tree", tree, suite, _PACKAGES], check=True)
        self.name = name
        self._stack = stack
        self._leader = 0
        self.network = namespace(stack)
        upper, work, self.root = (folder / part for part in ("upper", "work", "root"))
        for part in (upper, work, self.root):
            part.mkdir(parents=True)
        layers = f"lowerdir={CHECKOUT / '.cache' / tree},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", self.root], check=True)
        stack.callback(lambda: subprocess.run(["umount", "--lazy", self.root], check=True))
        self._settle()

    def _settle(self) -> None:
        """What an installer asks: a name, an administrator."""
        self.write("etc/hostname", f"{self.name}\n")
        self.write("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")
        self.write("etc/sudoers.d/admin", f"{ADMIN} ALL=(ALL) NOPASSWD: ALL\n")
        subprocess.run(["chroot", self.root, "useradd", "--create-home", "--shell", "/bin/bash", ADMIN], check=True)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file there, root's."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    @contextmanager
    def installing(self, *read_only: tuple[Path, str]) -> Iterator[Terminal]:
        """A terminal before the first boot: with this machine's network, of which nspawn lets it change nothing.

        `read_only`: what of this machine it sees, and where.
        """
        binds = [f"--bind-ro={here}:{there}" for here, there in read_only]
        command = ["systemd-nspawn", "--quiet", *_UNREGISTERED, f"--directory={self.root}", f"--hostname={self.name}"]
        terminal = Terminal([*command, *binds, "--as-pid2", "--resolv-conf=copy-host", f"--user={ADMIN}", *_BASH])
        try:
            yield terminal
        finally:
            terminal.close()

    def boot(self) -> None:
        """Start it, and wait until systemd says that it runs."""
        log = (self.root.parent / "boot.log").open("w")
        self._stack.callback(log.close)
        process = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", *_UNREGISTERED, f"--directory={self.root}", f"--hostname={self.name}"),
                *self._devices,
                "--boot",
                f"--network-namespace-path=/run/netns/{self.network.name}",
                # Over a network namespace of its own, and for the kernel filter: what root has on a real host.
                *("--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF", "--system-call-filter=bpf"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        self._leader = until(lambda: _child(process.pid), 30)
        until(lambda: self._root_says("systemctl", "is-system-running") in {"running", "degraded"}, 120)

    def terminal(self) -> Terminal:
        """A terminal of the administrator's on the running system, until the stack closes."""
        terminal = Terminal([*self._inside, "setpriv", *_AS_ADMIN, *_BASH])
        self._stack.callback(terminal.close)
        return terminal

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._leader), "--all", "--wd=/"]

    def _root_says(self, *command: str) -> str:
        done = subprocess.run([*self._inside, *command], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip()


# Where systemd is not the first process there is nobody to register with.
_UNREGISTERED = ("--register=no",) if Path("/run/systemd/system").exists() else ("--register=no", "--keep-unit")
_BASH = ("bash", "--noprofile", "--norc", "--noediting", "-i")
# Nobody in there may set this machine's clock, whose rights whoever enters would have.
_AS_ADMIN = (f"--reuid={ADMIN}", f"--regid={ADMIN}", "--init-groups", "--reset-env", "--bounding-set=-sys_time")


def _child(pid: int) -> int:
    """The first process in there; 0 as long as there is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        raise AssertionError("systemd-nspawn has ended") from None
    for child in map(int, children):
        with suppress(OSError):
            if Path(f"/proc/{child}/root/run/systemd/system").exists():
                return child
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
