"""What the server costs while nobody knocks: wake-ups and time of the processor, process by process.

    sudo .venv/bin/python bench/idle.py [SECONDS]

The real server on the kernel's firewall, in network namespaces of its own, with a client whose door has closed again. A
wake-up is a voluntary context switch (proc_pid_status(5)), time what the scheduler counts (/proc/PID/schedstat); both
over SECONDS (30). Beside them a bare Python process that wakes as often as the keeper does, and does nothing.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.server import ServerWorld

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
SETTLED = 5.0  # seconds without a knock before the measuring begins
PROCESSES = ("keeper", "listener", "guardian")
BARE = "import time\nwhile True: time.sleep(float({pause!r}))"


class Used(NamedTuple):
    """What a process has used since it began."""

    wakes: int
    nanoseconds: int


def used(pid: int) -> Used:
    """It, as the kernel counts."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    ran = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]
    return Used(int(fields["voluntary_ctxt_switches"]), int(ran))


def measured(processes: dict[str, int]) -> dict[str, Used]:
    """What each of them uses meanwhile."""
    before = {name: used(pid) for name, pid in processes.items()}
    time.sleep(SECONDS)
    after = {name: used(pid) for name, pid in processes.items()}
    return {
        name: Used(*(end - start for start, end in zip(before[name], after[name], strict=True))) for name in processes
    }


def show(figures: dict[str, Used]) -> None:
    """The rows of a table."""
    for name, row in figures.items():
        print(f"{name:<32}{row.wakes / SECONDS:12.3f}{row.nanoseconds / SECONDS / 1e7:14.4f}")


def main() -> None:
    """Print the table."""
    with ExitStack() as stack:
        world = ServerWorld(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())), knock_timeout="1s")
        alice = world.add("alice")
        world.start(log_level="info")
        world.knock(alice)
        time.sleep(SETTLED)
        server = measured(dict(zip(PROCESSES, world.pids(), strict=True)))
        print(f"{f'{SECONDS:g} s without a knock':<32}{'wake-ups a s':>12}{'% of a core':>14}")
        show(server)
        pause = SECONDS / max(1, server["keeper"].wakes)
        bare = subprocess.Popen([sys.executable, "-S", "-c", BARE.format(pause=pause)])
        stack.callback(bare.wait)
        stack.callback(bare.kill)
        time.sleep(1)
        show(measured({"a bare loop, as often": bare.pid}))


main()
