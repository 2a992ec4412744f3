"""Both clocks of a server: the wall clock, which somebody may set, and the monotonic one, by which doors close."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

_NS = 10**9


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks: Unix time in nanoseconds, and monotonic seconds."""

    unix_ns: int
    monotonic: float

    @property
    def unix(self) -> float:
        """Unix time in seconds."""
        return self.unix_ns / _NS

    @property
    def utc(self) -> datetime:
        """The wall clock's time as a datetime."""
        return datetime.fromtimestamp(self.unix, UTC)


def read_clocks() -> Now:
    """Both clocks as they stand."""
    return Now(time.time_ns(), time.monotonic())
