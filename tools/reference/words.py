"""The commands' words as plain values: which options and arguments each has, and what may stand as a value."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from openme.cli.commands import COMMANDS, Command
from openme.cli.main import global_options, parser_of

FILE, DIRECTORY, PROFILE = "file", "directory", "profile"
_NAMES_OF_PROFILES = {"profile", "profiles", "host"}
_KINDS = {"FILE": FILE, "PATH": FILE, "DIR": DIRECTORY}
WIDTH = 10_000
"""Columns of a usage that is not to be broken."""


class Value(NamedTuple):
    """What may stand there: one of `words`, a file, directory or profile (`kind`), or what nobody can guess."""

    name: str
    words: tuple[str, ...] = ()
    kind: str | None = None


class Option(NamedTuple):
    """An option by all its names, the short ones first. `value` is None for one that takes none."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    excludes: tuple[str, ...]


class Argument(NamedTuple):
    """A word by its place. `nargs` is argparse's: None, `?` or `*`."""

    value: Value
    help: str
    nargs: str | None

    @property
    def repeats(self) -> bool:
        """Whether there may be more of them."""
        return self.nargs == "*"


class Words(NamedTuple):
    """All that may stand after a command. `usage` is one line; `epilog` what its help says at the end."""

    command: Command
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    usage: str
    epilog: str


def common_options() -> tuple[Option, ...]:
    """Those that may stand before the command, and are among each one's own."""
    return (Option(("-h", "--help"), "show this help message and exit", None, ()), *_options(global_options(), None))


def every_command() -> Iterator[Words]:
    """In the order of the overview."""
    for command in COMMANDS:
        parser = parser_of(
            command, command.load(), lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=WIDTH)
        )
        yield Words(
            command,
            tuple(_options(parser, command)),
            tuple(
                Argument(
                    _value(action, command), _help(parser, action), None if action.nargs is None else str(action.nargs)
                )
                for action in parser._get_positional_actions()  # noqa: SLF001  # argparse has no public way to ask
            ),
            parser.format_usage().removeprefix("usage: ").strip(),
            parser.epilog or "",
        )


def _options(parser: argparse.ArgumentParser, command: Command | None) -> Iterator[Option]:
    for action in parser._get_optional_actions():  # noqa: SLF001  # argparse has no public way to ask
        excludes = tuple(
            name
            for group in parser._mutually_exclusive_groups  # noqa: SLF001  # as above
            if action in group._group_actions  # noqa: SLF001  # as above
            for other in group._group_actions  # noqa: SLF001  # as above
            if other is not action
            for name in other.option_strings
        )
        value = None if action.nargs == 0 else _value(action, command)
        names = sorted(action.option_strings, key=len)
        yield Option(tuple(names), _help(parser, action), value, excludes)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """With its %(default)s filled in."""
    return parser._get_formatter()._expand_help(action)  # noqa: SLF001  # argparse has no public way to ask


def _value(action: argparse.Action, command: Command | None) -> Value:
    choices = tuple(map(str, action.choices or ()))
    shown = action.metavar if isinstance(action.metavar, str) else None
    name = shown or ("{" + ",".join(choices) + "}" if choices else action.dest.upper())
    kind = _KINDS.get(name)
    if command is not None and command.group == "client" and action.dest in _NAMES_OF_PROFILES:
        kind = PROFILE
    return Value(name, choices, kind)
