"""`openme check-config`."""

import argparse
import os

from openme.cli.output import answer, answer_json, complain, warn
from openme.config.model import ConfigError
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.keeper.ratchet_file import DamagedRatchetError, read_ratchet
from openme.keeper.revoked_keys import read_revoked, without_revoked
from openme.server.epoch_keys import check_length
from openme.server.interfaces import require_interface
from openme.server.privileges import named_user, refuse_writable
from openme.server.redirected import redirect_warnings


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `check-config`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(_name: str, args: argparse.Namespace) -> int:
    """Say everything that is wrong; 1 if anything is, faults inside one client's entry included."""
    faults: list[tuple[str, str | None]] = []
    warnings: tuple[str, ...] = ()
    summary = ""
    try:
        config = load_server_config(args.config)
        if os.access(config.state_dir, os.R_OK | os.X_OK):
            config = without_revoked(config, read_revoked(config.state_dir).keys)
        faults += [(str(fault), fault.hint) for fault in config.client_faults]
        warnings = config.warnings + redirect_warnings(config)
        summary = f"{args.config}: {len(config.clients)} clients, {len(config.managed_ports)} managed port ranges"
        if config.interface is not None:
            require_interface(config.interface)
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
        answer_json({"ok": not faults, "faults": [text for text, _ in faults], "warnings": list(warnings)})
        return 1 if faults else 0
    for warning in warnings:
        warn(warning)
    for text, cure in faults[:-1]:
        complain(OpenmeError(text, cure))
    if faults:
        raise OpenmeError(*faults[-1])
    answer(f"{summary}: fine")
    return 0
