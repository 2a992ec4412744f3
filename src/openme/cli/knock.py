"""`openme knock` and `openme status`."""

import argparse
import shlex
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from openme.cli.options import duration
from openme.cli.output import answer, answer_json, hint, note, warn
from openme.cli.profile_choice import chosen, client_config
from openme.client.addresses import Endpoint, parse_wanted, resolve
from openme.client.door import open_endpoints, wait_open
from openme.client.knock import Attempt, knock, version_of
from openme.client.known import Known, PastKnock
from openme.client.nat64 import Nat64
from openme.client.plan import by_family
from openme.client.receipt import PATIENCE, Proof, prove
from openme.client.renewal import fetch, is_due, last_moment
from openme.client.turns import Turns
from openme.config.model import Profile
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.interrupts import ending
from openme.keys.ratchet import NS
from openme.moments import day, rfc3339
from openme.wire.base import Keys

SHUT = 3
DEFAULT_INTERVAL = 25.0  # seconds; below the usual knock_timeout of 30, so that the door stays open


def configure(name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of the two commands."""
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="which server (default, or the only one)")
    if name == "status":
        parser.add_argument("--knock", action="store_true", help="knock first")
        parser.add_argument("--json", action="store_true", help="for programs")
        return
    parser.add_argument(
        "--ip",
        metavar="A",
        help="open for this address; auto: this machine's own if that is global; source: where the packet comes from; "
        "https://…: the one that this page says",
    )
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
    config = client_config(args)
    client = _Client(chosen(config, args.profile), Known(config))
    return client.status(args) if name == "status" else client.knock(args)


class _Client:
    """One profile, and what is known of its server."""

    def __init__(self, profile: Profile, known: Known) -> None:
        self.profile = profile
        self.known = known
        self.has_epochs = version_of(profile).keys is Keys.EPOCH
        if self.has_epochs and profile.epoch_keys is not None:
            other = known.other_host_with(profile, profile.epoch_keys.keys)
            if other is not None:
                raise OpenmeError(
                    f"profile {profile.name}: epoch_keys: profile {other.name} for {other.server_host} has the same:"
                    " one server may be passing the other's keys off as its own",
                    f"if both are one server, add to profile {profile.name}: same_server_as: [{other.server_host}]",
                )

    # -- knock

    def knock(self, args: argparse.Namespace) -> int:
        """Send it; wait for the door only if asked to."""
        profile = self.profile
        wanted = profile.ip if args.ip is None else parse_wanted(args.ip)
        attempt = self._send(wanted)
        code = 0
        if args.check:
            code = self._check(attempt)
            if code and not args.continuous:
                self._warn_of_keys()
                return code
        if args.continuous:
            return self._continue(wanted, args, attempt)
        if profile.post_knock:
            # Beside it and never before it: nobody waits for new keys.
            with subprocess.Popen(["sh", "-c", profile.post_knock]) as command:
                problem = None if args.check else self._renew(attempt)
                code = max(code, _after(command.wait()))
        else:
            problem = None if args.check else self._renew(attempt)
        self._warn_of_keys(problem)
        return code

    # -- renewing keys

    def _renew(self, attempt: Attempt) -> str | None:
        """Fetch the receipt of a knock that was just sent, if new keys are due; why what it brought was refused.

        That nothing came is no failure: there is another try tomorrow, and a warning when time runs short.
        """
        profile = self.profile
        if not self.has_epochs or profile.epoch_keys is None:
            return None
        now_ns = time.time_ns()
        if not is_due(profile.epoch_keys, self.known.keys(profile), now_ns, self.known.tried(profile)):
            return None
        try:
            self.known.note_try(profile, now_ns // NS)
        except OSError as error:
            # Where a try cannot be noted keys cannot be stored, and every knock would wait in vain.
            return f"new epoch keys could not be stored: {error.strerror}"
        knocks = [(sent.endpoint, sent.past) for sent in attempt.sent if sent.past is not None]
        proof = fetch(knocks, profile.server_health_port)
        return None if proof is None else self._store(proof)

    def _warn_of_keys(self, problem: str | None = None) -> None:
        """Say what went wrong with new keys, and that those there are end soon."""
        if problem:
            warn(problem)
        profile = self.profile
        if not self.has_epochs or profile.epoch_keys is None:
            return
        end = last_moment(profile.epoch_keys, self.known.keys(profile), time.time_ns())
        if end is not None:
            warn(
                f"profile {profile.name} has epoch keys until {day(end)}, and cannot knock after that: new ones come"
                " with a receipt (openme knock --check), or in a new file (on the server: openme renew NAME)"
            )

    def _send(self, wanted: str | None) -> Attempt:
        profile = self.profile
        keys = self.known.keys(profile) if self.has_epochs else None
        networks = Nat64(self.known.networks, self.known.note_networks)
        attempt = knock(profile, wanted, epoch_keys=keys, prefixes=networks.prefixes)
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
        if past := [sent.past for sent in attempt.sent if sent.past is not None]:
            # What cannot be kept costs a later `status` its proof, and never this knock.
            with suppress(OSError):
                self.known.remember(profile, past)
        return attempt

    def _continue(self, wanted: str | None, args: argparse.Namespace, attempt: Attempt) -> int:
        """Knock again and again; `post_knock` runs once, beside it. `attempt` is the first knock, sent already."""
        post_knock = self.profile.post_knock
        command = subprocess.Popen(["sh", "-c", post_knock]) if post_knock else None
        code = 0

        def ended() -> int:
            return code if command is None or command.poll() is None else max(code, _after(command.returncode))

        with ending(ended):
            self._warn_of_keys(None if args.check else self._renew(attempt))
            turns = Turns(args.interval)
            while True:
                turns.wait()
                try:
                    attempt = self._send(wanted)
                except OpenmeError as error:
                    # A network that is gone for a while must not end what is to keep a door open.
                    warn(error.message)
                    continue
                if args.check:
                    code = self._check(attempt)
                elif problem := self._renew(attempt):
                    warn(problem)

    def _check(self, attempt: Attempt) -> int:
        """Wait for the door, and say what opened: under version 2 by the server's own word."""
        opened = wait_open([sent.endpoint for sent in attempt.sent], self.profile.server_health_port)
        if not opened:
            self._say_closed(attempt, "--ip source")
            return SHUT
        proofs = self._prove(attempt, opened) if self.has_epochs else []
        code = _say_proofs(proofs) if self.has_epochs else _say_open()
        for sent in attempt.sent:
            if sent.endpoint not in opened:
                warn(f"open, but not over {sent.endpoint}")
        return code

    def _prove(self, attempt: Attempt, opened: Sequence[Endpoint]) -> list[Proof]:
        """The receipts of what was sent over the families that are open; what they bring is kept."""
        proofs = self._asked(
            [(s.endpoint, s.past) for s in attempt.sent if s.past is not None and s.endpoint in opened]
        )
        for proof in proofs:
            self._keep(proof)
        return proofs

    def _asked(self, knocks: Sequence[tuple[Endpoint, PastKnock]], patience: float = PATIENCE) -> list[Proof]:
        """One proof for each knock, however many addresses it went to: of one that gives it, else of the first."""
        proofs: dict[bytes, Proof] = {}
        for endpoint, past in knocks:
            so_far = proofs.get(past.receipt.id)
            if so_far is None or so_far.receipt is None:
                proof = prove(endpoint, self.profile.server_health_port, past, patience=patience)
                if so_far is None or proof.receipt is not None:
                    proofs[past.receipt.id] = proof
        return list(proofs.values())

    def _keep(self, proof: Proof) -> None:
        if refused := self._store(proof):
            warn(refused)

    def _store(self, proof: Proof) -> str | None:
        """Take over the keys that a receipt brought; why not, if they are refused or cannot be stored."""
        if proof.receipt is None or proof.receipt.epoch_keys is None:
            return None
        try:
            return self.known.add(self.profile, proof.knock.epoch, proof.receipt.epoch_keys)
        except OSError as error:
            return f"new epoch keys could not be stored: {error.strerror}"

    def _say_closed(self, attempt: Attempt, change: str) -> None:
        """`change`: how the user of this command lets the server take the address that the knock comes from."""
        profile = self.profile
        answer("closed")
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
        )

    # -- status

    def status(self, args: argparse.Namespace) -> int:
        """Say whether the door is open, knocking first if asked to."""
        profile = self.profile
        proofs: list[Proof] = []
        attempt: Attempt | None = None
        if args.knock:
            attempt = self._send(profile.ip)
            endpoints = [sent.endpoint for sent in attempt.sent]
            opened = wait_open(endpoints, profile.server_health_port)
            if self.has_epochs:
                proofs = self._prove(attempt, opened)
        else:
            families = by_family(resolve(profile.server_host, profile.server_udp_port))
            endpoints = [endpoint for family in families for endpoint in family.endpoints]
            opened = open_endpoints(endpoints, profile.server_health_port, 2.0)
            if self.has_epochs:
                proofs = self._ask_again(opened)
        self._warn_of_keys()
        by_proof = self.has_epochs and args.knock
        is_open = any(proof.opened_as_asked for proof in proofs) if by_proof or proofs else bool(opened)
        if args.json:
            answer_json(
                {
                    "profile": profile.name,
                    "open": is_open,
                    "addresses": [{"address": e.host, "open": e in opened} for e in endpoints],
                    "receipts": [_proof_value(proof) for proof in proofs],
                }
            )
            return 0 if is_open else SHUT
        if not opened and attempt is not None:
            self._say_closed(attempt, f"ip: source in profile {profile.name}")
            return SHUT
        if not opened:
            answer("closed")
            named = "" if args.profile is None else f" {shlex.quote(profile.name)}"
            hint(
                f"nothing answers on {profile.server_host} port {profile.server_health_port}/tcp, as before a knock; to"
                f" knock: openme knock --check{named}"
            )
            return SHUT
        if any(proof.receipt for proof in proofs) or by_proof:
            return _say_proofs(proofs)
        return _say_open()

    def _ask_again(self, opened: Sequence[Endpoint]) -> list[Proof]:
        """The receipts of this machine's last knock, as far as its doors are still open."""
        last = {knock.host: knock for knock in self.known.last(self.profile)}
        asked = [(endpoint, last[endpoint.host]) for endpoint in opened if endpoint.host in last]
        proofs = self._asked(asked, patience=0)
        for proof in proofs:
            self._keep(proof)
        return [proof for proof in proofs if proof.receipt is not None]


def _after(status: int) -> int:
    if status:
        warn(f"post_knock ended with status {status}")
    return 1 if status else 0


def _say_open() -> int:
    answer("open")
    return 0


def _say_proofs(proofs: Sequence[Proof]) -> int:
    """One word, then what the server itself says to have opened; 0 if one family got what was asked for."""
    is_open = any(proof.opened_as_asked for proof in proofs)
    answer("open" if is_open else "not as asked" if any(proof.receipt for proof in proofs) else "not confirmed")
    for proof in proofs:
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
    return 0 if is_open else SHUT


def _proof_value(proof: Proof) -> dict[str, object]:
    receipt = proof.receipt
    value: dict[str, object] = {"address": proof.endpoint.host, "proven": receipt is not None}
    if receipt is None:
        return value | {"problem": proof.problem}
    return value | {
        "as_asked": proof.opened_as_asked,
        "client": receipt.client,
        "ip": str(receipt.ip),
        "network": None if receipt.network is None else str(receipt.network),
        "ip_checked": proof.knock.target is not None,
        "ports": list(receipt.ports),
        "expires_at": rfc3339(receipt.expires_at),
        "server_time": rfc3339(receipt.server_time),
    }
