"""Asking the running server, also when its config no longer loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openme.config.edit import state_dir_of
from openme.config.server import load_server_config
from openme.server import control


def ask(config: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The server's answer. OpenmeError: what is wrong with the config if that explains why no server is found."""
    try:
        return control.ask(state_dir_of(config), request)
    except control.NoServerError:
        load_server_config(config)
        raise
