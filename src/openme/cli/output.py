"""How commands speak: answers to stdout, everything else to stderr; what others wrote goes through `visible`.

What is said on stderr has a level, as a server's log lines have: progress and hints are `info`, warnings `warning`,
errors with their cure `error`. An exit code that is not 0 is explained by an error or by the answer.
"""

import sys
from collections.abc import Sequence
from typing import Any

from openme.errors import OpenmeError
from openme.visible import visible

LEVELS = ("debug", "info", "warning", "error")

stdout_is_closed = False
"""Whether whoever started us has closed stdout: what is printed goes nowhere, as it is wanted."""
level = "info"
"""What matters less is not said (`--log-level`)."""
stderr_is_lost = False
"""Whether something that was to be said on stderr could not be, and has not merely found nobody who listens."""


def answer(text: str) -> None:
    """The answer, for people, on one line."""
    print(visible(text), flush=True)  # before a child writes, or a long time passes


def answer_lines(text: str) -> None:
    """An answer of several lines, such as a table. Values of others stand in it without line breaks of their own."""
    print("\n".join(map(visible, text.split("\n"))), flush=True)


def answer_json(value: Any) -> None:  # noqa: ANN401  # any JSON value
    """The answer, for programs."""
    print(json_text(value, indent=2), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:  # noqa: ANN401  # any JSON value
    """JSON in ASCII without a control character, on one line or indented."""
    import json  # noqa: PLC0415  # for the few who ask for it

    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")  # the only one that json.dumps leaves


def note(text: str) -> None:
    """Progress, to stderr."""
    _say("info", "", text)


def warn(text: str, cure: str | None = None) -> None:
    """A warning, and its cure where there is one, to stderr."""
    _say("warning", "warning: ", text)
    if cure:
        _say("warning", "hint: ", cure)


def alarm(text: str) -> None:
    """A warning that no `--log-level` silences, to stderr."""
    _say("error", "warning: ", text)


def hint(text: str) -> None:
    """What to do next, to stderr."""
    _say("info", "hint: ", text)


def complain(error: OpenmeError) -> None:
    """An error, and its cure where there is one, to stderr."""
    _say("error", "error: ", error.message)
    if error.hint:
        _say("error", "hint: ", error.hint)


def _say(at: str, kind: str, text: str) -> None:
    """A stderr that takes nothing stops no command in the middle of its work."""
    global stderr_is_lost  # noqa: PLW0603  # as stderr is
    if LEVELS.index(at) < LEVELS.index(level):
        return
    try:
        print(f"openme: {kind}{visible(text)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass
    except OSError:
        stderr_is_lost = True


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under headings, as wide as their content, without trailing blanks."""
    lines = [list(headings), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
