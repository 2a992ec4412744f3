"""Durations as people write them in config files: `30s`, `1m30s`, `2h`, `7d`, `1.5h`, `500ms`."""

import re

_UNIT_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_TERM = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?(ms|s|m|h|d)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds in a written duration; ValueError if it is none, negative or zero.

    Terms add up, as in `1h0m30s`, the form in which existing tools write them back.
    """
    total = 0
    position = 0
    while match := _TERM.match(text, position):
        whole, fraction, unit = match.groups()
        total += int(whole) * _UNIT_NS[unit]
        if fraction:
            total += int(fraction) * _UNIT_NS[unit] // 10 ** len(fraction)
        position = match.end()
    if position != len(text) or total <= 0:
        raise ValueError("expected a duration such as 30s, 1m30s, 2h or 7d")
    return total / 10**9


def format_duration(seconds: float) -> str:
    """The shortest written form of a duration, to the millisecond: `90.0` is `1m30s`."""
    rest = round(seconds * 10**9 / 10**6) * 10**6
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNIT_NS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
