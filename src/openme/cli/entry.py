"""The entry point of the `openme` command.

First of all Ctrl-C gets the action that it has in the kernel: Python's handler raises an exception, which the import
system loses or wraps. Until that line nothing is imported that the interpreter has not loaded by itself: `signal` is
some milliseconds of Python, `_signal` the part of it that is built in.
"""

import _signal  # type: ignore[import-not-found]  # has no stub, being private
import sys


def run() -> None:
    """Run the command line; ends the process."""
    try:
        ctrl_c_by_default()
    except KeyboardInterrupt:  # it came just before
        ctrl_c_by_default()
        if sys.platform == "win32":
            sys.exit(130)
        _signal.raise_signal(_signal.SIGINT)
    from openme.collector import as_long_as_the_process  # noqa: PLC0415  # not before that

    with as_long_as_the_process():
        from openme.cli.main import run as run_command  # noqa: PLC0415

    run_command()


def ctrl_c_by_default() -> None:
    """Let Ctrl-C end us by the kernel's hand, unless whoever started us has it ignored."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
