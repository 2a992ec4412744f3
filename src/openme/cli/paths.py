"""Paths on the command line."""

import argparse
from pathlib import Path

from openme.visible import is_visible


def path(text: str) -> Path:
    """A path. An empty word is a shell's variable that is not set, and would mean the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty word")
    return Path(text)


def path_or_stdout(text: str) -> Path | None:
    """A path; None for `-`, which is stdout, as without the option."""
    return None if text == "-" else path(text)


def path_or_stdin(text: str) -> Path | None:
    """A path; None for `-`, which is stdin, as without the argument."""
    return None if text == "-" else path(text)


def path_for_a_config(text: str) -> Path:
    """A path that can be written into a config."""
    if not is_visible(text):
        raise argparse.ArgumentTypeError("expected a path without characters that cannot be seen")
    return path(text)
