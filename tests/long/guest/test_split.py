"""Two processes and a guardian on this kernel: who they are, what holds them, and that a hostile listener ends none."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from support.netns import until
from support.slow_machine import SlowWorld

pytestmark = pytest.mark.root

CAP_KILL = 1 << 5
CAP_NET_ADMIN = 1 << 12
TELL = 9999
_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1


def landlock_abi() -> int:
    """What this kernel's Landlock can do (landlock_create_ruleset(2)); 0 for a kernel without."""
    libc = ctypes.CDLL(None)
    return max(0, int(libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)))


def status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(key + ":"))


def ended(pid: int) -> bool:
    """Whether a process runs no more; one that has ended may still wait for its parent to notice."""
    try:
        return status(pid, "State").startswith("Z")
    except (OSError, StopIteration):
        return True


class AttackedWorld(SlowWorld):
    """A server whose listener is hostile."""

    def start_hostile(self) -> dict[str, dict[str, str]]:
        """A server whose listener attacks the other two; what came of it."""
        self.runs += 1
        with closing(self.socket_on(self.server, socket.SOCK_DGRAM, source="127.0.0.1")) as told:
            told.settimeout(60)
            script = str(Path(__file__).with_name("hostile_server.py"))
            words = ["--config", str(self.config), "serve", "--state-file", str(self.state_file)]
            with self.log_path.open("wb") as log:
                self.process = subprocess.Popen(
                    self.server.command(sys.executable, script, str(told.getsockname()[1]), *words),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            outcome: dict[str, dict[str, str]] = json.loads(told.recv(65536))
        return outcome


@pytest.fixture
def world(tmp_path: Path) -> Iterator[AttackedWorld]:
    with ExitStack() as stack:
        yield AttackedWorld(stack, tmp_path)


def test_each_process_is_who_it_should_be(world: SlowWorld) -> None:
    world.start()
    keeper, listener, guardian = world.pids()
    capabilities = {keeper: CAP_NET_ADMIN, listener: 0, guardian: CAP_KILL}
    for pid, mask in capabilities.items():
        for kind in ("Eff", "Prm", "Bnd"):
            assert int(status(pid, "Cap" + kind), 16) == mask, (pid, kind)
        for kind in ("Inh", "Amb"):
            assert int(status(pid, "Cap" + kind), 16) == 0, (pid, kind)
        assert status(pid, "NoNewPrivs") == "1"
        assert status(pid, "Seccomp") == "2"
    assert status(keeper, "Uid").split() == ["0"] * 4
    assert status(guardian, "Uid").split() == ["0"] * 4
    assert not {"0", "65534"} & set(status(listener, "Uid").split() + status(listener, "Gid").split())
    assert status(listener, "Groups") == ""


def test_the_log_says_what_this_kernel_cannot_enforce_and_no_more(world: SlowWorld) -> None:
    world.start()
    warnings = [line for line in world.log().splitlines() if "sandbox" in line]
    if landlock_abi() == 0:
        assert warnings
        assert all("Landlock is not in force" in line for line in warnings), warnings
    else:
        assert warnings == []


def test_a_listener_without_its_sandbox_ends_neither_keeper_nor_guardian(world: AttackedWorld) -> None:
    tried = world.start_hostile()
    assert set(tried) == {"keeper", "guardian 0"}
    for victim, outcomes in tried.items():
        outcomes.pop("socket")  # told to nobody
        assert {name: what for name, what in outcomes.items() if what not in {"EPERM", "EACCES"}} == {}, victim
    keeper, listener, guardian = world.pids()
    assert not any(map(ended, (keeper, listener, guardian)))
    # It ignores the channel's end, and goes all the same.
    os.kill(keeper, signal.SIGKILL)
    assert world.wait() == -signal.SIGKILL
    until(lambda: ended(listener) and ended(guardian))
    world.start()


def test_a_listener_that_is_stopped_goes_with_the_keeper(world: SlowWorld) -> None:
    world.start()
    keeper, listener, guardian = world.pids()
    os.kill(listener, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    world.wait()
    until(lambda: ended(listener) and ended(guardian))
    world.start()


def test_a_listener_that_dies_ends_the_server(world: SlowWorld) -> None:
    world.start()
    os.kill(world.pids()[1], signal.SIGKILL)
    assert world.wait() == 1
