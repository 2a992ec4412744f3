"""Refusals as counts by reason, reported at a bounded rate: a flood must not fill a log."""

import logging
from collections import Counter
from math import inf

from openme.reasons import Reason

REPORT_INTERVAL = 60.0  # seconds between two reports


class RefusalCounts:
    """Counts of what was dropped. The keeper has one of its own, and one of what the listener says."""

    def __init__(self) -> None:
        self.total: Counter[Reason] = Counter()
        """Refusals by reason since the start."""
        self._unreported: Counter[Reason] = Counter()
        self._last_report = float("-inf")

    def add(self, reason: Reason, count: int = 1) -> None:
        """Count a refusal."""
        self.total[reason] += count
        self._unreported[reason] += count

    @property
    def next_at(self) -> float:
        """When `report` has something to say, in monotonic seconds: long ago if at once, `inf` if nothing."""
        return self._last_report + REPORT_INTERVAL if self._unreported else inf

    def report(self, now: float, log: logging.Logger) -> bool:
        """Log what was refused since the last report, unless that was less than a minute ago.

        `now` in monotonic seconds. Returns whether a new interval began.
        """
        if now - self._last_report < REPORT_INTERVAL:
            return False
        if self._unreported:
            counts = ", ".join(f"{count} {reason}" for reason, count in self._unreported.most_common())
            facts = {"event": "counts", "refused": dict(self._unreported)}
            log.info("refused: %s", counts, extra={"facts": facts})
            self._unreported.clear()
            self._last_report = now
        return True
