"""Noise dies in the kernel: what reaches the listener's socket is counted while the listener is stopped."""

import os
import re
import resource
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from openme.knock_size import KNOCK_SIZE
from support.netns import add_addresses, until, v4
from support.server import KNOCK_PORT, ServerWorld
from support.shaped import shaped

pytestmark = pytest.mark.root

NOISE = 500
FLOODING, NEW = 60, 61  # addresses of the client's
UNIT = Path(__file__).parents[2] / "packaging/openme.service"
# A program that runs another one to which bpf(2) is refused, as a container's or a unit's filter does.
_REFUSING = """
import errno, os, sys, pyseccomp
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "bpf")
rules.load()
os.execvp(sys.argv[1], sys.argv[1:])
"""


def noise(count: int = NOISE) -> list[bytes]:
    """Random bytes of the right length; none in version 1's shape, in which one of some thousands is."""
    return [b"\x03" + secrets.token_bytes(KNOCK_SIZE - 1) for _ in range(count)]


class Watched(ServerWorld):
    """A server whose knock socket is looked at."""

    def _socket(self) -> list[str]:
        lines = Path(f"/proc/{self.pids()[1]}/net/udp6").read_text().splitlines()
        return next(line for line in lines if f":{KNOCK_PORT:04X} " in line).split()

    def waiting(self) -> int:
        """Bytes of memory that the datagrams in the socket take."""
        return int(self._socket()[4].partition(":")[2], 16)

    def dropped(self) -> int:
        """Datagrams that did not get into the socket."""
        return int(self._socket()[-1])

    @contextmanager
    def listener_stopped(self) -> Iterator[None]:
        """What comes stays in the socket meanwhile."""
        listener = self.pids()[1]
        until(lambda: not self.waiting())
        os.kill(listener, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{listener}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        try:
            yield
        finally:
            os.kill(listener, signal.SIGCONT)

    def await_doors(self, *names: str) -> None:
        """Wait until each of these clients has a door."""
        until(lambda: {session["client_name"] for session in self.sessions()} >= set(names))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(stack, tmp_path)


def counted(log: str) -> int:
    """How many refusals for the reason `filter` a log has told; a line may have those of a part of the time."""
    return sum(map(int, re.findall(r"refused: .*?(\d+) filter", log)))


def test_noise_never_reaches_the_process_and_knocks_of_both_versions_do(watched: Watched) -> None:
    profiles = {"alice": watched.add("alice"), "old": watched.add("old", "--v1")}
    watched.start(log_level="info")
    for family in (4, 6):
        before = watched.dropped()
        with watched.listener_stopped():
            watched.send(*noise(), version=family)
            assert watched.waiting() == 0
            assert watched.dropped() == before + NOISE
            for profile in profiles.values():
                watched.send(watched.packet(profile), version=family)
            assert watched.waiting() > 0
        watched.await_doors(*profiles)
        for name in profiles:
            watched.ask("close", name=name)
    until(lambda: counted(watched.log()) in {NOISE, 2 * NOISE})  # what comes a second later has its line in a minute


def test_no_flood_of_strangers_fills_the_socket(watched: Watched) -> None:
    """Whoever knocks from an address that is known, and whoever knocks in version 2, finds a place in it."""
    profiles = {"alice": watched.add("alice"), "old": watched.add("old", "--v1"), "new": watched.add("new")}
    for number in (FLOODING, NEW):
        add_addresses(watched.client, number)
    watched.start(log_level="info")
    for name in ("alice", "old"):
        watched.opens(profiles[name])
        watched.ask("close", name=name)
    until(lambda: not watched.sessions())
    with watched.listener_stopped():
        before = watched.dropped()
        watched.send(*(shaped() for _ in range(2 * NOISE)), source=v4(FLOODING))
        assert watched.dropped() >= before + NOISE
        for name in ("alice", "old"):
            watched.send(watched.packet(profiles[name]))
        watched.send(watched.packet(profiles["new"]), source=v4(NEW))
    watched.await_doors(*profiles)


def test_version_1s_shape_is_let_through_where_version_1_is_on(watched: Watched) -> None:
    """And no more once a reload has switched it off, and again once it is on."""
    old = watched.add("old", "--v1")
    watched.start(log_level="info")
    for protocols, reaches in (("[v1, v2]", True), ("[v2]", False), ("[v1]", True)):
        watched.edit(protocols=protocols)
        watched.ask("reload")
        await_reaching(watched, lambda: [shaped()], expected=reaches)
        assert not reaches_socket(watched, noise())
    watched.opens(old)


def test_version_2_can_be_switched_off_and_on(watched: Watched) -> None:
    alice = watched.add("alice")
    watched.start(log_level="info")
    for protocols, reaches in (("[v1]", False), ("[v2]", True)):
        watched.edit(protocols=protocols)
        watched.ask("reload")
        await_reaching(watched, lambda: [watched.packet(alice)], expected=reaches)
    watched.opens(alice)


def reaches_socket(watched: Watched, datagrams: list[bytes]) -> bool:
    """Whether any of these gets into the socket."""
    with watched.listener_stopped():
        watched.send(*datagrams)
        return watched.waiting() > 0


def await_reaching(watched: Watched, made: Callable[[], list[bytes]], *, expected: bool) -> None:
    """Wait until such datagrams get into the socket, or get there no more."""
    until(lambda: reaches_socket(watched, made()) == expected)


def test_of_copies_the_socket_gets_a_few(watched: Watched) -> None:
    alice = watched.add("alice")
    watched.start(log_level="info")
    with watched.listener_stopped():
        watched.send(watched.packet(alice))
        one = watched.waiting()
    with watched.listener_stopped():
        watched.send(*[watched.packet(alice)] * 1000)
        assert 1 <= watched.waiting() // one <= 16 * 4, "16 a second"
    watched.await_doors("alice")


@pytest.mark.parametrize(
    ("prefix", "why", "cure"),
    [
        (
            ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all"],
            "CAP_BPF is missing",
            "start openme with it",
        ),
        ([sys.executable, "-c", _REFUSING], "Operation not permitted", "allow the system call bpf"),
    ],
    ids=["no capability", "seccomp"],
)
def test_where_the_kernel_refuses_the_process_makes_the_check(
    watched: Watched, prefix: list[str], why: str, cure: str
) -> None:
    profiles = {"alice": watched.add("alice"), "old": watched.add("old", "--v1")}
    watched.start(log_level="info", prefix=prefix)
    (line,) = (line for line in watched.log().splitlines() if "kernel filter" in line)
    assert f"the kernel filter is not in force ({why})" in line
    assert cure in line
    (warning,) = watched.ask("sessions")["warnings"]
    assert warning in line
    with watched.listener_stopped():
        watched.send(*noise())
        assert watched.waiting() > 0
        for profile in profiles.values():
            watched.send(watched.packet(profile))
    watched.await_doors(*profiles)
    until(lambda: re.search(r"refused: \d+ filter", watched.log()))


def test_a_server_that_has_it_says_nothing(watched: Watched) -> None:
    watched.start(log_level="info")
    assert "kernel filter" not in watched.log()
    assert watched.ask("sessions")["warnings"] == []


def test_what_the_unit_allows_is_enough(watched: Watched) -> None:
    """Its capabilities and its limit of locked memory; that its filter names bpf(2)."""
    unit = UNIT.read_text()
    allowed = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    locked = re.search(r"^LimitMEMLOCK=(\d+)M$", unit, re.MULTILINE)
    assert allowed
    assert locked
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in allowed[1].split())
    hard, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1], int(locked[1]) << 20
    limit = ["prlimit", f"--memlock={most if hard == resource.RLIM_INFINITY else min(most, hard)}"]
    watched.start(log_level="info", prefix=[*limit, "setpriv", f"--bounding-set=-all,{names}", "--inh-caps=-all"])
    assert "kernel filter" not in watched.log()
    assert re.search(r"^SystemCallFilter=.*\bbpf\b", unit, re.MULTILINE)


def test_on_level_debug_each_refusal_is_told_with_its_source(watched: Watched) -> None:
    watched.start()
    watched.send(*noise(20), secrets.token_bytes(12))
    until(lambda: watched.log().count("refused: filter (from 192.0.2.2)") == 20)
    watched.says("refused: length (from 192.0.2.2)")
