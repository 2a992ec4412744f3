"""Unix times as people and programs read them."""

from datetime import UTC, datetime


def rfc3339(unix: float) -> str:
    """In UTC, to the second: `2026-11-23T12:00:00Z`. ValueError, OverflowError or OSError beyond the calendar."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day(unix: float) -> str:
    """The day in UTC, `2026-11-23`; in words where no calendar has it."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "an impossible date"
