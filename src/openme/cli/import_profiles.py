"""`openme import`: profiles of somebody else's making, into the client's file."""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from openme.cli.asking import agrees
from openme.cli.commands import Action
from openme.cli.options import profile_name
from openme.cli.output import answer, hint, note, warn
from openme.cli.paths import path_or_stdin
from openme.cli.qr_image import MOST_BYTES, PNG, texts_untrusted
from openme.client import profiles_path, refuse_shared_keys
from openme.config.files import file_error
from openme.config.offered import Offered, offered_untrusted
from openme.config.profile import parse_client_config
from openme.config.profile_edit import change_profiles, profiles_text
from openme.config.profile_merge import Merged, Step, merged
from openme.config.profile_model import ClientConfig, KeyPair, Profile
from openme.errors import OpenmeError

_END = "Ctrl-D" if os.name == "posix" else "Ctrl-Z and Enter"
_ASKED = ("post_knock", "same_server_as", "ip")
"""Keys that give more than a door for us: a command of this machine's, trust in one server's word for another's, and a
door for whom a file or a page names.
"""
_OUR_OWN = frozenset({"auto", "source"})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=path_or_stdin,
        metavar="FILE",
        help="profiles in YAML or JSON, or a PNG image with a QR code; without FILE, or with -, stdin",
    )
    parser.add_argument("--as", dest="name", type=profile_name, metavar="NAME", help="what the profile is to be called")
    parser.add_argument(
        "--replace", action="store_true", help="take the place of another profile of that name, whose key is lost"
    )
    parser.add_argument(
        "--take",
        action="append",
        choices=_ASKED,
        default=[],
        metavar="KEY",
        help="take this key too, without being asked: post_knock, a command; same_server_as; or ip, an address or page",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")


def _run(args: argparse.Namespace) -> int:
    path = profiles_path(args.client_config)
    offers, holds_key = _offers(args.file)
    if args.name is not None:
        if len(offers) > 1:
            names = ", ".join(offer.name for offer in offers)
            raise OpenmeError(f"--as names one profile, and {len(offers)} are offered: {names}", exit_code=2)
        offers = (offers[0]._replace(name=args.name),)

    def merge(text: str) -> Merged:
        result = merged(text, path, offers, by_name=args.name is not None, replace=args.replace)
        _refuse_shared_keys(result, path)
        return result

    everything = merged(profiles_text(path), path, offers, by_name=args.name is not None, replace=args.replace)
    # What nobody has agreed to is left out before anything is checked: a file must not vouch for itself.
    offers = _agreed(args, offers, everything.steps)
    if args.dry_run:
        before = profiles_text(path)
        result = merge(before)
        for line in _lines(result, everything, before, path, would=True):
            answer(line)
        return 0
    done: list[tuple[str, Merged]] = []

    def change(text: str) -> str:
        done.append((text, merge(text)))
        return done[-1][1].text

    change_profiles(path, change)
    text, result = done[-1]
    for line in _lines(result, everything, text, path, would=False):
        note(line)
    _say_next(result, path, args.file if holds_key else None)
    return 0


# ---- what is offered


def _offers(source: Path | None) -> tuple[tuple[Offered, ...], bool]:
    """The profiles in a file or on stdin, and whether a private key is in one of them."""
    shown = source or Path("stdin")
    if source is None:
        with open(0, "rb", closefd=False) as file:  # a descriptor has no path
            if file.isatty():
                note(f"paste the profile here; on a line of its own, {_END} ends it")
            raw = _read(file, shown)
    else:
        try:
            with source.open("rb") as file:
                raw = _read(file, shown)
        except OSError as error:
            raise file_error(source, f"cannot be read: {(error.strerror or 'failed').lower()}") from None
    parts = [raw]
    if raw.startswith(PNG):
        parts = [text.encode("utf-8", "surrogatepass") for text in texts_untrusted(raw, shown)]
    offers = tuple(chain.from_iterable(offered_untrusted(part, shown) for part in parts))
    return offers, any("private_key" in offer.fields for offer in offers)


def _read(file: BinaryIO, shown: Path) -> bytes:
    raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise file_error(shown, f"expected at most {MOST_BYTES // 2**20} MiB")
    return raw


# ---- what is agreed to


def _agreed(args: argparse.Namespace, offers: Sequence[Offered], steps: Sequence[Step]) -> tuple[Offered, ...]:
    """The profiles; of the keys that are asked for, with those alone that they would bring and somebody agrees to."""
    return tuple(
        offer.without(*(key for key in _ASKED if key not in step.taken or not _takes(args, offer, step, key)))
        for offer, step in zip(offers, steps, strict=True)
    )


def _takes(args: argparse.Namespace, offer: Offered, step: Step, key: str) -> bool:
    value = offer.fields[key]
    if key in args.take or (key == "ip" and value in _OUR_OWN):
        return True
    if key == "post_knock":
        what = f"after each knock for profile {step.name}, run on this machine: {value}"
    elif key == "ip":
        who = "the address that is told by" if str(value).startswith("https://") else "the address"
        what = f"each knock for profile {step.name} is to open the door for {who} {value}"
    else:
        what = f"profile {step.name} is to be one server with, and may have the keys of: {', '.join(value)}"
    if args.dry_run:
        answer(f"would ask: {what}")
        return False
    answered = agrees(f"{what} - take this {key}?")
    if answered is None:
        warn(f"{what}: left out, since there is no terminal to ask on", f"to take it: --take {key}")
    elif not answered:
        note(f"left out: {key} of profile {step.name}")
    return bool(answered)


def _refuse_shared_keys(result: Merged, path: Path) -> None:
    """ProfileError if a profile comes with keys that another host's has (spec wire-v2.md)."""
    if not result.text:
        return
    config = parse_client_config(result.text, path)
    for step in result.steps:
        profile = config.profiles.get(step.name)
        if profile is not None and step.kind != "unchanged":
            refuse_shared_keys(config, profile)


# ---- what is said


def _lines(result: Merged, everything: Merged, before: str, path: Path, *, would: bool) -> Iterator[str]:
    """What becomes, or would become, of each profile; no secret is in it.

    `everything`: with what was asked for, of which the file may have its own.
    """
    old, new = _held(before, path), _held(result.text, path)
    for step, whole in zip(result.steps, everything.steps, strict=True):
        if step.kind == "unchanged":
            yield f"profile {step.name} has all of it already"
        else:
            verb = f"would be {step.kind}:" if would else step.kind
            yield f"{verb} profile {step.name} in {path}: {', '.join(_changes(step, old, new))}"
        if kept := list(dict.fromkeys((*step.kept, *whole.kept))):
            yield f"profile {step.name} keeps its own {', '.join(kept)}"


def _held(text: str, path: Path) -> dict[str, Profile | KeyPair]:
    config = parse_client_config(text, path) if text.strip() else ClientConfig(path, {})
    return {**config.profiles, **config.waiting}


def _changes(step: Step, old: dict[str, Profile | KeyPair], new: dict[str, Profile | KeyPair]) -> Iterator[str]:
    for key in step.taken:
        values = [getattr(held.get(step.name), key, None) for held in (old, new)]
        if key.startswith("server_") and key != "server_pubkey":
            yield f"{key} {' -> '.join(str(value) for value in dict.fromkeys(values) if value is not None)}"
        else:
            yield key
    yield from (f"{key} removed" for key in step.gone)


def _say_next(result: Merged, path: Path, with_key: Path | None) -> None:
    config = parse_client_config(result.text, path)
    for step in result.steps:
        profile = config.profiles.get(step.name)
        if profile is not None and profile.private_key is None and profile.identity is None:
            warn(
                f"profile {step.name} has no private key and cannot knock",
                "import it on the machine where 'openme keygen' made its key, or name where the key is: identity",
            )
    if with_key is not None and not (with_key.exists() and with_key.samefile(path)):
        hint(f"remove {with_key}: the private key in it is in {path} now")
    if ready := [step.name for step in result.steps if step.name in config.profiles]:
        hint(f"next: openme knock {ready[0]} --check")


IMPORT = Action(_arguments, _run)
