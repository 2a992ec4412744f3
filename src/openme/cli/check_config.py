"""`openme check-config`."""

import argparse
import os
from datetime import UTC, datetime

from openme.cli.output import answer, answer_json, complain, note, warn
from openme.config.model import ConfigError, ServerConfig
from openme.config.server import DEFAULT_GROUP, load_server_config
from openme.config.who_can_knock import hides_without_clients
from openme.errors import OpenmeError
from openme.keeper.ratchet_file import DamagedRatchetError, read_ratchet
from openme.keeper.revoked_keys import read_revoked, without_revoked
from openme.server import control
from openme.server.epoch_keys import check_length
from openme.server.hidden_ports import kept_ports, unnamed
from openme.server.interfaces import require_interface
from openme.server.leftovers import leftover_warnings
from openme.server.privileges import named_user, refuse_writable
from openme.server.redirected import redirect_warnings
from openme.server.saved_rules import saved_rule_warnings


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `check-config`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(_name: str, args: argparse.Namespace) -> int:
    """Say everything that is wrong; 1 if anything is, faults inside one client's entry included."""
    faults: list[tuple[str, str | None]] = []
    warnings: tuple[str, ...] = ()
    summary = ""
    hidden: list[str] = []
    built_in = ""
    try:
        config = load_server_config(args.config)
        if os.access(config.state_dir, os.R_OK | os.X_OK):
            config = without_revoked(config, read_revoked(config.state_dir).keys)
        faults += [(str(fault), fault.hint) for fault in config.client_faults]
        nobody = hides_without_clients(config, datetime.now(UTC))
        warnings = (
            (() if nobody is None else (nobody,))
            + config.warnings
            + redirect_warnings(config)
            + leftover_warnings(config.firewall)
            + saved_rule_warnings(config.firewall)
        )
        summary = f"clients: {len(config.clients)}, managed port ranges: {len(config.managed_ports)}"
        if config.has_built_in_default:
            built_in = ", ".join(map(str, config.groups[DEFAULT_GROUP]))
        hidden, notes = _hidden_though_unnamed(config)
        warnings += (*notes, *_refused_by_the_running_server(config))
        if config.interface is not None:
            require_interface(config.interface, config.firewall)
        if config.run_as is not None and os.geteuid() == 0:
            refuse_writable(
                named_user(config.run_as), (args.config.resolve(), *(p for p in [config.state_dir] if p.is_dir()))
            )
        if "v2" in config.protocols and os.access(config.state_dir, os.R_OK | os.X_OK):
            ratchet = read_ratchet(config.state_dir)
            if ratchet is not None:
                check_length(ratchet, config)
    except DamagedRatchetError as error:
        warnings = (*warnings, f"{error.message}: serve will make a new one")
    except ConfigError as error:
        faults += [(str(fault), fault.hint) for fault in error.faults]
    except OpenmeError as error:
        faults.append((f"{args.config}: {error.message}", error.hint))
    if args.json:
        value = {"ok": not faults, "faults": [text for text, _ in faults], "warnings": list(warnings)}
        more = ({"hidden_though_unnamed": hidden} if hidden else {}) | (
            {"built_in_default": built_in} if built_in else {}
        )
        answer_json(value | more)
        return 1 if faults else 0
    for warning in warnings:
        warn(warning)
    if hidden:
        note(f"hidden, but no longer in the config (openme unhide PORT): {', '.join(hidden)}")
    if built_in:
        note(f"there is no group 'default' under ports:, so it is {built_in}")
    for text, cure in faults[:-1]:
        complain(OpenmeError(text, cure))
    if faults:
        raise OpenmeError(*faults[-1])
    answer(f"{args.config}: fine ({summary})")
    return 0


def _hidden_though_unnamed(config: ServerConfig) -> tuple[list[str], list[str]]:
    """What is hidden under this config though no group or client names it, and a warning if that cannot be told."""
    if not os.access(config.state_dir, os.R_OK | os.X_OK):
        return [str(item) for item in unnamed(config, ())], []
    kept, fault = kept_ports(config)
    return [str(item) for item in unnamed(config, kept)], [] if fault is None else [fault]


def _refused_by_the_running_server(config: ServerConfig) -> list[str]:
    """A config that loads may still be one that the firewall does not take: the server that tried knows."""
    try:
        fault = control.ask(config.state_dir, {"command": "reload"}, timeout=5).get("fault")
    except control.NoAnswerError as error:
        return [f"{error.message}: whether the running server takes this config is not known"]
    except (OpenmeError, OSError, ValueError):
        return []
    return [] if fault is None else [f"the running server keeps its last good config: {fault}"]
