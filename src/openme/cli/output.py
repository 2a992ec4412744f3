"""How commands speak: answers to stdout, everything else to stderr; what others wrote goes through `visible`.

What is said on stderr has a level, as a server's log lines have: progress and hints are `info`, warnings `warning`,
errors with their cure `error`. An exit code that is not 0 is explained by an error or by the answer.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from openme.errors import OpenmeError
from openme.visible import visible

LEVELS = ("debug", "info", "warning", "error")

stdout_is_closed = False
"""Whether whoever started us has closed stdout: what is printed goes nowhere, as it is wanted."""
level = "info"
"""What matters less is not said (`--log-level`)."""
progress_is_shown = False
"""Whether the cursor stands behind a line of progress (`overwrite`)."""
stderr_is_lost = False
"""Whether something that was to be said on stderr could not be, and has not merely found nobody who listens."""


_BOLD, _RED, _GREEN, _YELLOW = "1", "1;31", "32", "33"
_KINDS = {"error: ": _RED, "warning: ": _YELLOW, "hint: ": _BOLD}


def answer(text: str, *, good: bool | None = None) -> None:
    """The answer, for people, on one line. `good`: whether it is what they hoped for, where that is known."""
    colour = {True: _GREEN, False: _RED, None: ""}[good]
    # At once: before a child writes, or a long time passes.
    print(_coloured(visible(text), colour, sys.stdout), flush=True)


def answer_lines(text: str, *headings: Sequence[str]) -> None:
    """An answer of several lines. Values of others stand in it without line breaks of their own.

    `headings`: those of the tables in it, which stand out at a terminal.
    """
    lines = [visible(line) for line in text.split("\n")]
    if headings and _has_colours(sys.stdout):
        wanted = ["".join(names).replace(" ", "") for names in headings]
        lines = [_coloured(line, _BOLD, sys.stdout) if line.replace(" ", "") in wanted else line for line in lines]
    print("\n".join(lines), flush=True)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sees what is written, on a screen where a line can be written over."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # it is closed
        return False


def _has_colours(stream: TextIO | None) -> bool:
    """As no-color.org has it: a variable NO_COLOR that is not empty is a no."""
    return not os.environ.get("NO_COLOR") and _is_terminal(stream)


def _coloured(text: str, colour: str, stream: TextIO | None) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and text and _has_colours(stream) else text


def shows_progress() -> bool:
    """Whether somebody at stderr wants to know what is waited for."""
    return level in {"debug", "info"} and _is_terminal(sys.stderr)


def overwrite(text: str) -> None:
    """Write over the line of progress, or, without a text, take it away."""
    global progress_is_shown  # noqa: PLW0603  # as stderr is
    progress_is_shown = bool(text)
    with suppress(OSError):  # it was for somebody who is there no more
        print(f"\r\x1b[K{visible(text)}", end="", file=sys.stderr, flush=True)


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
    if progress_is_shown:
        overwrite("")
    try:
        word = _coloured(kind, _KINDS.get(kind, ""), sys.stderr)
        print(f"openme: {word}{visible(text)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass
    except OSError:
        stderr_is_lost = True


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under headings, as wide as their content, without trailing blanks."""
    lines = [list(headings), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
