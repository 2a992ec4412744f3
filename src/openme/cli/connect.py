"""`openme connect`: stands between ssh and a hidden port, as its ProxyCommand."""

import argparse
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from openme.cli.commands import Action
from openme.cli.knocking import renewed, session_with, warn_of_keys
from openme.cli.options import port_number, profile_name
from openme.cli.output import note, warn
from openme.cli.progress import waiting
from openme.client import (
    Attempt,
    BrokenError,
    Dialler,
    Endpoint,
    Session,
    ShutError,
    State,
    choose_profile,
    leads_to,
    load_profiles,
    profile_for,
    relay,
)
from openme.errors import OpenmeError

SHUT = 3
BROKEN = 4
STDIN, STDOUT = 0, 1
LOOK_SECONDS = 0.15
"""For a port that may be open: most are reached and back in less. Where not, all that it costs is a needless knock."""
FIRST_SECONDS = 1.0
"""Until the second knock; then twice as long, and once more: seven seconds in all."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "In ~/.ssh/config: ProxyCommand openme connect %h %p (openme ssh-config writes it for you).\n"
        "It knocks unless the port is open already. stdin and stdout are the connection, messages go to stderr.\n"
        "Exit codes: 0 the connection has ended, 1 no profile for HOST, or it cannot knock, 3 the port stayed shut,\n"
        "4 the connection broke."
    )
    parser.add_argument(
        "host",
        type=profile_name,
        metavar="HOST",
        help="where to: a server's name or address, or the name of its profile",
    )
    parser.add_argument("port", type=port_number, metavar="PORT", help="the TCP port")
    parser.add_argument(
        "--profile", metavar="NAME", help="knock with this one (that whose server_host or name is HOST, else default)"
    )


def _run(args: argparse.Namespace) -> int:
    """Connect, knocking where that is needed, and carry what comes until both sides have ended."""
    config = load_profiles(args.client_config)
    profile = profile_for(config, args.host) if args.profile is None else choose_profile(config, args.profile)
    is_there = leads_to(profile, args.host)
    if not is_there and args.profile is None:
        note(f"no profile is for {args.host}: using profile {profile.name}, which knocks at {profile.server_host}")
    session = session_with(config, profile.name)
    where = f"{profile.server_host if is_there else args.host} port {args.port}"
    with _connected(session, None if is_there else args.host, args.port, where) as connection:
        try:
            relay(connection, STDIN, STDOUT)
        except BrokenError as error:
            raise OpenmeError(f"{where}: {error.message}", exit_code=BROKEN) from None
    return 0


def _connected(session: Session, elsewhere: str | None, port: int, where: str) -> socket.socket:
    """A connection to this port: of the profile's server, or of another host."""
    begun = time.monotonic()
    is_told = is_shown = False

    def dial(endpoints: Sequence[Endpoint], seconds: float) -> socket.socket | None:
        nonlocal is_told, is_shown
        if not is_told and time.monotonic() - begun > LOOK_SECONDS + FIRST_SECONDS:
            note(f"{where} does not answer yet; knocked again")
            is_told = True
        if not is_shown and seconds > LOOK_SECONDS:
            is_shown = True  # not before the knock, which may ask for a passphrase
            shown.enter_context(waiting(f"waiting for {where}"))
        return dialler(endpoints, seconds)

    with Dialler(port, elsewhere) as dialler, ExitStack() as shown:
        try:
            reached = session.reach(dial, look=LOOK_SECONDS, seconds=FIRST_SECONDS)
        except ShutError as error:
            seen = dialler.problem or "nothing answers"
            cause, cure = _why_shut(session, error.attempt, None if elsewhere else port)
            raise OpenmeError(f"{where}: {cause}: {seen}", cure or error.hint, exit_code=SHUT) from None
    if reached.attempt is not None:
        warn_of_keys(session, renewed(session, reached.attempt))
    return reached.connection


def _why_shut(session: Session, attempt: Attempt, port: int | None) -> tuple[str, str | None]:
    """A cause and its cure, by what the server itself says of the last knock. `port`: the one that it is to open."""
    outcome = session.check(attempt)
    for failure in outcome.problems:
        warn(failure.message)
    receipts = [proof.receipt for proof in outcome.proofs if proof.receipt is not None]
    opened = list(dict.fromkeys(spec for receipt in receipts for spec in receipt.ports))
    profile = session.profile
    if outcome.state is State.OPEN and port is None:
        return "the knock opened a door, but not there", f"it went to {profile.server_host}, of profile {profile.name}"
    if outcome.state is State.OPEN and receipts and not any(_includes(spec, port) for spec in opened):
        return (
            f"the knock opened {', '.join(opened) or 'the health port alone'}, and not this port",
            f"on the server, add {port}/tcp to the ports of client {receipts[0].client}",
        )
    if outcome.state is State.OPEN:
        return "the knock opened a door, but there is no connection", "see whether the service runs there"
    if own := [str(sent.target) for sent in attempt.sent if sent.is_own]:
        return "no connection after the knock", (
            f"the knock named {' and '.join(own)}, this machine's own address; if a router on the way changes it:"
            f" ip: source in profile {profile.name}"
        )
    return "no connection after the knock", None


def _includes(spec: str, port: int | None) -> bool:
    """Whether what a server says it has opened has this port for TCP."""
    from openme.ports import parse_port_spec  # noqa: PLC0415  # with dataclasses: several milliseconds of each start

    try:
        return any(part.proto == "tcp" and part.first <= (port or 0) <= part.last for part in parse_port_spec(spec))
    except ValueError:
        return False


CONNECT = Action(_arguments, _run)
