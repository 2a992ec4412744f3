"""The client's file, and which of its profiles is meant."""

from pathlib import Path

from openme.client.errors import ProfileError
from openme.closest import closest
from openme.config.profile import load_client_config
from openme.config.profile_model import ClientConfig, Profile

DEFAULT_PROFILE = "default"


def load_profiles(path: Path | None = None) -> ClientConfig:
    """The profiles in a client's file, without a path those of `~/.openme/config.yaml`.

    ConfigError for whatever is wrong with it, with file, line and key; ProfileError if there is no home directory.
    """
    return load_client_config(profiles_path(path))


def profiles_path(path: Path | None = None) -> Path:
    """Where a client's file is: `path`, or without one `~/.openme/config.yaml`. ProfileError: no home directory."""
    if path is not None:
        return path
    try:
        return Path.home() / ".openme" / "config.yaml"
    except RuntimeError:
        raise ProfileError("there is no home directory", "name the file: --client-config PATH") from None


def choose_profile(config: ClientConfig, name: str | None = None) -> Profile:
    """The profile called `name`; without one the only one there is, or `default`. ProfileError otherwise."""
    profiles = config.profiles
    if name is None:
        there = profiles or config.waiting
        name = next(iter(there)) if len(there) == 1 else DEFAULT_PROFILE
    if profile := profiles.get(name):
        return profile
    if (pair := config.waiting.get(name)) is not None:
        raise ProfileError(
            f"profile {name} has no server yet",
            f"complete it with what 'openme add NAME --pubkey {pair.public_key or 'KEY'}' prints on the server",
        )
    if near := closest(name, profiles):
        hint = f"did you mean {near}?"
    else:
        hint = f"profiles: {', '.join(profiles)}" if profiles else f"{config.path} holds no profiles"
    raise ProfileError(f"there is no profile {name}", hint)
