"""`openme check-config`."""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from openme.cli.commands import Action
from openme.cli.output import alarm, answer, answer_json, complain, note, warn
from openme.config.faults import ConfigError
from openme.config.model import ServerConfig
from openme.config.server import load_server_config
from openme.config.server_keys import DEFAULT_GROUP
from openme.config.who_can_knock import hides_without_clients
from openme.control import asking
from openme.control.requests import Reload
from openme.errors import OpenmeError
from openme.keeper.ratchet_file import DamagedRatchetError, read_ratchet
from openme.keeper.revoked_keys import read_revoked, without_revoked
from openme.server.epoch_keys import check_length
from openme.server.health_port import why_by_file, worded
from openme.server.hidden_ports import kept_ports, unnamed
from openme.server.interfaces import require_interface
from openme.server.preflight import Findings, Held, before_start, may_look, once_it_serves
from openme.server.state_dir import refuse_unusable

_NOT_SEEN = "what only root sees: whose ports they are, state_dir, the run directory, capabilities, the firewall"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file-only", action="store_true", help="the file alone, as for another host; look at nothing of this one"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _run(args: argparse.Namespace) -> int:
    """Say everything that is wrong; 1 if anything is, faults inside one client's entry included."""
    faults: list[tuple[str, str | None]] = []
    warnings: tuple[str, ...] = ()
    summary = ""
    hidden: list[str] = []
    built_in = ""
    not_seen: str | None = None
    config: ServerConfig | None = None
    nobody: str | None = None
    try:
        config = load_server_config(args.config)
        is_readable = not args.file_only and _is_ours_to_read(config.state_dir)
        damage: str | None = None
        if is_readable:
            revoked = read_revoked(config.state_dir)
            config, damage = without_revoked(config, revoked.keys), revoked.damage
        faults += [(str(fault), fault.hint) for fault in config.client_faults]
        nobody = hides_without_clients(config, datetime.now(UTC))
        warnings = config.warnings + (() if damage is None else (f"{damage}: the other copy is used",))
        summary = f"clients: {len(config.clients)}, managed port ranges: {len(config.managed_ports)}"
        if config.has_built_in_default:
            built_in = ", ".join(map(str, config.groups[DEFAULT_GROUP]))
        hidden, notes = _hidden_though_unnamed(config, is_readable=is_readable)
        warnings += tuple(notes)
        if is_readable and config.has_epochs and (ratchet := read_ratchet(config.state_dir)) is not None:
            check_length(ratchet, config)
    except DamagedRatchetError as error:
        warnings = (*warnings, f"{error.message}: serve will make a new one")
    except ConfigError as error:
        faults += [(str(fault), fault.hint) for fault in error.faults]
    except OpenmeError as error:
        faults.append((f"{args.config}: {error.message}", error.hint))
    if config is not None and (args.file_only or not may_look(config)) and (why := why_by_file(config)) is not None:
        warnings += (worded(config, why),)
    if config is not None and not args.file_only:
        try:
            host = _look_at_host(config, args.config, is_readable=_is_ours_to_read(config.state_dir))
            faults += [(f"{args.config}: {refusal.message}", refusal.hint) for refusal in host.refusals]
            warnings += tuple(host.warnings)
        except OpenmeError as error:
            faults.append((f"{args.config}: {error.message}", error.hint))
        not_seen = None if may_look(config) else _NOT_SEEN
    if args.json:
        every = [*([] if nobody is None else [nobody]), *warnings]
        value = {"ok": not faults, "faults": [text for text, _ in faults], "warnings": every}
        more = ({"hidden_though_unnamed": hidden} if hidden else {}) | (
            {"built_in_default": built_in} if built_in else {}
        )
        if not_seen is not None:
            more["not_looked_at"] = not_seen
        answer_json(value | more)
        return 1 if faults else 0
    if nobody is not None:
        alarm(nobody)
    for warning in warnings:
        warn(warning)
    if hidden:
        note(f"hidden, but no longer in the config (openme unhide PORT): {', '.join(hidden)}")
    if built_in:
        note(f"there is no group 'default' under ports:, so it is {built_in}")
    if not_seen is not None:
        note(f"not looked at: {not_seen} (sudo openme check-config)")
    for text, cure in faults[:-1]:
        complain(OpenmeError(text, cure))
    if faults:
        raise OpenmeError(*faults[-1])
    answer(f"{args.config}: fine ({summary})")
    return 0


def _is_ours_to_read(state_dir: Path) -> bool:
    """Whether there is a `state_dir` that a server would use and we can read.

    What is in another user's may keep whoever reads it for ever, and tells of no server that would start.
    """
    try:
        refuse_unusable(state_dir)
    except OpenmeError:
        return False
    return os.access(state_dir, os.R_OK | os.X_OK)


def _hidden_though_unnamed(config: ServerConfig, *, is_readable: bool) -> tuple[list[str], list[str]]:
    """What is hidden under this config though no group or client names it, and a warning if that cannot be told."""
    if not is_readable:
        return [str(item) for item in unnamed(config, ())], []
    kept, fault = kept_ports(config)
    return [str(item) for item in unnamed(config, kept)], [] if fault is None else [fault]


def _look_at_host(config: ServerConfig, path: Path, *, is_readable: bool) -> Findings:
    """What a server with this config would meet on this host, as far as this user may see."""
    held, warnings = _the_running_server(config) if is_readable else (None, [])
    found = Findings(warnings=warnings)
    for look in (before_start(config, path, held), once_it_serves(config, path, held)) if may_look(config) else ():
        found.refusals.extend(look.refusals)
        found.warnings.extend(look.warnings)
    if config.interface is not None:
        try:
            require_interface(config.interface, config.firewall)
        except OpenmeError as error:
            found.refusals.append(error)
    return found


def _the_running_server(config: ServerConfig) -> tuple[Held | None, list[str]]:
    """The ports that it has, and what it has against the config.

    A config that loads may still be one that the firewall does not take: the server that tried knows.
    """
    try:
        reply = asking.ask(config.state_dir, Reload(), timeout=5)
    except asking.NoAnswerError as error:
        return None, [f"{error.message}: whether the running server takes this config is not known"]
    except (OpenmeError, OSError, ValueError):
        return None, []
    held = Held(reply.ports["udp"], reply.ports["tcp"]) if reply.ports else None
    return held, [] if reply.fault is None else [f"the running server keeps its last good config: {reply.fault}"]


CHECK_CONFIG = Action(_arguments, _run)
