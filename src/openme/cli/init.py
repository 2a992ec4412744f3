"""`openme init`."""

import argparse
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from openme.cli.commands import Action
from openme.cli.options import matching, port_number
from openme.cli.output import answer, hint, note, warn
from openme.cli.paths import path_for_a_config
from openme.cli.running_server import RunningServer
from openme.config.locked import locked_directory, replace_file
from openme.config.model import ServerConfig
from openme.config.profile_model import DEFAULT_UDP_PORT, HOST_PATTERN
from openme.config.server import load_server_config, parse_server_config
from openme.config.server_keys import DEFAULT_STATE_DIR, HOST_EXPECTED, INTERFACE_EXPECTED, INTERFACE_PATTERN
from openme.config.template import render_server_config
from openme.errors import OpenmeError
from openme.firewall import registry as firewalls
from openme.interrupts import check, held_back
from openme.keeper.ratchet_file import FILE_NAME as RATCHET_FILE
from openme.keeper.ratchet_file import read_ratchet
from openme.keys.ed25519 import encode_base64
from openme.keys.x25519 import ServerPrivateKey
from openme.server.epoch_keys import check_length, ensure_ratchet, replace_ratchet
from openme.server.interfaces import require_interface
from openme.store.places import has_lived
from openme.store.sqlite import make_memory, unmake_memory


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        type=matching(HOST_PATTERN, HOST_EXPECTED),
        metavar="HOST",
        help="public name or address, for client profiles (needed)",
    )
    parser.add_argument("--port", type=port_number, default=DEFAULT_UDP_PORT, help="knock port (%(default)s)")
    parser.add_argument(
        "--firewall", choices=firewalls.names(), default=firewalls.DEFAULT, help="firewall (%(default)s)"
    )
    parser.add_argument(
        "--interface",
        type=matching(INTERFACE_PATTERN, INTERFACE_EXPECTED),
        metavar="IF",
        help="apply rules only to packets arriving here (all)",
    )
    parser.add_argument(
        "--state-dir",
        type=path_for_a_config,
        default=Path(DEFAULT_STATE_DIR),
        metavar="DIR",
        help="replay memory (%(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace an existing config; the old one is kept beside it"
    )
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="give an existing version 1 server what version 2 needs; nobody is disturbed",
    )


def _run(args: argparse.Namespace) -> int:
    """Make keys, config and `state_dir`; the server's public key is the answer."""
    path: Path = args.config
    if args.upgrade:
        return _upgrade(path)
    if args.server is None:
        raise OpenmeError("the following arguments are required: --server", "see: openme init --help", exit_code=2)
    if args.interface is not None:
        require_interface(args.interface, args.firewall)
    key = ServerPrivateKey(secrets.token_bytes(32))
    state_dir = Path(os.path.abspath(args.state_dir))  # noqa: PTH100  # not resolved: the user's own path stays
    text = render_server_config(
        key,
        host=args.server,
        udp_port=args.port,
        firewall=args.firewall,
        interface=args.interface,
        state_dir=state_dir,
    )
    config = parse_server_config(text, path)  # before anything is written: what was asked for must load again
    _refuse_existing(path, force=args.force)
    with held_back():
        ratchet = memory = False
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            made = not state_dir.exists()
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OpenmeError(f"{error.filename}: {error.strerror}", "run it as root, or name other places") from None
        try:
            with locked_directory(path.parent, path):
                _refuse_existing(path, force=args.force)
                if memory := not has_lived(state_dir):
                    make_memory(state_dir)
                ratchet = _prepare_ratchet(config, anew=args.force)
                check()
                kept = _keep_old(path)
                replace_file(path, text.encode(), None, path)
        except BaseException:
            if ratchet:
                with suppress(OSError):
                    (state_dir / RATCHET_FILE).unlink()
            if memory:
                unmake_memory(state_dir)
            if made:
                with suppress(OSError):
                    state_dir.rmdir()
            raise
    if kept is not None:
        note(f"kept the old config as {kept}")
    note(f"wrote {path} (keep it secret) and prepared {state_dir}")
    for warning in load_server_config(path).warnings:
        warn(warning)
    answer(encode_base64(key.public))
    hint("next: openme add NAME --out NAME.yaml, bring that file to the client, then openme try 2m")
    return 0


def _prepare_ratchet(config: ServerConfig, *, anew: bool) -> bool:
    """See that there is a ratchet in `state_dir`: the one that is there, unless another is wanted or it does not fit.

    Whether a file was made where there was none.
    """
    there = (config.state_dir / RATCHET_FILE).exists()
    if there and not anew:
        ratchet = read_ratchet(config.state_dir)
        if ratchet is not None:
            check_length(ratchet, config)
            note(f"kept the epoch keys in {config.state_dir}")
            return False
    replace_ratchet(config)
    return not there


def _upgrade(path: Path) -> int:
    """What version 2 needs beside an existing set-up: a ratchet, and the word in `protocols`."""
    config = load_server_config(path)
    server = RunningServer(path, config.state_dir)
    server.refuse_another()
    ratchet, made = ensure_ratchet(config)
    ratchet.forget()
    note(
        f"{'made the epoch keys of wire version 2' if made else 'the epoch keys are there already'}: {config.state_dir}"
    )
    if "v2" not in config.protocols:
        server.set({"protocols": sorted({*config.protocols, "v2"})}, {"protocols": sorted(config.protocols)})
        note(f"{path}: protocols accepts v2 now, too")
    answer("version 2 is ready")
    hint("existing clients go on as they are; a version 2 file for one of them: openme renew NAME")
    return 0


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise OpenmeError(f"{path} is already there", "nothing was changed; --force replaces it and makes new keys")


def _keep_old(path: Path) -> Path | None:
    if not path.exists():
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(f"{path.name}.old-{stamp}")
    number = 1
    while kept.exists():  # two in one second: neither takes the other's place
        number += 1
        kept = path.with_name(f"{path.name}.old-{stamp}-{number}")
    path.rename(kept)
    return kept


INIT = Action(_arguments, _run)
