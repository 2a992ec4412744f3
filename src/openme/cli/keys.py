"""`openme epochs` and `openme rotate`: the server's own keys."""

import argparse
import secrets
import time
from collections.abc import Mapping

from openme.cli.commands import Action
from openme.cli.output import answer, answer_json, answer_lines, hint, note, table, warn
from openme.cli.running_server import RunningServer
from openme.client import WARN_SECONDS
from openme.config.model import ServerConfig
from openme.config.server import load_server_config
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.keeper.provided import read_files
from openme.keeper.ratchet_file import read_ratchet
from openme.keys.ed25519 import encode_base64
from openme.keys.ratchet import epoch_at
from openme.keys.x25519 import ServerPrivateKey
from openme.server.epoch_keys import check_length, clock_trouble, replace_ratchet, start_of
from openme.server.stored import disk_fault
from openme.server.stored import renewals as renewals_of


def _epochs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _rotate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("v1-key", "ratchet"), help="the key of version 1, or the epoch keys of version 2, all at once"
    )
    parser.add_argument(
        "--now", action="store_true", help="v1-key: do not accept the old key any longer, as after a theft"
    )
    parser.add_argument("--finish", action="store_true", help="v1-key: end the time in which both keys are accepted")


def _epochs(args: argparse.Namespace) -> int:
    config = load_server_config(args.config)
    ratchet = read_ratchet(config.state_dir)
    if ratchet is None:
        raise OpenmeError(f"there are no epoch keys in {config.state_dir}", "openme init --upgrade makes them")
    check_length(ratchet, config)
    length, oldest = ratchet.length, ratchet.index
    now = time.time_ns()
    trouble = clock_trouble(ratchet, now)
    ratchet.forget()
    fault = disk_fault(config.state_dir)
    epoch = epoch_at(now, length)
    files, renewals = read_files(config.state_dir), renewals_of(config.state_dir)
    clients = [c for c in config.clients.values() if c.has_epochs]
    reach = {c.name: (files.get(c.public_key.raw), renewals.get(c.public_key.raw)) for c in clients}
    if args.json:
        answer_json(
            {
                "length": length,
                "epoch": epoch,
                "epoch_ends": start_of(epoch + 1, length),
                "oldest": oldest,
                "oldest_began": start_of(oldest, length),
                "horizon": config.epoch_horizon,
                "clients": [
                    {"name": name, "file_until": _until(file, length), "renewed_until": _until(renewed, length)}
                    for name, (file, renewed) in reach.items()
                ],
            }
        )
    else:
        answer_lines(_told(epoch, oldest, length, reach))
    _warn(config, reach, length, now)
    if fault is not None:
        warn(f"{config.state_dir} cannot be written ({fault}): no key is erased until it can")
    if trouble is not None:
        warn(f"no version 2 knock is accepted: {trouble[0]}", trouble[1])
    return 0


def _told(epoch: int, oldest: int, length: int, reach: Mapping[str, tuple[int | None, int | None]]) -> str:
    lines = [
        f"epoch {epoch} of {format_duration(length)} each, until {start_of(epoch + 1, length)}",
        f"oldest key kept: epoch {oldest}, from {start_of(oldest, length)} on; what was recorded before stays closed",
    ]
    if reach:
        rows = [
            [name, _until(file, length) or "-", _until(renewed, length) or "-"]
            for name, (file, renewed) in reach.items()
        ]
        lines += ["", table(["CLIENT", "FILE UNTIL", "RENEWED UNTIL"], rows)]
    return "\n".join(lines)


def _warn(config: ServerConfig, reach: Mapping[str, tuple[int | None, int | None]], length: int, now_ns: int) -> None:
    """Name the clients that will soon be without keys, by what is known of them.

    A file may be on several devices, of which each fetches keys for itself: the receipt that one has fetched says
    nothing of the others.
    """
    if not config.has_epochs:
        warn("server.protocols does not accept v2")
    for name, (file, fetched) in reach.items():
        end = max(-1 if known is None else known for known in (file, fetched))
        if end < 0 or (end + 1) * length - now_ns / 10**9 >= WARN_SECONDS:
            continue
        if fetched is not None:
            known = f"has fetched keys until {_until(fetched, length)} with a receipt, on one device at least"
        else:
            known = f"has keys until {_until(file, length)} by its file, and has fetched no receipt since"
        warn(f"{name} {known}; a new file: openme renew {name}")


def _until(epoch: int | None, length: int) -> str | None:
    return None if epoch is None else start_of(epoch + 1, length)


def _rotate(args: argparse.Namespace) -> int:
    if args.what == "ratchet" and (args.now or args.finish):
        raise OpenmeError("--now and --finish belong to v1-key: a new ratchet takes effect at once", exit_code=2)
    if args.now and args.finish:
        raise OpenmeError("--now and --finish exclude each other", exit_code=2)
    config = load_server_config(args.config)
    server = RunningServer(config.path, config.state_dir)
    server.refuse_another()
    if args.what == "ratchet":
        replace_ratchet(config)
        note("there is a new ratchet: no knock with the former epoch keys is accepted any more")
        hint("every version 2 client needs a new file: openme renew NAME")
        return 0
    if args.finish:
        if config.previous_private_key is None:
            raise OpenmeError(f"{config.path}: there is no previous_private_key", "nothing was changed")
        previous = config.previous_private_key.to_base64()
        server.set({"previous_private_key": None}, {"previous_private_key": previous})
        note("the former version 1 key is no longer accepted")
        return 0
    return _new_v1_key(config, server, keep=not args.now)


def _new_v1_key(config: ServerConfig, server: RunningServer, *, keep: bool) -> int:
    if keep and config.previous_private_key is not None:
        raise OpenmeError(
            f"{config.path}: an earlier change of the key is not finished",
            "finish it first: openme rotate v1-key --finish",
        )
    key = ServerPrivateKey(secrets.token_bytes(32))
    previous = config.previous_private_key
    server.set(
        {
            "private_key": key.to_base64(),
            "public_key": encode_base64(key.public),
            "previous_private_key": config.private_key.to_base64() if keep else None,
        },
        {
            "private_key": config.private_key.to_base64(),
            "public_key": encode_base64(config.public_key),
            "previous_private_key": None if previous is None else previous.to_base64(),
        },
    )
    answer(encode_base64(key.public))
    if keep:
        note("both version 1 keys are accepted; files made from now on carry the new one (openme renew NAME --v1)")
        hint("when all clients have it: openme rotate v1-key --finish")
    else:
        note("the former version 1 key is no longer accepted")
        hint("every version 1 client needs a new file: openme renew NAME --v1")
    return 0


EPOCHS = Action(_epochs_arguments, _epochs)
ROTATE = Action(_rotate_arguments, _rotate)
