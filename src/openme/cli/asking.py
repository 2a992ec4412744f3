"""A question with yes or no for an answer, on the terminal and never on stdin, which may carry what it is about."""

import os
import sys

from openme.visible import visible

_TERMINAL = "/dev/tty"


def agrees(question: str) -> bool | None:
    """Whether somebody says yes to it; None where there is no terminal to ask on. Whatever else is said is a no."""
    words = f"openme: {visible(question)} [y/N] "
    if os.name != "posix":
        return _is_yes(input(words)) if sys.stdin.isatty() else None
    try:
        terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(terminal, words.encode("utf-8", "backslashreplace"))
        return _is_yes(os.read(terminal, 1024).decode("utf-8", "replace"))
    except OSError:
        return None
    finally:
        os.close(terminal)


def _is_yes(said: str) -> bool:
    return said.strip().lower() in {"y", "yes"}
