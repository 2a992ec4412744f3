"""Asking the running server, also when its config no longer loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openme.cli.output import warn
from openme.config.edit import state_dir_of
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.server import control

FOUND_BY_ITSELF = "the running server finds the change by itself, or at its restart"


def tell(state_dir: Path, request: Mapping[str, Any], otherwise: str) -> dict[str, Any] | None:
    """Tell the running server of a change that is made already; its answer, or None if there is none.

    A server that cannot be reached, or keeps its last good config, is a warning: the change stands all the same.
    `otherwise` is when the server finds it without being told.
    """
    try:
        reply = control.ask(state_dir, request)
    except control.NoServerError:
        return None
    except OpenmeError as error:
        warn(f"{error.message}: {otherwise}")
        return None
    if reply.get("fault"):
        warn(f"the running server keeps its last good config: {reply['fault']}")
    return reply


def ask(config: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The server's answer. OpenmeError: what is wrong with the config if that explains why no server is found."""
    try:
        return control.ask(state_dir_of(config), request)
    except control.NoServerError:
        load_server_config(config)
        raise
