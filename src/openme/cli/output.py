"""How commands speak: answers to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from openme.errors import OpenmeError


def answer(text: str) -> None:
    """The answer, for people."""
    print(text)


def answer_json(value: Any) -> None:  # noqa: ANN401  # any JSON value
    """The answer, for programs."""
    print(json.dumps(value, indent=2))


def note(text: str) -> None:
    """Progress, to stderr."""
    print(f"openme: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """A warning, to stderr."""
    print(f"openme: warning: {text}", file=sys.stderr)


def hint(text: str) -> None:
    """What to do next, to stderr."""
    print(f"openme: hint: {text}", file=sys.stderr)


def complain(error: OpenmeError) -> None:
    """An error, and its cure where there is one, to stderr."""
    print(f"openme: error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"openme: hint: {error.hint}", file=sys.stderr)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under headings, as wide as their content, without trailing blanks."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
