"""`openme keygen`: a client's own key, of which the server gets to see the public half alone."""

import argparse
import os
import secrets
from contextlib import suppress
from pathlib import Path

from openme.cli.commands import Action
from openme.cli.options import profile_name
from openme.cli.output import answer, hint, note
from openme.cli.passphrase import new_passphrase
from openme.cli.paths import path_for_a_config
from openme.client import load_profiles, profiles_path, public_key_of
from openme.config.profile_edit import add_profile, move_key
from openme.config.profile_keys import IDENTITY_FORMS, parse_identity
from openme.config.profile_model import ClientConfig
from openme.errors import OpenmeError
from openme.files import write_new
from openme.interrupts import held_back
from openme.keys.ed25519 import KEY_SIZE, ClientPrivateKey, ClientPublicKey
from openme.keys.erasing import wipe
from openme.keys.openssh import extra_is_missing, key_file, need_extra

_AGENT = "ssh-agent"
_FILE = "file:"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "profile",
        nargs="?",
        type=profile_name,
        default="default",
        metavar="PROFILE",
        help="the name of the new profile (default)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--file",
        type=_place,
        metavar="PATH",
        help="make the key in an OpenSSH private key file of its own; asks for a passphrase",
    )
    where.add_argument(
        "--identity",
        type=_where,
        metavar="WHERE",
        help="make no key: use ssh-agent:SHA256:…, ssh-agent (the one Ed25519 key that it has) or file:PATH",
    )
    where.add_argument(
        "--seal",
        type=_place,
        metavar="PATH",
        help="make no key: move the profile's private_key into such a file, with a passphrase",
    )
    parser.add_argument("--no-passphrase", action="store_true", help="with --file: do not ask for one")


def _run(args: argparse.Namespace) -> int:
    path = profiles_path(args.client_config)
    name: str = args.profile
    if args.no_passphrase and args.file is None:
        raise OpenmeError("--no-passphrase belongs to --file", "see: openme keygen --help", exit_code=2)
    config = load_profiles(path) if os.path.lexists(path) else ClientConfig(path, {})
    if args.seal is not None:
        return _seal(config, name, args.seal)
    if name in config.profiles or name in config.waiting:
        raise OpenmeError(
            f"{path} has a profile {name} already",
            f"choose another name; to seal the key that it has: openme keygen {name} --seal PATH",
        )
    if args.identity is not None:
        public = _use(path, name, args.identity)
    elif args.file is not None:
        public = _make_in_file(path, name, args.file, asks=not args.no_passphrase)
    else:
        key = ClientPrivateKey(secrets.token_bytes(KEY_SIZE))
        public = key.public
        add_profile(path, name, {"public_key": str(public), "private_key": key.to_base64()})
    note(f"added profile {name} to {path}")
    answer(str(public))
    hint(f"next, on the server: openme add NAME --pubkey {public}")
    hint("then, here, with what that prints: openme import")
    return 0


def _use(path: Path, name: str, where: str) -> ClientPublicKey:
    """A profile whose key is there already."""
    public = public_key_of(where, path.parent)
    if where == _AGENT:
        where = f"{_AGENT}:{public.ssh_fingerprint}"
    add_profile(path, name, {"public_key": str(public), "identity": where})
    note(f"its key is {where}")
    return public


def _make_in_file(path: Path, name: str, place: Path, *, asks: bool) -> ClientPublicKey:
    """A profile whose key is a new one in a file of its own."""
    key = ClientPrivateKey(secrets.token_bytes(KEY_SIZE))
    _need_room(place)
    if place.parent == path.parent:
        with suppress(OSError):  # which writing the file will name
            path.parent.mkdir(mode=0o700, exist_ok=True)
    content = _content(key, place, asks=asks)
    with held_back():  # a file without its profile, or a profile without its file, is of no use
        _write(place, content)
        try:
            add_profile(path, name, {"public_key": str(key.public), "identity": f"{_FILE}{place}"})
        except BaseException:
            place.unlink(missing_ok=True)
            raise
    note(f"wrote {place} (it holds the private key; there is no other copy)")
    return key.public


def _seal(config: ClientConfig, name: str, place: Path) -> int:
    """Move a profile's private key into a file of its own."""
    held = config.profiles.get(name) or config.waiting.get(name)
    if held is None:
        known = ", ".join([*config.profiles, *config.waiting])
        raise OpenmeError(f"there is no profile {name}", f"profiles: {known}" if known else None)
    if held.private_key is None:
        raise OpenmeError(
            f"profile {name} has no private_key that could be sealed",
            "a passphrase for a key file: ssh-keygen -p -f FILE" if held.identity else None,
        )
    _need_room(place)
    content = _content(held.private_key, place, must_seal=True)
    with held_back():
        _write(place, content)
        try:
            move_key(config.path, name, f"{_FILE}{place}")
        except BaseException:
            place.unlink(missing_ok=True)
            raise
    note(f"moved the private key of profile {name} to {place}, sealed with the passphrase")
    answer(str(held.private_key.public))
    hint(f"copies of {config.path} that were made before, backups too, still hold the key unsealed")
    return 0


def _where(written: str) -> str:
    """What `identity` of a profile may be, with a whole path; or the agent alone."""
    if written == _AGENT:
        return written
    try:
        where = parse_identity(written)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {IDENTITY_FORMS}, or ssh-agent alone") from None
    return f"{_FILE}{_place(where.removeprefix(_FILE))}" if where.startswith(_FILE) else where


def _place(written: str) -> Path:
    """The whole path of a file on the command line, as a profile can have it; a home directory in it, too."""
    try:
        return Path(os.path.abspath(path_for_a_config(written).expanduser()))  # noqa: PTH100  # no link is followed
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{written}: there is no such home directory") from None


def _need_room(place: Path) -> None:
    """OpenmeError before anybody is asked for a passphrase in vain."""
    if os.path.lexists(place):
        raise OpenmeError(f"{place} is there already and is not overwritten", "name another file")
    try:
        need_extra()
    except ImportError as error:
        raise OpenmeError(*extra_is_missing(error)) from None


def _content(key: ClientPrivateKey, place: Path, *, asks: bool = True, must_seal: bool = False) -> bytes:
    passphrase = new_passphrase(place, may_be_empty=not must_seal) if asks else bytearray()
    taken = bytes(passphrase)
    try:
        return key_file(key, taken)
    finally:
        wipe(passphrase, taken)


def _write(place: Path, content: bytes) -> None:
    try:
        write_new(place, content)
    except FileExistsError:
        raise OpenmeError(f"{place} is there already and is not overwritten", "name another file") from None
    except OSError as error:
        raise OpenmeError(f"{place}: {(error.strerror or 'failed').lower()}", "nothing was changed") from None


KEYGEN = Action(_arguments, _run)
