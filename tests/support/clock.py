"""A wall clock for one server that a test can turn while it runs, and nothing else's.

libfaketime is preloaded into `openme serve`: its time() and clock_gettime(CLOCK_REALTIME) are this machine's plus an
offset, read again from a file for every call. The monotonic clock is the kernel's own. The file lies in `state_dir`,
since the keeper's sandbox lets it read nothing else.
"""

from pathlib import Path

import libfaketime

_LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


class Clock:
    """The offset in seconds from the true time, in force at once."""

    def __init__(self, state_dir: Path, seen: Path | None = None) -> None:
        """`seen` is where this process reaches the directory that the server knows as `state_dir`."""
        assert _LIBRARY.exists(), _LIBRARY
        self._name = state_dir / "test-clock"
        self._file = (seen or state_dir) / "test-clock"
        self.offset = 0
        self.step(0)

    def step(self, offset: int) -> None:
        """Turn the clock to the true time and `offset` seconds."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{offset:+d}\n")
        beside.replace(self._file)
        self.offset = offset

    @property
    def prefix(self) -> list[str]:
        """The command that runs a program by this clock."""
        return [
            "env",
            f"LD_PRELOAD={_LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={self._name}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        ]
