"""`openme knock` and `openme status`."""

import argparse
import subprocess
import time
from contextlib import suppress

from openme.cli.options import duration
from openme.cli.output import answer, answer_json, hint, note, warn
from openme.cli.profile_choice import chosen, client_config
from openme.client.addresses import Endpoint, parse_target, resolve
from openme.client.door import open_endpoints, wait_open
from openme.client.knock import Attempt, knock
from openme.config.model import Profile
from openme.durations import format_duration
from openme.errors import OpenmeError

SHUT = 3
DEFAULT_INTERVAL = 25.0  # seconds; below the usual knock_timeout of 30, so that the door stays open


def configure(name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of the two commands."""
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="which server (default, or the only one)")
    if name == "status":
        parser.add_argument("--knock", action="store_true", help="knock first")
        parser.add_argument("--json", action="store_true", help="for programs")
        return
    parser.add_argument("--ip", metavar="A", help="open the door for this address instead of the one we come from")
    parser.add_argument(
        "--check", action="store_true", help="wait until the door is open; exit code 3 if it stays shut"
    )
    parser.add_argument("--continuous", action="store_true", help="keep the door open until Ctrl-C")
    parser.add_argument(
        "--interval",
        type=duration,
        default=DEFAULT_INTERVAL,
        metavar="D",
        help=f"between two knocks with --continuous ({format_duration(DEFAULT_INTERVAL)})",
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run one of the two."""
    profile = chosen(client_config(args), args.profile)
    return _status(profile, args) if name == "status" else _knock(profile, args)


def _knock(profile: Profile, args: argparse.Namespace) -> int:
    wanted = profile.ip if args.ip is None else str(parse_target(args.ip))
    attempt = _send(profile, wanted)
    code = 0
    if args.check:
        opened = wait_open([sent.endpoint for sent in attempt.sent], profile.server_health_port)
        code = _tell(profile, attempt, opened, elsewhere=args.ip is not None)
        if code and not args.continuous:
            return code
    if args.continuous:
        return _continue(profile, wanted, args)
    if profile.post_knock:
        return max(code, _after(subprocess.run(["sh", "-c", profile.post_knock], check=False).returncode))
    return code


def _send(profile: Profile, wanted: str | None) -> Attempt:
    attempt = knock(profile, wanted)
    for sent in attempt.sent:
        where = "the address it comes from" if sent.target is None else str(sent.target)
        note(f"knocked at {profile.server_host} ({sent.endpoint}, port {profile.server_udp_port}) for {where}")
    for endpoint, reason in attempt.failed:
        note(f"no knock to {endpoint}: {reason}")
    return attempt


def _continue(profile: Profile, wanted: str | None, args: argparse.Namespace) -> int:
    """Knock again and again; `post_knock` runs once, beside it."""
    command = subprocess.Popen(["sh", "-c", profile.post_knock]) if profile.post_knock else None
    next_knock = time.monotonic() + args.interval
    code = 0
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(max(0.0, next_knock - time.monotonic()))
            next_knock += args.interval
            try:
                attempt = _send(profile, wanted)
            except OpenmeError as error:
                # A network that is gone for a while must not end what is to keep a door open.
                warn(error.message)
                continue
            if args.check:
                opened = wait_open([sent.endpoint for sent in attempt.sent], profile.server_health_port)
                code = _tell(profile, attempt, opened, elsewhere=args.ip is not None)
    if command is not None and command.poll() is not None:
        code = max(code, _after(command.returncode))
    return code


def _after(status: int) -> int:
    if status:
        warn(f"post_knock ended with status {status}")
    return 1 if status else 0


def _tell(profile: Profile, attempt: Attempt, opened: list[Endpoint], *, elsewhere: bool) -> int:
    answer("open" if opened else "closed")
    if not opened:
        if elsewhere:
            hint("the knock named another address than ours: from here the door may well be shut")
        hint(
            f"nothing answered on {profile.server_host} port {profile.server_health_port}/tcp"
            "; on the server: openme sessions"
        )
        return SHUT
    for sent in attempt.sent:
        if sent.endpoint not in opened:
            warn(f"open, but not over {sent.endpoint}")
    return 0


def _status(profile: Profile, args: argparse.Namespace) -> int:
    if args.knock:
        endpoints = [sent.endpoint for sent in _send(profile, profile.ip).sent]
        opened = wait_open(endpoints, profile.server_health_port)
    else:
        endpoints = resolve(profile.server_host, profile.server_udp_port)
        opened = open_endpoints(endpoints, profile.server_health_port, 2.0)
    if args.json:
        answer_json(
            {
                "profile": profile.name,
                "open": bool(opened),
                "addresses": [{"address": e.host, "open": e in opened} for e in endpoints],
            }
        )
    else:
        answer("open" if opened else "closed")
    return 0 if opened else SHUT
