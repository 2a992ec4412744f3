"""What does the mark cost? Commits of the replay memory with and without it, side by side on the same disk.

    .venv/bin/python -m bench.studies.store_commit [DIRECTORY] [COMMITS]

The real store in DIRECTORY (here by default, which must be a real disk: where a sync costs nothing there is nothing to
see). The two take turns commit by commit, so that whatever else the disk does hits both. Milliseconds: median, and the
slowest of twenty.
"""

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from openme.store.base import FIRST, Claim
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import Knock

if TYPE_CHECKING:
    from openme.store.base import Outcome

NS = 10**9
HOME = ip_address("203.0.113.5")


class Unmarked(SqliteStore):
    """A store that says nowhere how far it must reach."""

    def _write_marks(self) -> None:
        return


class Side:
    """One store, and how long each of its commits took."""

    def __init__(self, folder: Path, *, marked: bool) -> None:
        folder.mkdir()
        make_memory(folder)
        self.store = SqliteStore(folder) if marked else Unmarked(folder)
        self.store.load(60 * NS, 0)
        self.seconds: list[float] = []

    def commit(self, number: int, size: int) -> None:
        """One commit of `size` knocks, each by another client."""
        batch = []
        for client in range(size):
            knock = Knock(number * NS, (number << 64 | client).to_bytes(16, "big"), None)
            batch.append(Claim(client.to_bytes(32, "big"), knock, HOME, "x", 0.0, None))
        outcomes: list[Outcome] = []
        started = time.perf_counter()
        self.store.claim(batch, outcomes.extend)
        self.seconds.append(time.perf_counter() - started)
        if any(outcome != FIRST for outcome in outcomes):
            raise SystemExit("a knock was refused")


def main() -> None:
    """Print a line a batch size."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    commits = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    for size in (1, 64):
        with tempfile.TemporaryDirectory(dir=where) as folder, ExitStack() as stack:
            sides = [Side(Path(folder, name), marked=name == "with") for name in ("without", "with")]
            for side in sides:
                stack.callback(side.store.close)
            for number in range(1, commits + 1):
                for side in sides if number % 2 else reversed(sides):
                    side.commit(number, size)
            told: list[str] = []
            median = 0.0
            for name, side in zip(("without", "with"), sides, strict=True):
                median, slow = statistics.median(side.seconds), statistics.quantiles(side.seconds, n=20)[-1]
                told.append(f"{name} the mark {median * 1000:.2f} ({slow * 1000:.2f})")
            print(f"{size:3} knocks a commit: {', '.join(told)}; {1000 * median / size:.3f} ms a knock with it")


if __name__ == "__main__":
    main()
