"""`openme serve` and `openme try`."""

import argparse

from openme.cli.commands import Action
from openme.cli.options import duration, matching
from openme.cli.output import complain, note
from openme.config.server_keys import INTERFACE_EXPECTED, INTERFACE_PATTERN
from openme.errors import OpenmeError
from openme.server import logs
from openme.server.start import clean_up, serve
from openme.server.state_file import DEFAULT_STATE_FILE


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    _shared_arguments(parser)
    parser.add_argument(
        "--clean-up",
        action="store_true",
        help="remove what a dead server left in the firewall, an existing one too, and exit",
    )


def _try_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "duration", type=duration, metavar="DURATION", help="how long a client has time to knock, such as 2m"
    )
    parser.add_argument("--yes", action="store_true", help="also where no client could knock")
    _shared_arguments(parser)


def _shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interface",
        type=matching(INTERFACE_PATTERN, INTERFACE_EXPECTED),
        metavar="IF",
        help="apply rules only to packets arriving here (from the config)",
    )
    parser.add_argument(
        "--state-file",
        metavar="PATH",
        help=f"who is in; empty: none ({DEFAULT_STATE_FILE}; none with firewall: memory, a dry run)",
    )
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")


def _serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    logs.set_up(args.log_level, as_json=args.log_json)
    if args.clean_up:
        removed, left = clean_up()
        for line in removed:
            note(line)
        for line in left:
            complain(OpenmeError(line))
        if left:
            return 1
        note("the firewall is clean: nothing of openme's is left in it")
        return 0
    return serve(args.config, interface=args.interface, state_file=args.state_file)


def _try(args: argparse.Namespace) -> int:
    """As `_serve`, but give up if nobody knocks in time."""
    logs.set_up(args.log_level, as_json=args.log_json)
    return serve(
        args.config,
        interface=args.interface,
        state_file=args.state_file,
        trial=args.duration,
        alone=args.yes,
    )


SERVE = Action(_serve_arguments, _serve)
TRY = Action(_try_arguments, _try)
