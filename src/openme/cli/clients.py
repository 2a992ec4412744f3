"""`openme add`, `renew`, `list`, `revoke`, `close` and `reset`."""

import argparse
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from openme.cli.all_or_nothing import all_or_nothing
from openme.cli.commands import Action
from openme.cli.handover import NOTHING_ADDED, Handover
from openme.cli.options import profile_name
from openme.cli.output import answer_json, answer_lines, hint, note, table, warn
from openme.cli.paths import path, path_or_stdout
from openme.cli.revocation import revoke
from openme.cli.running_server import FOUND_BY_ITSELF, RunningServer, ask, refuse_another
from openme.config.client_keys import client_keys
from openme.config.edit import NameTakenError, add_client, remove_client
from openme.config.model import ClientEntry, ServerConfig
from openme.config.profile_model import EpochKeys
from openme.config.profile_text import render_profile
from openme.config.section import nearest
from openme.config.server import load_server_config, validate_name
from openme.config.server_keys import parse_expiry
from openme.control.requests import AnyReply, Client, Close, OtherVersionError, Reload, Request, Reset, row_of
from openme.errors import OpenmeError
from openme.keeper.provided import note_file
from openme.keeper.revoked_keys import Revocation, cure, lift_key, read_revoked, without_revoked
from openme.keys.ed25519 import (
    ClientPrivateKey,
    ClientPublicKey,
    KeyTextError,
    WeakKeyError,
    is_ssh_line,
    parse_public_key,
)
from openme.keys.ratchet import epoch_at
from openme.moments import rfc3339
from openme.ports import parse_port_spec
from openme.server.epoch_keys import clock_trouble, ensure_ratchet
from openme.server.stored import last_knocks
from openme.store.base import Seen
from openme.visible import is_visible


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the client's name")


def _place_for_the_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", type=profile_name, metavar="P", help="the profile's name in the client file (default_profile)"
    )
    parser.add_argument(
        "--out", type=path_or_stdout, metavar="FILE", help="write it there, 0600; never overwrites; -: stdout (-)"
    )


def _ports(text: str) -> list[str]:
    """What `allowed_ports` is to say: at least one word, of which the config knows whether it names a group."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("expected a port or group, such as 22/tcp; leave it out for 'default'")
    return words


def _refuse_unknown(words: Sequence[str], config: ServerConfig) -> None:
    """OpenmeError unless each word is a port or the name of a group: with exit code 2 for what cannot be either."""
    for word in words:
        if word in config.groups:
            continue
        try:
            parse_port_spec(word)
        except ValueError as error:
            if word[0].isdigit() or not is_visible(word):
                raise OpenmeError(f"--ports: {word}: {error}", nearest(word, config.groups), exit_code=2) from None
            raise OpenmeError(
                f"--ports: there is no group {word} under ports in {config.path}, and no port is written so",
                nearest(word, config.groups) or "name a group that is there, or a port such as 22/tcp",
            ) from None


def _expiry(text: str) -> datetime:
    try:
        return parse_expiry(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _GivenKey(NamedTuple):
    """A public key on the command line. `is_ssh`: it is written as OpenSSH writes one, so that an agent may have it."""

    key: ClientPublicKey
    is_ssh: bool


def _public_key(text: str) -> _GivenKey:
    """A key that was understood and must not be used is no wrong usage (spec config.md "Commands")."""
    try:
        return _GivenKey(parse_public_key(text), is_ssh_line(text))
    except WeakKeyError as error:
        raise OpenmeError(f"--pubkey: {error}") from None
    except KeyTextError as error:
        if (cure := _pubkey_cure(text)) is not None:
            raise OpenmeError(f"--pubkey: {error}", cure, exit_code=2) from None
        raise argparse.ArgumentTypeError(str(error)) from None


def _image(text: str) -> Path:
    found = path(text)
    if found.suffix.lower() not in {".png", ".svg"}:
        raise argparse.ArgumentTypeError(f"{text}: expected a file that ends in .png or .svg")
    return found


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    _place_for_the_file(parser)
    parser.add_argument(
        "--ports", type=_ports, metavar="LIST", help="groups and ports, such as 22/tcp,web,8080-8090 (default)"
    )
    parser.add_argument(
        "--expires", type=_expiry, metavar="TIME", help="until when it may knock, such as 2026-12-31T00:00:00Z"
    )
    parser.add_argument(
        "--pubkey", type=_public_key, metavar="KEY", help="register this public key (base64 or ssh-ed25519 line)"
    )
    parser.add_argument("--qr", action="store_true", help="show a QR code for the phone apps on stderr")
    parser.add_argument(
        "--qr-out", type=_image, metavar="FILE", help="write the QR code as .png or .svg, as --out does"
    )
    parser.add_argument("--v1", action="store_true", help="make a profile for wire version 1 (as --qr does)")


def _renew_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    _place_for_the_file(parser)
    parser.add_argument("--v1", action="store_true", help="a profile for wire version 1, without epoch keys")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _end_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("--cut", action="store_true", help="also end the connections that it has established")


def _reset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the client's name")
    parser.add_argument("--all", action="store_true", help="everybody; also after the replay memory was lost")


def _add(args: argparse.Namespace) -> int:
    config = load_server_config(args.config)
    if args.ports is not None:
        _refuse_unknown(args.ports, config)
    handover = Handover(args.out, args.qr_out)
    if args.name not in config.clients:  # a name that is there already, of whatever form, may be let in again
        try:
            validate_name(args.name)
        except ValueError as error:
            raise OpenmeError(f"NAME: {error}", exit_code=2) from None
    private = None
    if args.pubkey is None:
        private = ClientPrivateKey(secrets.token_bytes(32))
        public = private.public
    else:
        if args.qr or args.qr_out:
            raise OpenmeError("--qr carries a private key, and --pubkey makes none", exit_code=2)
        public = args.pubkey.key
    fields: dict[str, str | list[str]] = {"ed25519_pubkey": str(public)}
    if args.ports is not None:
        fields["allowed_ports"] = args.ports
    if args.expires is not None:
        fields["expires"] = rfc3339(args.expires.timestamp())
        if args.expires <= datetime.now(UTC):
            warn("--expires lies in the past: this client opens nothing")
    profile_name = args.profile or config.default_profile
    is_v1 = args.v1 or args.qr or args.qr_out is not None
    epoch_keys = None if is_v1 else _epoch_keys(config)
    if epoch_keys is not None:
        fields["protocols"] = ["v2"]
    elif "v1" not in config.protocols:
        raise OpenmeError(f"{args.config}: server.protocols does not accept v1", "leave out --v1 and --qr")
    identity = f"ssh-agent:{public.ssh_fingerprint}" if args.pubkey is not None and args.pubkey.is_ssh else None
    text = _profile_text(config, profile_name, public, private, epoch_keys, identity=identity)
    qr, image = _qr(args, config, profile_name, private)
    if private is not None:
        handover.keep_private()
    server = RunningServer(args.config, config.state_dir)
    stood_there = private is None and _is_revoked_entry(args, config, server, public)

    def do() -> None:
        handover.write_files(text, image)  # first: a key that nobody holds must not be registered, whatever ends us
        if not stood_there:
            _add_entry(args, fields)
        _tell_of_client(server)

    was_there = private is None and public.raw in client_keys(args.config, args.name)

    def undo() -> str:
        return _undo(args, handover, None if was_there else public)

    all_or_nothing(do, undo)
    if private is None:
        _lift(args, config, server, public)

    def show() -> None:
        try:
            if args.qr and qr is not None:
                _show_qr(qr)
            handover.print(text)
        except OpenmeError as error:
            raise OpenmeError(error.message, None if stood_there else NOTHING_ADDED) from None

    # A profile that nobody holds must not stay registered; whose key is revoked no more holds it already.
    all_or_nothing(show, (lambda: f"{args.name} is let in again") if stood_there else undo)
    _note_file(config, public, epoch_keys)
    note(f"{'admitted again:' if stood_there else 'added'} {args.name} ({public.fingerprint})")
    handover.tell(secret=private is not None)
    entry = load_server_config(args.config).clients.get(args.name)
    if entry is not None and not entry.ports:
        warn(f"{args.name} opens nothing but the health port: the group 'default' is empty and no --ports was given")
    _say_next(args, secret=private is not None, identity=identity)
    return 0


def _say_next(args: argparse.Namespace, *, secret: bool, identity: str | None) -> None:
    """What is to be done with the files that `add` has made."""
    made = [path for path in (args.out, args.qr_out) if path is not None]
    if not made:
        return
    away = f"then remove {' and '.join(map(str, made))} here"
    if args.qr or args.qr_out:
        hint(f"next: scan the QR code with the phone, {away}")
    elif secret:
        hint(f"next: bring {args.out} to the client, {away}")
        hint(f"there: openme import {args.out.name}")
    elif identity is not None:
        hint(f"next: bring {args.out} to the client; there: openme import {args.out.name}")
        hint(f"it knocks with {identity}; for a key that no agent has, write identity: file:PATH there instead")
    else:
        hint(f"next: bring {args.out} to the client, whose profile it completes; there: openme import {args.out.name}")


def _undo(args: argparse.Namespace, handover: Handover, added: ClientPublicKey | None) -> str:
    """Neither the entry with the key that was to be `added` nor a file of it; what is so now, in a few words."""
    try:
        if added is not None and added.raw in client_keys(args.config, args.name):
            remove_client(args.config, args.name, keep_hidden=False)
    except OpenmeError as error:
        # Then the files stay too: without them nobody could use what is registered.
        warn(f"{args.name} stays in {args.config}: {error.message}; to take it out: {_command('revoke', args.name)}")
        return f"{args.name} was added"
    handover.take_back()
    return NOTHING_ADDED


def _pubkey_cure(written: str) -> str | None:
    """What to write instead of something that is no public key."""
    if written.startswith("SHA256:"):
        return "that is a key's fingerprint; the key itself is what 'ssh-add -L' or 'openme keygen' prints"
    if Path(written).suffix == ".pub":
        return f'the key is what the file holds: --pubkey "$(cat {shlex.quote(written)})"'
    return None


def _command(name: str, client: str) -> str:
    return f"openme {name} {shlex.quote(client)}"


def _add_entry(args: argparse.Namespace, fields: Mapping[str, str | list[str]]) -> None:
    """Write the entry into the config; who has the name, or the key, already is told what to do."""
    try:
        add_client(args.config, args.name, fields)
    except NameTakenError as error:
        name = args.name
        raise OpenmeError(
            f"{error.message}; nothing was added",
            f"the private key of {name} is in {name}'s file alone; for new epoch keys: openme renew {name}; if that"
            f" file is lost or was overwritten: openme revoke {name}, then openme add {name} --out FILE",
        ) from None


def _renew(args: argparse.Namespace) -> int:
    """Print a client's file again, without the private key that only the client has."""
    config = load_server_config(args.config)
    handover = Handover(args.out)
    client = config.clients.get(args.name)
    if client is None:
        raise _no_client(args.name, nearest(args.name, config.clients))
    if client.public_key.raw in _revoked(config):
        raise OpenmeError(
            f"the key of {args.name} is revoked", f"to let it in again: {cure(args.name, client.public_key)}"
        )
    RunningServer(args.config, config.state_dir).refuse_another()
    if args.v1 and "v1" not in client.protocols:
        raise OpenmeError(f"{args.name} may not speak version 1", "see protocols in its entry and under server")
    epoch_keys = _epoch_keys(config) if client.has_epochs and not args.v1 else None
    text = _profile_text(config, args.profile or config.default_profile, client.public_key, None, epoch_keys)
    handover.write_files(text)
    handover.print(text)
    handover.tell(secret=False)
    _note_file(config, client.public_key, epoch_keys)
    hint(
        f"next: bring {args.out} to the client, whose profile it brings up to date: openme import {args.out.name}"
        if args.out is not None
        else "next, on the client, whose profile these lines bring up to date: openme import"
    )
    return 0


def _no_client(name: str, near: str | None) -> OpenmeError:
    return OpenmeError(f"there is no client {name}", near or "see: openme list")


def _profile_text(
    config: ServerConfig,
    name: str,
    public: ClientPublicKey,
    private: ClientPrivateKey | None,
    epoch_keys: EpochKeys | None,
    *,
    identity: str | None = None,
) -> str:
    if config.host is None:
        raise OpenmeError(
            f"{config.path}: server.host is missing", "client files need it: the server's name or address"
        )
    return render_profile(
        name,
        server_host=config.host,
        server_udp_port=config.udp_port,
        server_health_port=config.health_port,
        server_pubkey=config.public_key,
        public_key=public,
        private_key=private,
        identity=identity,
        epoch_keys=epoch_keys,
    )


def _epoch_keys(config: ServerConfig) -> EpochKeys:
    """The epoch keys that a client file made now carries. OpenmeError if there are none."""
    if not config.has_epochs:
        raise OpenmeError(
            f"{config.path}: server.protocols does not accept v2",
            "openme init --upgrade adds it; or add the client with --v1",
        )
    ratchet, made = ensure_ratchet(config)
    if made:
        note(f"made the epoch keys of wire version 2 in {config.state_dir}")
    if (trouble := clock_trouble(ratchet, now := time.time_ns())) is not None:
        raise OpenmeError(*trouble)
    first = epoch_at(now, ratchet.length)
    try:
        keys = EpochKeys(ratchet.length, first, ratchet.public_keys(first, config.epoch_horizon))
    except ValueError:
        raise OpenmeError("this machine's clock is impossibly far ahead of its epoch keys", "set the clock") from None
    ratchet.forget()
    return keys


def _note_file(config: ServerConfig, public: ClientPublicKey, keys: EpochKeys | None) -> None:
    if keys is not None:
        try:
            note_file(config.state_dir, public.raw, keys.first + len(keys.keys) - 1)
        except OpenmeError as error:
            warn(f"'openme epochs' will not know of this file: {error.message}")


def _qr(
    args: argparse.Namespace, config: ServerConfig, profile: str, private: ClientPrivateKey | None
) -> tuple[str | None, bytes]:
    """The JSON that the phone apps scan, or None, and the image that `--qr-out` asks for."""
    if not (args.qr or args.qr_out) or private is None:
        return None, b""
    if config.health_port != config.udp_port:
        warn("the phone apps check the knock port's number; this server's health port differs")
    from openme.cli.qr import check, image, phone_json  # noqa: PLC0415  # only --qr needs it

    content = phone_json(profile, config, private)
    check(content)
    return content, image(content, args.qr_out.suffix) if args.qr_out else b""


def _show_qr(content: str) -> None:
    from openme.cli.qr import print_qr  # noqa: PLC0415  # only --qr needs it

    try:
        print_qr(content)
    except OSError as error:
        raise OpenmeError(f"the QR code could not be written: {error.strerror}") from None


def _is_revoked_entry(
    args: argparse.Namespace, config: ServerConfig, server: RunningServer, public: ClientPublicKey
) -> bool:
    """Whether the entry that is to be added stands there already, disabled, since its key is revoked."""
    if public.raw not in read_revoked(config.state_dir).keys:
        # The running server may have been told what the disk would not take.
        reply = server.tell(Client(name=args.name, keys=frozenset({public.raw})), FOUND_BY_ITSELF)
        if reply is None or not reply.revoked:
            return False
    if public.raw not in client_keys(args.config, args.name):
        return False
    if args.ports is not None or args.expires is not None:
        raise OpenmeError(
            f"{args.name} stands in {args.config} already, with its ports and expiry",
            "change those in the file; to admit it again, leave out --ports and --expires",
        )
    return True


def _tell_of_client(server: RunningServer) -> None:
    """Have the running server read the file with the new entry; OpenmeError from one that reads another file."""
    try:
        reply = server.tell(Reload(), "the change holds from the next knock on")
    except OpenmeError as error:
        raise OpenmeError(f"{error.message}: {NOTHING_ADDED}", error.hint) from None
    if reply is not None and reply.reading:
        note("the running server is reading its clients; it will accept the new one in a few seconds")


def _lift(args: argparse.Namespace, config: ServerConfig, server: RunningServer, public: ClientPublicKey) -> None:
    """The file has the entry; only now, as the last step, is its key revoked no more."""
    try:
        was_revoked = lift_key(config.state_dir, public.raw)
    except OpenmeError as error:
        raise OpenmeError(
            f"{error.message}: {args.name} is in {args.config}, but stays disabled, as its key is revoked",
            error.hint or f"mend that, then: {cure(args.name, public)}",
        ) from None
    reply = server.tell(Reload(lifted=frozenset({public.raw})), FOUND_BY_ITSELF)
    if was_revoked or (reply is not None and reply.lifted):
        note(f"the key of {args.name} is no longer revoked")


def _revoked(config: ServerConfig) -> dict[bytes, Revocation]:
    """The revoked keys; none, and a warning, where that is not known."""
    try:
        known = read_revoked(config.state_dir)
    except OpenmeError as error:
        warn(error.message)
        return {}
    if known.damage is not None:
        warn(known.damage)
    return dict(known.keys)


def _list(args: argparse.Namespace) -> int:
    config = load_server_config(args.config)
    seen = last_knocks(config.state_dir)
    revoked = _revoked(config)
    known = [(c, seen.get(c.public_key.raw), revoked.get(c.public_key.raw)) for c in config.clients.values()]
    if args.json:
        answer_json([_client_value(*one) for one in known])
    elif known:
        rows = [_client_row(*one) for one in known]
        headings = ["NAME", "FINGERPRINT", "PORTS", "EXPIRES", "LAST KNOCK"]
        answer_lines(table(headings, rows), headings)
    else:
        hint("no clients yet: openme add NAME --out NAME.yaml")
    for fault in without_revoked(config, revoked).client_faults:
        warn(f"disabled: {fault}")
    return 0


def _client_value(client: ClientEntry, seen: Seen | None, revoked: Revocation | None) -> dict[str, object]:
    return {
        "name": client.name,
        "fingerprint": client.public_key.fingerprint,
        "ports": [str(p) for p in client.ports],
        "prefix_v4": client.prefix_v4,
        "prefix_v6": client.prefix_v6,
        "expires": None if client.expires is None else rfc3339(client.expires.timestamp()),
        "revoked": None if revoked is None else revoked.at,
        "last_knock": None if seen is None else rfc3339(seen.at),
        "last_source": None if seen is None else str(seen.source),
    }


def _client_row(client: ClientEntry, seen: Seen | None, revoked: Revocation | None) -> list[str]:
    expires = "never"
    if client.expires is not None:
        expires = rfc3339(client.expires.timestamp())
        if client.expires <= datetime.now(UTC):
            expires += " (expired)"
    if revoked is not None:
        expires = f"revoked {revoked.at}"
    return [
        client.name,
        client.public_key.fingerprint,
        (",".join(map(str, client.ports)) or "-") + _networks(client),
        expires,
        "never" if seen is None else f"{rfc3339(seen.at)} from {seen.source}",
    ]


def _networks(client: ClientEntry) -> str:
    """For how many a client's doors are, where that is more than one address."""
    lengths = (client.prefix_v4, 32, "IPv4"), (client.prefix_v6, 128, "IPv6")
    wide = [f"an {version} /{length}" for length, full, version in lengths if length < full]
    return f" for {' or '.join(wide)}" if wide else ""


def _asked(args: argparse.Namespace, request: Request[AnyReply]) -> AnyReply:
    """The reply of a server of our version; OpenmeError from an older one, which has perhaps done it all the same."""
    try:
        return ask(args.config, request)
    except OtherVersionError as error:
        done = f"{row_of(request).command} may have been done all the same"
        raise OpenmeError(f"{error.message}: {done}", error.hint) from None


def _close(args: argparse.Namespace) -> int:
    """End a client's grants now, also where the file no longer loads: the server still knows the client."""
    reply = _asked(args, Close(name=args.name, cut=args.cut))
    if not reply.closed and not reply.known:
        refuse_another(args.config, reply)
        raise _no_client(args.name, reply.near)
    if reply.not_closed:
        raise OpenmeError(
            f"the firewall refused to close the doors of {args.name}: {reply.not_closed}",
            "a door closes when its time is over; see the server's log",
        )
    doors = ", ".join(reply.closed) or "nothing was open"
    note(f"closed {args.name}: {doors}")
    if args.cut:
        note(f"connections cut: {reply.cut or 0}")
    refuse_another(args.config, reply, f"{args.name} was closed in it")
    return 0


def _reset(args: argparse.Namespace) -> int:
    """Begin a client's time anew, whose clock was far ahead, together with the server's, when it last knocked."""
    if args.all == (args.name is not None):
        raise OpenmeError("name a client, or say --all", "see: openme reset --help", exit_code=2)
    if args.all:
        return _reset_all(args)
    reply = _asked(args, Reset(name=args.name))
    if not reply.known:
        refuse_another(args.config, reply)
        raise _no_client(args.name, reply.near)
    refuse_another(args.config, reply, f"what it knows of {args.name} was reset, if that was needed")
    if reply.was_ahead:
        note(f"{args.name}: knocks made from now on are accepted, none from before")
        for first, last in reply.shut:
            note(f"what it signed for {first} to {last} stays refused, also when that time comes")
    else:
        note(f"{args.name}: its last knock was not ahead of this machine's clock; nothing was changed")
    return 0


def _reset_all(args: argparse.Namespace) -> int:
    """Begin everybody's time anew: the operator's word that this machine's clock is right."""
    reply = _asked(args, Reset(everybody=True))
    if reply.since is not None:
        note(f"knocks dated {reply.since} and later are accepted again")
    if reply.lost_until is not None:
        warn(
            "whoever recorded a knock that was accepted before the loss and dated later than that, until"
            f" {reply.lost_until}, could use it once when its time comes; to end that: openme rotate ratchet, and"
            " new client files"
        )
    note(f"clients whose time was ahead and has been reset: {reply.clients}")
    return 0


ADD = Action(_add_arguments, _add)
RENEW = Action(_renew_arguments, _renew)
LIST = Action(_list_arguments, _list)
REVOKE = Action(_end_arguments, revoke)
CLOSE = Action(_end_arguments, _close)
RESET = Action(_reset_arguments, _reset)
