"""`openme profiles`."""

import argparse
from datetime import UTC, datetime

from openme.cli.commands import Action
from openme.cli.output import answer, answer_json, answer_lines, hint, table
from openme.client import choose_profile, load_profiles, protocol_of
from openme.config.profile_model import KeyPair, Profile
from openme.keys.ed25519 import encode_base64
from openme.visible import visible

_OF_A_SERVER = (
    *("server_host", "server_udp_port", "server_health_port", "server_pubkey"),
    *("protocol", "epoch_keys", "ip", "post_knock"),
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="NAME", help="show this one in full, without secrets")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--names", action="store_true", help="names alone, one a line, as for the completion of a shell")


def _run(args: argparse.Namespace) -> int:
    """List them, or show one."""
    config = load_profiles(args.client_config)
    if args.names:
        for name in (
            (*config.profiles, *config.waiting) if args.profile is None else [choose_profile(config, args.profile).name]
        ):
            answer(name)
        return 0
    if args.profile is not None:
        value = _value(choose_profile(config, args.profile))
        if args.json:
            answer_json(value)
        else:
            answer_lines(
                "\n".join(f"{key}: {'-' if item is None else visible(str(item))}" for key, item in value.items())
            )
        return 0
    if args.json:
        values = [_value(profile) for profile in config.profiles.values()]
        answer_json([*values, *(_waiting(pair) for pair in config.waiting.values())])
    elif config.profiles or config.waiting:
        rows = [[p.name, p.server_host, f"{p.server_udp_port}/udp", _fingerprint(p)] for p in config.profiles.values()]
        rows += ([pair.name, "-", "-", _fingerprint(pair)] for pair in config.waiting.values())
        headings = ["PROFILE", "SERVER", "KNOCK PORT", "FINGERPRINT"]
        answer_lines(table(headings, rows), headings)
        for pair in config.waiting.values():
            hint(f"{pair.name} waits for its server: openme add NAME --pubkey {pair.public_key or 'KEY'}")
    else:
        hint(f"{config.path} holds no profiles; on the server: openme add NAME")
    return 0


def _fingerprint(held: Profile | KeyPair) -> str:
    return "-" if held.public_key is None else held.public_key.fingerprint


def _epoch_range(profile: Profile) -> str | None:
    """The days that the file's own epoch keys cover."""
    keys = profile.epoch_keys
    if keys is None:
        return None
    bounds = (keys.first * keys.length, (keys.first + len(keys.keys)) * keys.length - 1)
    try:
        first, last = (datetime.fromtimestamp(bound, UTC).strftime("%Y-%m-%d") for bound in bounds)
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"
    return f"{first} to {last}"


def _value(profile: Profile) -> dict[str, object]:
    """Everything but the secrets: that there is a private key is said, and no more."""
    return {
        "name": profile.name,
        "server_host": profile.server_host,
        "server_udp_port": profile.server_udp_port,
        "server_health_port": profile.server_health_port,
        "server_pubkey": encode_base64(profile.server_pubkey),
        "public_key": None if profile.public_key is None else str(profile.public_key),
        "fingerprint": _fingerprint(profile),
        "private_key": "present" if profile.private_key is not None else "missing",
        "identity": profile.identity,
        "protocol": protocol_of(profile),
        "epoch_keys": _epoch_range(profile),
        "ip": profile.ip,
        "post_knock": profile.post_knock,
    }


def _waiting(pair: KeyPair) -> dict[str, object]:
    """The same of one that names no server yet."""
    return {
        "name": pair.name,
        "public_key": None if pair.public_key is None else str(pair.public_key),
        "fingerprint": _fingerprint(pair),
        "private_key": "present" if pair.private_key is not None else "missing",
        "identity": pair.identity,
        **dict.fromkeys(_OF_A_SERVER),
    }


PROFILES = Action(_arguments, _run)
