"""The real ufw and firewalld on a host of the tests: a Debian of their own, in a namespace's network.

    make_tree()
    with ExitStack() as stack:
        server = namespace(stack)
        debian = Debian(stack, server)
        debian.run("ufw", "--force", "enable")

The tree that they live in is kept for the next run (tools/host-firewalls). What a test changes in it stays in a memory
of that test; every process in there, daemons too, is gone when the stack closes.
"""

import subprocess
from contextlib import ExitStack
from pathlib import Path

from support.netns import Namespace, until

ROOT = Path(__file__).parents[2]
TREE = ROOT / ".cache" / "host-firewalls"

# A chroot with mounts of its own; the first process in it lives until it is killed, and all others with it.
_ENTER = r"""
set -eu
mount --make-rprivate /
layers=$1/mnt  # the lower layer does not see what is mounted on it
mount -t tmpfs layers $layers
mkdir $layers/changed $layers/work $layers/root
mount -t overlay -o "lowerdir=$1,upperdir=$layers/changed,workdir=$layers/work" overlay $layers/root
cd $layers/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs run run
mount --rbind /dev dev
exec chroot . /bin/sh -c 'echo ready; exec cat'
"""


def make_tree() -> None:
    """Make the tree unless it is there: says so on stderr, and takes some two minutes and a Debian mirror."""
    subprocess.run([ROOT / "tools" / "host-firewalls"], check=True)


class Debian:
    """A Debian with ufw, firewalld and a D-Bus of its own, in the network of a namespace."""

    def __init__(self, stack: ExitStack, host: Namespace) -> None:
        holder = subprocess.Popen(
            host.command(
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", str(TREE))
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        init = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        self._enter = ["nsenter", "--target", init, "--mount", "--net", "--pid", "--root", "--wd"]

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs a program in there."""
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
        return [*self._enter, *clean, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a program to its end; its stdout, or AssertionError with what it said."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_ufw(self) -> None:
        """Deny by default, port 80 allowed, enabled."""
        self.run("ufw", "default", "deny", "incoming")
        self.run("ufw", "allow", "80/tcp")
        self.run("ufw", "--force", "enable")

    def start_bus(self) -> None:
        """The D-Bus that firewall-cmd and firewalld talk over."""
        self.run("mkdir", "-p", "/run/dbus")
        self.run("dbus-daemon", "--system", "--fork")

    def start_firewalld(self) -> None:
        """Start it and wait until it is ready."""
        self.run("firewalld")
        until(self.firewalld_runs, 30)

    def stop_firewalld(self) -> None:
        """SIGTERM, as its service does, and wait until it is gone."""
        self.run("pkill", "--exact", "firewalld")
        until(lambda: not self.firewalld_runs(), 30)

    def firewalld_runs(self) -> bool:
        """Whether it answers."""
        done = subprocess.run(self.command("firewall-cmd", "--state"), capture_output=True, check=False, timeout=60)
        return done.returncode == 0


def _end(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()
