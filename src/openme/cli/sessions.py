"""`openme sessions`."""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openme.cli.commands import Action
from openme.cli.output import answer, answer_json, answer_lines, json_text, table, warn
from openme.cli.paths import path
from openme.cli.running_server import ask
from openme.control import asking
from openme.control.forms import to_json
from openme.control.requests import Sessions
from openme.errors import OpenmeError
from openme.interrupts import ending
from openme.server.state_file import DEFAULT_STATE_FILE

_REFRESH = 1.0  # seconds
_CLEAR = "\x1b[H\x1b[J"

_OPEN = ("CLIENT", "FROM", "TO", "LEFT", "UNTIL")
_OTHERS = ("CLIENT", "LAST KNOCK")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", "--watch", action="store_true", help="refresh every second until Ctrl-C")
    parser.add_argument("--state-file", type=path, metavar="PATH", help="read this file instead of asking the server")
    parser.add_argument("--json", action="store_true", help="for programs")


def _run(args: argparse.Namespace) -> int:
    """Show it once, or again and again."""
    if not args.watch:
        _show(args)
        return 0
    with ending(lambda: 0):
        while True:
            if sys.stdout.isatty() and not args.json:
                sys.stdout.write(_CLEAR)
            _show(args)
            sys.stdout.flush()
            time.sleep(_REFRESH)


def _show(args: argparse.Namespace) -> None:
    value = _value(args)
    if args.json and args.watch:
        answer(json_text(value))  # one a line, for whoever follows
    elif args.json:
        answer_json(value)
    else:
        try:
            text = render(value, datetime.now(UTC))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise OpenmeError("this is not what a server says of its sessions", "see it as it is: --json") from None
        answer_lines(text, _OPEN, _OTHERS)
        for warning in value.get("warnings", ()):
            warn(warning)


def _value(args: argparse.Namespace) -> dict[str, Any]:
    if args.state_file is not None:
        return _read(args.state_file)
    try:
        return to_json(ask(args.config, Sessions()))
    except asking.NoServerError:
        if not DEFAULT_STATE_FILE.exists():
            raise
        warn("the server is not running; this is what one last wrote")
        return _read(DEFAULT_STATE_FILE)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OpenmeError(f"{path}: {error.strerror}", "is the server running? start it with: openme serve") from None
    except ValueError:
        raise OpenmeError(
            f"{path}: not a state file", "name the file that 'openme serve --state-file' writes"
        ) from None
    if not isinstance(value, dict) or "active_sessions" not in value:
        raise OpenmeError(f"{path}: not a state file", "name the file that 'openme serve --state-file' writes")
    return value


def render(value: dict[str, Any], now: datetime) -> str:
    """Who is in, the last knock of everybody else, and the ports that are hidden, but no longer in the config."""
    rows = []
    inside = set()
    for session in value["active_sessions"]:
        left = datetime.fromisoformat(session["expires_at"]) - now
        if left.total_seconds() <= 0:
            continue
        inside.add(session["client_name"])
        rows.append(
            [
                str(session["client_name"]),
                f"{session['ip']} ({session['network']})" if "network" in session else str(session["ip"]),
                ",".join(map(_port, session["ports"])) or "health port",
                f"{max(1, round(left.total_seconds()))}s",
                str(session["expires_at"]),
            ]
        )
    parts = [table(_OPEN, rows) if rows else "nobody is in"]
    others = [[name, str(at)] for name, at in value.get("last_seen", {}).items() if name not in inside]
    if others:
        parts.append(table(_OTHERS, others))
    if hidden := value.get("hidden_though_unnamed"):
        parts.append(f"hidden, but no longer in the config (openme unhide PORT): {', '.join(hidden)}")
    return "\n\n".join(parts)


def _port(port: dict[str, Any]) -> str:
    last = port.get("end_port") or port["port"]
    number = str(port["port"]) if last == port["port"] else f"{port['port']}-{last}"
    return f"{number}/{port['proto']}"


SESSIONS = Action(_arguments, _run)
