"""Values of options, checked while the command line is read."""

import argparse

from openme.durations import format_duration, parse_duration
from openme.ports import MAX_PORT

_SHORTEST = 1.0  # seconds


def duration(text: str) -> float:
    """Seconds, at least one; argparse turns the error into openme's."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds < _SHORTEST:
        raise argparse.ArgumentTypeError(f"expected at least {format_duration(_SHORTEST)}")
    return seconds


def port_number(text: str) -> int:
    """A port; argparse turns the error into openme's."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a port from 1 to {MAX_PORT}")
