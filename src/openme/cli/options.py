"""Values of arguments, checked while the command line is read: one that cannot be understood is exit code 2.

argparse turns each `ArgumentTypeError` into openme's error. What only the config or the host can judge is not refused
here: a name that is taken, a group that is not there.
"""

import argparse
import re
from collections.abc import Callable

from openme.durations import format_duration, parse_duration
from openme.max_port import MAX_PORT
from openme.visible import is_visible

_SHORTEST = 1.0  # seconds


def duration(text: str) -> float:
    """Seconds, at least one."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds < _SHORTEST:
        raise argparse.ArgumentTypeError(f"expected at least {format_duration(_SHORTEST)}")
    return seconds


def port_number(text: str) -> int:
    """A port."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a port from 1 to {MAX_PORT}")


def host_name(text: str) -> str:
    """A name or an address of a host."""
    if not text or not is_visible(text) or any(map(str.isspace, text)):
        raise argparse.ArgumentTypeError("expected a host's name or address")
    return text


def profile_name(text: str) -> str:
    """A name that a client's file may have for a profile."""
    if not text.strip() or not is_visible(text):
        raise argparse.ArgumentTypeError("expected a printable name")
    return text


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A text that `pattern` matches in full, and that can be seen, as the config reads it."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text) or not is_visible(text):
            raise argparse.ArgumentTypeError(f"expected {expected}")
        return text

    return read
