"""Network namespaces for tests: two hosts and a cable, nothing of this machine's own network touched.

    +--------------------------+                        +--------------------------+
    |  server (fwt-…)          |                        |  client (fwt-…)          |
    |                          |        veth pair       |                          |
    |  eth0  192.0.2.1/24 -----+------------------------+----- eth0  192.0.2.2/24  |
    |        2001:db8::1/64    |                        |            2001:db8::2/64|
    |                          |                        |    further addresses .3… |
    |  lo    127.0.0.1, ::1    |                        |  lo    127.0.0.1, ::1    |
    +--------------------------+                        +--------------------------+

    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        client.run("ping", "-c1", "192.0.2.1")

A namespace and all in it (processes started by `popen`, devices, rules) is gone when its stack closes.
"""

import ctypes
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x4000_0000
PREFIX = "fwt-"
DEADLINE = 10.0
STEP = 0.02

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Namespace:
    """A network namespace by its name under /run/netns."""

    name: str
    stack: ExitStack = field(repr=False)

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs a program in here."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a program to its end in here and give back its stdout; AssertionError with its stderr if it fails."""
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)} in {self.name} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a program in here, with pipes; it is killed when the namespace goes."""
        process = subprocess.Popen(
            self.command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.stack.callback(_end, process)
        return process

    def nft(self, script: str) -> None:
        """Load nft text in here."""
        self.run("nft", "-f", "-", stdin=script)

    def ruleset(self) -> str:
        """The whole ruleset, without the elements' ticking times and without counters."""
        return self.run("nft", "--stateless", "--handle", "list", "ruleset")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace: sockets made meanwhile belong to it for good."""
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.name).open() as here:
            _setns(here.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())


def namespace(stack: ExitStack) -> Namespace:
    """A new, unconnected namespace with loopback up, removed with everything in it when the stack closes."""
    made = Namespace(PREFIX + secrets.token_hex(4), stack)
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    stack.callback(subprocess.run, ["ip", "netns", "delete", made.name], check=True)
    made.run("ip", "link", "set", "lo", "up")
    return made


def connect(server: Namespace, client: Namespace, device: str = "eth0", subnet: int = 0) -> None:
    """A cable between the two. `subnet` 0 and 1 differ in their addresses (see `v4` and `v6`)."""
    near, far = (f"fwt{secrets.token_hex(4)}" for _ in range(2))
    subprocess.run(["ip", "link", "add", near, "type", "veth", "peer", "name", far], check=True)
    for host, end, number in ((server, near, 1), (client, far, 2)):
        subprocess.run(["ip", "link", "set", end, "netns", host.name, "name", device], check=True)
        host.run("ip", "link", "set", device, "up")
        add_addresses(host, number, device, subnet)


def add_addresses(host: Namespace, number: int, device: str = "eth0", subnet: int = 0) -> None:
    """One more IPv4 and IPv6 address, usable at once."""
    host.run("ip", "address", "add", f"{v4(number, subnet)}/24", "dev", device)
    host.run("ip", "address", "add", f"{v6(number, subnet)}/64", "dev", device, "nodad")


def v4(number: int, subnet: int = 0) -> str:
    """Host `number` of 192.0.2.0/24 or 198.51.100.0/24."""
    return f"{('192.0.2', '198.51.100')[subnet]}.{number}"


def v6(number: int, subnet: int = 0) -> str:
    """Host `number` of 2001:db8::/64 or 2001:db8:0:1::/64."""
    return f"2001:db8:0:{subnet}::{number}"


def until(look: Callable[[], T], seconds: float = DEADLINE) -> T:
    """What `look` gives as soon as that is true; AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        time.sleep(STEP)
    return found


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
