"""All of the server's looks at one config and this host."""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path

from openme.config.faults import ConfigError
from openme.config.server import load_server_config
from openme.doctor.looks import ALL_SECONDS, Finding, NotLooked, Report, run
from openme.doctor.server.subject import subject
from openme.doctor.server.table import LOOKS, SERVER_FILE
from openme.errors import OpenmeError
from openme.keeper.revoked_keys import read_revoked, without_revoked
from openme.server.preflight import may_look

_CLONE_NEWNET = 0x4000_0000  # setns(2)


def examine(path: Path, *, ntp: str) -> Report:
    """Look at the server whose config this is. In a thread of its own, which ends in the server's network namespace."""
    end = time.monotonic() + ALL_SECONDS
    if not os.access(path, os.R_OK) and os.geteuid() != 0:
        return Report((), (), (NotLooked("all", f"only root may read {path}: sudo openme doctor"),))
    try:
        config = load_server_config(path)
    except ConfigError as error:
        see = "see docs/configuration.md, The server's file"
        return Report(tuple(Finding(SERVER_FILE, str(fault), fault.hint or see) for fault in error.faults), (), ())
    if not may_look(config):
        return Report((), (), (NotLooked("all", "only root sees what a server does: sudo openme doctor"),))
    with suppress(OpenmeError):  # the look at that list says why
        config = without_revoked(config, read_revoked(config.state_dir).keys)
    found = subject(config, path, ntp)
    if found.process is not None:
        _enter_network(found.process)
    return run(LOOKS, found, end - time.monotonic())


def _enter_network(process: int) -> None:
    """Be where the server is, as in a container's network. Where that is not allowed, or it is here, we stay."""
    with suppress(OSError), Path(f"/proc/{process}/ns/net").open() as theirs:
        ctypes.CDLL(None).setns(theirs.fileno(), _CLONE_NEWNET)
