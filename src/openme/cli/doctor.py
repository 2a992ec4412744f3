"""`openme doctor`."""

import argparse
import os
import threading
from collections.abc import Callable, Mapping

from openme.cli.commands import Action
from openme.cli.options import host_name
from openme.cli.output import answer, answer_json, note
from openme.client import AddressError
from openme.doctor.clock import NOBODY, SERVER
from openme.doctor.looks import ALL_SECONDS, NotLooked, Report
from openme.errors import OpenmeError

FOUND = 1
_CLIENT, _SERVER = "client", "server"
_SPARE = 1.0  # seconds


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "It looks at each side whose file is there. On the client it knocks, and so opens a door as knock does. It\n"
        "ends within 20 s. Exit codes: 0 nothing found, 1 something is wrong. docs/troubleshooting.md has all causes."
    )
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="which server (default, or the only one)")
    parser.add_argument("--side", choices=(_CLIENT, _SERVER), help="look at this side alone")
    parser.add_argument("--no-knock", action="store_true", help="send no knock: look at what can be seen without one")
    parser.add_argument("--ip", metavar="A", help="knock for this address, as knock --ip does")
    parser.add_argument(
        "--ntp",
        type=host_name,
        default=SERVER,
        metavar="HOST",
        help=f"ask this one for the time ({SERVER}); {NOBODY}: ask nobody",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _run(args: argparse.Namespace) -> int:
    """Say what is wrong, a line each; 1 if anything is."""
    reports = _side_by_side(_examinations(args))
    is_well = not any(report.findings for report in reports.values())
    if args.json:
        answer_json(_value(reports))
        return 0 if is_well else FOUND
    for side, report in reports.items():
        for left in report.not_looked:
            note(f"{side}: not looked at: {left.look}: {left.why}")
    for side, report in reports.items():
        for finding in report.findings:
            answer(f"{side}: {finding.cause}: {finding.text}; cure: {finding.cure}")
    if is_well:
        looked = "; ".join(f"{side}: {', '.join(report.looked)}" for side, report in reports.items())
        answer(f"nothing found ({looked})")
    return 0 if is_well else FOUND


def _examinations(args: argparse.Namespace) -> Mapping[str, Callable[[], Report]]:
    """What is to be done, by side. OpenmeError if there is neither a server nor a client here."""
    # Each is loaded where it is needed: what a client has runs on every system.
    from openme.doctor.client.examine import check_ip, is_there  # noqa: PLC0415
    from openme.doctor.client.examine import examine as examine_client  # noqa: PLC0415

    try:
        check_ip(args.ip)
    except AddressError as error:
        raise OpenmeError(f"--ip: {error.message}", error.hint, exit_code=2) from None

    found: dict[str, Callable[[], Report]] = {}
    if args.side == _SERVER or (args.side is None and os.access(args.config, os.F_OK)):
        from openme.doctor.server.examine import examine as examine_server  # noqa: PLC0415

        found[_SERVER] = lambda: examine_server(args.config, ntp=args.ntp)
    is_meant = args.profile is not None or args.ip is not None or is_there(args.client_config)
    if args.side == _CLIENT or (args.side is None and is_meant):
        found[_CLIENT] = lambda: examine_client(
            args.client_config, args.profile, ntp=args.ntp, ip=args.ip, knocks=not args.no_knock
        )
    if not found:
        raise OpenmeError(
            f"there is neither a server's file here ({args.config}) nor a client's (~/.openme/config.yaml)",
            "name one: --config PATH or --client-config PATH; README.md begins with making them",
        )
    return found


def _side_by_side(examinations: Mapping[str, Callable[[], Report]]) -> dict[str, Report]:
    """What comes of each, in the time that there is; whatever one of them raises."""
    reports: dict[str, Report] = {}
    failures: list[Exception] = []

    def run(side: str, examine: Callable[[], Report]) -> None:
        try:
            reports[side] = examine()
        except Exception as error:  # noqa: BLE001  # it is raised again where somebody hears it
            failures.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in examinations.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ALL_SECONDS + _SPARE)
    if failures:
        raise failures[0]
    late = Report((), (), (NotLooked("all", "it took too long"),))
    return {side: reports.get(side, late) for side in examinations}


def _value(reports: Mapping[str, Report]) -> dict[str, object]:
    """The form that docs/troubleshooting.md shows."""
    return {
        "findings": [
            {"side": side, "cause": finding.cause, "text": finding.text, "cure": finding.cure}
            for side, report in reports.items()
            for finding in report.findings
        ],
        "looked_at": [{"side": side, "look": name} for side, report in reports.items() for name in report.looked],
        "not_looked_at": [
            {"side": side, "look": left.look, "why": left.why}
            for side, report in reports.items()
            for left in report.not_looked
        ],
    }


DOCTOR = Action(_arguments, _run)
