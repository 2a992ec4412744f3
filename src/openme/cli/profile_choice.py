"""Which profile a client command means."""

import argparse
import difflib
from pathlib import Path

from openme.config.model import ClientConfig, Profile
from openme.config.profile import load_client_config
from openme.errors import OpenmeError

DEFAULT_PROFILE = "default"


def client_config(args: argparse.Namespace) -> ClientConfig:
    """The client's file, from `--client-config` or the home directory."""
    path: Path | None = args.client_config
    if path is None:
        try:
            path = Path.home() / ".openme" / "config.yaml"
        except RuntimeError:
            raise OpenmeError("there is no home directory", "name the file: --client-config PATH") from None
    return load_client_config(path)


def chosen(config: ClientConfig, name: str | None) -> Profile:
    """The profile called `name`; without one `default`, or the only one there is. OpenmeError otherwise."""
    profiles = config.profiles
    if name is None:
        name = next(iter(profiles)) if len(profiles) == 1 else DEFAULT_PROFILE
    if profile := profiles.get(name):
        return profile
    if name in config.waiting:
        raise OpenmeError(
            f"profile {name} has no server yet", "complete it with what 'openme add' printed on the server"
        )
    if near := difflib.get_close_matches(name, profiles, 1):
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"profiles: {', '.join(profiles)}" if profiles else f"{config.path} holds no profiles"
    raise OpenmeError(f"there is no profile {name}", hint)
