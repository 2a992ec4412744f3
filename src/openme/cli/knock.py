"""`openme knock` and `openme status`."""

import argparse
import sys
from typing import TYPE_CHECKING

from openme.cli.commands import Action
from openme.cli.knocking import renewed, session_with, warn_of_keys
from openme.cli.options import duration
from openme.cli.output import answer, answer_json, complain, hint, json_text, note, warn
from openme.cli.progress import waiting
from openme.client import (
    USUAL_INTERVAL,
    AddressError,
    Answer,
    Attempt,
    ClientError,
    Outcome,
    Session,
    State,
    load_profiles,
)
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.interrupts import ending
from openme.moments import rfc3339

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

SHUT = 3

_EPILOG = (
    "proven: by a receipt of the server's; unproven: something answers; closed: nothing does.\n"
    "openme doctor looks for the cause."
)


def _profile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="which server (default, or the only one)")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _profile_argument(parser)
    parser.epilog = _EPILOG
    parser.add_argument("--knock", action="store_true", help="knock first")
    parser.add_argument("--json", action="store_true", help="for programs")


def _knock_arguments(parser: argparse.ArgumentParser) -> None:
    _profile_argument(parser)
    parser.add_argument(
        "--ip",
        metavar="A",
        help="open for this address; auto: this machine's own if that is global; source: where the packet comes from; "
        "https://…: the one that this page says",
    )
    parser.add_argument(
        "--check", action="store_true", help="wait until the door is open; exit code 3 if it stays shut"
    )
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--continuous", action="store_true", help="keep the door open until Ctrl-C")
    parser.add_argument(
        "--interval",
        type=duration,
        metavar="D",
        help=f"between two knocks with --continuous ({format_duration(USUAL_INTERVAL)}, or sooner where the server"
        " says that the door is open for less)",
    )


def _client(args: argparse.Namespace) -> "_Client":
    return _Client(session_with(load_profiles(args.client_config), args.profile))


class _Client:
    """A session, in words."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.profile = session.profile

    # -- knock

    def knock(self, args: argparse.Namespace) -> int:
        """Send it; wait for the door only if asked to."""
        post_knock = self.profile.post_knock
        try:
            attempt = self.session.knock(args.ip)
        except AddressError as error:  # the file's own `ip` was looked at when it was loaded
            raise OpenmeError(f"--ip: {error.message}", error.hint, exit_code=2) from None
        # From now on, since the network may change while the door is looked at.
        following = self.session.again(args.interval, args.ip) if args.continuous else None
        self._say_sent(attempt)
        code = 0
        if args.check:
            with waiting(self._what_is_waited_for()):
                outcome = self.session.check(attempt)
            code = self._say_checked(attempt, outcome, args)
            if code and not args.continuous:
                warn_of_keys(self.session)
                return code
        elif args.json:
            self._answer_json(args, attempt=attempt)
        if following is not None:
            return self._continue(args, attempt, following)
        if post_knock:
            # Beside it and never before it: nobody waits for new keys.
            with _started(post_knock, args) as command:
                problem = None if args.check else renewed(self.session, attempt)
                code = max(code, _after(command.wait()))
        else:
            problem = None if args.check else renewed(self.session, attempt)
        warn_of_keys(self.session, problem)
        return code

    def _say_sent(self, attempt: Attempt) -> None:
        profile = self.profile
        for sent in attempt.sent:
            if sent.target is None:
                where = "the address it comes from"
            elif sent.told_by is not None:
                where = f"{sent.target}, as {sent.told_by} says"
            elif sent.is_own:
                where = f"{sent.target}, this machine's own address"
            else:
                where = str(sent.target)
            note(f"knocked at {profile.server_host} ({sent.endpoint}, port {profile.server_udp_port}) for {where}")
        if attempt.left_out:
            note(f"{profile.server_host} has {attempt.left_out} more addresses; no knock was sent to them")
        for endpoint, reason in attempt.failed:
            note(f"no knock to {endpoint}: {reason}")
        for family, reason in attempt.unnamed:
            warn(f"no knock over {family}: {reason}")

    def _continue(
        self, args: argparse.Namespace, attempt: Attempt, following: "Iterator[Attempt | ClientError]"
    ) -> int:
        """Knock again and again; `post_knock` runs once, beside it. `attempt` is the first knock, sent already."""
        post_knock = self.profile.post_knock
        command = _started(post_knock, args) if post_knock else None
        code = 0

        def ended() -> int:
            return code if command is None or command.poll() is None else max(code, _after(command.returncode))

        with ending(ended):
            # How long the door is open only a receipt tells.
            warn_of_keys(self.session, None if args.check else renewed(self.session, attempt, always=True))
            self._warn_of_interval(args.interval)
            for found in following:
                if isinstance(found, ClientError):
                    warn(found.message)
                    continue
                self._say_sent(found)
                if args.check:
                    code = self._say_checked(found, self.session.check(found), args)
                    continue
                if args.json:
                    self._answer_json(args, attempt=found)
                if problem := renewed(self.session, found):
                    warn(problem)
        return code

    def _warn_of_interval(self, interval: float | None) -> None:
        """What the user asks for is done, and he hears what comes of it."""
        grant = self.session.grant
        if interval is not None and grant is not None and interval >= grant:
            asked, opened = format_duration(interval), format_duration(round(grant))
            warn(
                f"--interval {asked}: the server opens for {opened} only, and the door is shut in between; without"
                " --interval it never is"
            )

    def _answer_json(
        self, args: argparse.Namespace, *, attempt: Attempt | None = None, outcome: Outcome | None = None
    ) -> int:
        """What became of a knock or a look, for programs: on one line where more follow."""
        from openme.cli.knock_json import value  # noqa: PLC0415  # for the few who ask for it

        found = value(self.profile.name, attempt, outcome)
        if getattr(args, "continuous", False):
            answer(json_text(found))
        else:
            answer_json(found)
        return 0 if outcome is None or outcome.is_open else SHUT

    def _say_checked(self, attempt: Attempt, outcome: Outcome, args: argparse.Namespace) -> int:
        """Say what opened: under version 2 by the server's own word."""
        _say_problems(outcome)
        if args.json:
            return self._answer_json(args, attempt=attempt, outcome=outcome)
        if outcome.state is State.CLOSED:
            self._say_closed(attempt, "--ip source")
            return SHUT
        code = _say_found(outcome)
        for endpoint in outcome.endpoints:
            if endpoint not in outcome.opened:
                warn(f"open, but not over {endpoint}")
        return code

    def _what_is_waited_for(self) -> str:
        return f"waiting for {self.profile.server_host} port {self.profile.server_health_port}/tcp"

    def _say_closed(self, attempt: Attempt, change: str) -> None:
        """`change`: how the user of this command lets the server take the address that the knock comes from."""
        profile = self.profile
        answer("closed", good=False)
        for target, told_by, is_own in dict.fromkeys((sent.target, sent.told_by, sent.is_own) for sent in attempt.sent):
            if target is None:
                continue
            if told_by is not None:
                hint(
                    f"the knock named the address that the page saw, {target}; the server may see us come from another"
                )
            elif is_own:
                hint(
                    f"the knock named {target}, this machine's own address; if a router on the way changes it: {change}"
                )
            else:
                hint(
                    f"the knock named {target}: from here the door is shut, unless the server sees this machine as that"
                )
        hint(
            f"nothing answered on {profile.server_host} port {profile.server_health_port}/tcp; on the"
            " server, the log says why (journalctl -u openme), and 'openme list' shows the client's last accepted knock"
            "; openme doctor looks for the cause"
        )

    # -- status

    def status(self, args: argparse.Namespace) -> int:
        """Say whether the door is open, knocking first if asked to."""
        profile = self.profile
        if args.knock:
            attempt = self.session.knock()
            self._say_sent(attempt)
            with waiting(self._what_is_waited_for()):
                outcome = self.session.check(attempt)
        else:
            outcome = self.session.status()
            if outcome.left_out:
                note(f"{profile.server_host} has {outcome.left_out} more addresses; they were not looked at")
        _say_problems(outcome)
        warn_of_keys(self.session)
        if args.json:
            return self._answer_json(args, attempt=outcome.attempt, outcome=outcome)
        if outcome.state is State.CLOSED and outcome.attempt is not None:
            self._say_closed(outcome.attempt, f"ip: source in profile {profile.name}")
            return SHUT
        if outcome.state is State.CLOSED:
            answer("closed", good=False)
            import shlex  # noqa: PLC0415  # see _started

            named = "" if args.profile is None else f" {shlex.quote(profile.name)}"
            hint(
                f"nothing answers on {profile.server_host} port {profile.server_health_port}/tcp, as before a knock; to"
                f" knock: openme knock --check{named}"
            )
            return SHUT
        return _say_found(outcome)


def _started(post_knock: str, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Run it, with the terminal; where stdout is for a program that reads JSON it prints to stderr."""
    import subprocess  # noqa: PLC0415  # two of a plain knock's hundred milliseconds, which most profiles need not spend

    return subprocess.Popen(["sh", "-c", post_knock], stdout=sys.stderr if args.json else None)


def _after(status: int) -> int:
    if status:
        complain(OpenmeError(f"post_knock ended with status {status}"))
    return 1 if status else 0


def _say_problems(outcome: Outcome) -> None:
    """Why keys that receipts brought were not kept."""
    for problem in outcome.problems:
        warn(problem.message)


def _say_found(outcome: Outcome) -> int:
    """One word, then what the server itself says to have opened; 0 if one family got what was asked for."""
    answer(outcome.state.value, good=outcome.is_open)
    if outcome.answer is Answer.UNPROVEN and outcome.is_open:
        hint("unproven: the health port answers, and no receipt says that it is the server, or what else is open")
    for proof in outcome.proofs:
        receipt = proof.receipt
        if receipt is None:
            hint(
                f"not confirmed over {proof.endpoint}: {proof.problem}; the knock may have been lost, or this may"
                " not be the server"
            )
            continue
        ports = ", ".join(receipt.ports) or "the health port alone"
        until = rfc3339(receipt.expires_at)
        network = "" if receipt.network is None else f" and its network {receipt.network}"
        answer(f"{ports} for {receipt.ip}{network} until {until}, proven by the server")
        if not proof.opened_as_asked:
            warn(f"the knock named {proof.knock.target}, but the server opened {receipt.ip}: do not trust this door")
        if proof.knock.target is None:
            note(f"your address, as the server saw it: {receipt.ip} (the knock named none, so only you can check this)")
        if (difference := proof.clock_difference) is not None:
            side = "ahead of" if difference > 0 else "behind"
            warn(f"the server's clock is {abs(difference):.0f} s {side} this machine's")
    return 0 if outcome.is_open else SHUT


KNOCK = Action(_knock_arguments, lambda args: _client(args).knock(args))
STATUS = Action(_status_arguments, lambda args: _client(args).status(args))
