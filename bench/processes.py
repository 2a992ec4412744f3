"""What processes have used, as the kernel tells it (proc(5)): a process together with all that it started."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_OF_CHILDREN = (13, 14)  # cutime and cstime in what follows the name in /proc/PID/stat


def tree(pid: int) -> list[int]:
    """A process and its descendants. Empty if it is gone."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop(0)
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            found.append(one)
    return found


@dataclass(frozen=True)
class Used:
    """Seconds of the processor, and how often a thread went to sleep, which is how often one was woken."""

    seconds: float
    wakings: int

    def __sub__(self, before: "Used") -> "Used":
        return Used(self.seconds - before.seconds, self.wakings - before.wakings)


def used(pid: int) -> Used:
    """By a process and its descendants since they were started, those that have ended included.

    The scheduler's own count of nanoseconds, since a tick of 10 ms sees nothing of a process that is awake for less.
    What has ended is known in ticks alone.
    """
    seconds, wakings = 0.0, 0
    for one in tree(pid):
        with suppress(OSError):
            ended = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(int(ended[at]) for at in _OF_CHILDREN) / _TICKS
            for task in Path(f"/proc/{one}/task").iterdir():
                seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
                wakings += _line_of(task / "status", "voluntary_ctxt_switches")
    return Used(seconds, wakings)


def proportional_set_size(pids: Iterable[int]) -> int:
    """Bytes of memory: what a process has alone, and its share of what it has with others."""
    return sum(_line_of(Path(f"/proc/{pid}/smaps_rollup"), "Pss") << 10 for pid in pids)


def _line_of(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{path} has no {name}")
