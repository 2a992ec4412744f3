"""The command `openme`: finds the command among the words, runs it, and turns what went wrong into one voice.

Only the module of the command asked for is imported, so that a knock does not wait for what it does not use.
"""

import argparse
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NoReturn

from openme import __version__
from openme.cli import output
from openme.cli.commands import COMMANDS, Action, Command
from openme.cli.output import answer_lines, complain, warn
from openme.cli.paths import path
from openme.closest import closest
from openme.collector import as_long_as_the_process
from openme.errors import OpenmeError
from openme.interrupts import Interrupted, end_by

DEFAULT_CONFIG = Path("/etc/openme/config.yaml")
USAGE_ERROR = 2

_BY_NAME = {command.name: command for command in COMMANDS}


class _Parser(argparse.ArgumentParser):
    """argparse in openme's voice."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        hint = f"see: {self.prog} --help"
        message = message.removeprefix("argument ")
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            message = f"unknown {'option' if word.startswith('-') else 'argument'} {word}"
            if near := closest(word.partition("=")[0], known):
                hint = f"did you mean {near}?"
        if not message[1:2].isupper():  # DURATION stays as --help has it
            message = message[:1].lower() + message[1:]
        raise OpenmeError(message, hint, exit_code=USAGE_ERROR)

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002  # --help and --version: stdout
        """Print it, where argparse would lose an error."""
        _require_stdout()
        answer_lines(message.rstrip("\n"))


_UNPRINTED = partial(argparse.RawDescriptionHelpFormatter, width=80)
"""argparse has a formatter look at every argument, and one without a width loads modules that ask the terminal."""


def _require_stdout(hint: str = "send it to /dev/null instead") -> None:
    """OpenmeError where stdout is closed, for what is of no use without."""
    if output.stdout_is_closed:
        raise OpenmeError("stdout is closed", hint)


def _require_stdout_for(command: Command, args: argparse.Namespace) -> None:
    """As `_require_stdout`, before the work of a command that is done for what it prints."""
    if command.answers or getattr(args, "json", False):
        _require_stdout()
    if getattr(args, "out", Path()) is None:
        _require_stdout("name a file: --out FILE")


def _log_level(word: str) -> str:
    return "warning" if word == "warn" else word


def global_options() -> argparse.ArgumentParser:
    """The options that stand before or after the command."""
    parser = _Parser(add_help=False, allow_abbrev=False, formatter_class=_UNPRINTED)
    parser.add_argument(
        "--config", type=path, default=None, metavar="PATH", help=f"the server's config ({DEFAULT_CONFIG})"
    )
    parser.add_argument(
        "--client-config", type=path, default=None, metavar="PATH", help="the client's profiles (~/.openme/config.yaml)"
    )
    parser.add_argument(
        "--log-level",
        type=_log_level,
        choices=output.LEVELS,
        default="info",
        help="say nothing on stderr that matters less than this (info)",
    )
    parser.add_argument("-v", "--version", action="version", version=f"openme {__version__}", help="show the version")
    return parser


_HELP = ("-h", "--help")
_WITH_VALUE = ("--config", "--client-config", "--log-level")


def _split(words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Options before the command, the command, and what follows it."""
    before: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        before.append(rest.pop(0))
        if before[-1] in _WITH_VALUE and rest:
            before.append(rest.pop(0))
    return before, rest[0] if rest else None, rest[1:]


def parser_of(
    command: Command, action: Action, formatter: Callable[..., argparse.HelpFormatter]
) -> argparse.ArgumentParser:
    """The parser of a command, which also makes its `--help`, its man page and its completions."""
    parser = _Parser(
        prog=f"openme {command.name}",
        description=command.help[:1].upper() + command.help[1:].rstrip("?") + ".",
        parents=[global_options()],
        allow_abbrev=False,
        formatter_class=formatter,
    )
    action.arguments(parser)
    return parser


USAGE = "openme [--config PATH] [--client-config PATH] [--log-level LEVEL] COMMAND ..."
PURPOSE = "Single Packet Authorization: ports that nobody sees, opened by one signed UDP packet."
EXIT_CODES = ("0 done", "1 failed", "2 wrong usage", "3 the door is shut", "4 the connection broke")


def _overview() -> str:
    lines = [f"usage: {USAGE}", "", PURPOSE]
    for group, commands in groupby(COMMANDS, key=lambda command: command.group):
        lines += ["", f"{group}:", *(f"  {command.name:<14}{command.help}" for command in commands)]
    lines += ["", f"openme COMMAND --help tells more; exit codes: {', '.join(EXIT_CODES)}"]
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run one command line; the exit code. OpenmeError for what the user is to read."""
    before, name, after = _split(words)
    if name == "help":
        # Wherever the options stand: `openme help --config PATH add` asks for the help of add.
        options, name, _ = _split(after)
        before += options
        if name not in {None, "help"}:
            global_options().parse_args([word for word in before if word not in _HELP])
            return main([*before, name, "--help"])
        name = None
        before.append("--help")
    asked = [word for word in before if word in _HELP]
    if name is None or asked:
        global_options().parse_args([word for word in before if word not in _HELP])
        if asked:
            _require_stdout()
            answer_lines(_overview())
            return 0
        raise OpenmeError("a command is missing", "see: openme --help", exit_code=USAGE_ERROR)
    command = _BY_NAME.get(name)
    if command is None:
        near = closest(name, _BY_NAME)
        hint = f"did you mean {near}?" if near else "see: openme --help"
        raise OpenmeError(f"unknown command {name}", hint, exit_code=USAGE_ERROR)
    if sys.platform != "linux" and (command.group == "server" or name == "demo"):
        raise OpenmeError(f"{name} needs Linux, as the server does", "the client's commands run here: openme --help")
    with as_long_as_the_process():
        action = command.load()
    is_printed = not set(_HELP).isdisjoint(after)
    parser = parser_of(command, action, argparse.RawDescriptionHelpFormatter if is_printed else _UNPRINTED)
    args = parser.parse_args([*before, *after])
    output.level = args.log_level
    if command.group == "client" and args.config is not None:
        warn(f"{name} does not read {args.config}: --config names a server's file, --client-config the client's")
    if command.group == "server" and args.client_config is not None:
        warn(f"{name} does not read {args.client_config}: --client-config names a client's file, --config the server's")
    args.config = args.config or DEFAULT_CONFIG
    _require_stdout_for(command, args)
    return action.run(args)


def _give_up(name: Literal["stdout", "stderr"]) -> None:
    """Let nothing that a stream would not take be tried, and complained of, once more when the interpreter ends."""
    stream = getattr(sys, name)
    try:
        stream.flush()
    except OSError:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except OSError:  # a server that may open nothing any more
            setattr(sys, name, None)


def _need_a_clock() -> None:
    """OpenmeError beyond the year 2262, whose nanoseconds neither Python nor a knock can hold."""
    try:
        time.time()
    except OverflowError:
        raise OpenmeError("this machine's clock stands beyond the year 2262", "set the clock first") from None


def _guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, whatever it raises; no traceback ever reaches a user."""
    try:
        _need_a_clock()
        try:
            code = action()
        except SystemExit as ended:  # argparse, behind --help and --version
            code = ended.code if isinstance(ended.code, int) else 0
        except OverflowError:
            _need_a_clock()  # it may have been turned since, under a server for one
            raise
        sys.stdout.flush()
    except OpenmeError as error:
        complain(error)
        _give_up("stdout")
        return error.exit_code
    except KeyboardInterrupt as error:
        # What there was to undo is undone. A shell goes on with its loop unless the signal itself is what ended us.
        if not isinstance(error, Interrupted):
            return end_by(signal.SIGINT)
        if error.outcome:
            complain(OpenmeError(f"interrupted: {error.outcome}"))
        return end_by(error.number)
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `openme list | head`; that is no failure of ours.
        _give_up("stdout")
        return 0
    except OSError as error:
        if os.environ.get("OPENME_TRACEBACK"):
            raise
        complain(OpenmeError(f"{error.filename or 'output'}: {error.strerror or error}"))
        _give_up("stdout")
        return 1
    except Exception as error:  # the last line of defence: one line, and how to see more
        if os.environ.get("OPENME_TRACEBACK"):
            raise
        complain(
            OpenmeError(
                f"internal error ({type(error).__name__})",
                "please report it; OPENME_TRACEBACK=1 tells more",
            )
        )
        return 1
    # Lines for stderr were lost, for which nobody but the exit code is left to say so.
    return code or int(output.stderr_is_lost)


def _fill_closed_streams() -> None:
    """Have /dev/null in the place of a standard stream that is closed: a file opened next would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # noqa: FBT003  # the standard library's signature
    if sys.__stdout__ is None:
        output.stdout_is_closed = True
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # as long as the process
    if sys.__stderr__ is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # as long as the process


def run() -> NoReturn:
    """The entry point of the `openme` command."""
    _fill_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal's character set lacks is no reason to fail; stderr is made so by Python.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _guarded(lambda: main(sys.argv[1:]))
    _give_up("stdout")
    _give_up("stderr")
    sys.exit(code)
