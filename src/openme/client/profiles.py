"""The client's file, and which of its profiles is meant."""

from ipaddress import ip_address
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
            f"on the server: openme add NAME --pubkey {pair.public_key or 'KEY'}; with what that prints, here: openme"
            " import",
        )
    if near := closest(name, profiles):
        hint = f"did you mean {near}?"
    else:
        hint = f"profiles: {', '.join(profiles)}" if profiles else f"{config.path} holds no profiles"
    raise ProfileError(f"there is no profile {name}", hint)


def profile_for(config: ClientConfig, host: str) -> Profile:
    """The profile for a host that somebody wants to reach: the one whose server_host it is, or that is called so.

    Else `default` (spec config.md "Commands"). ProfileError if there is none, or several for this host.
    """
    matching = {profile.name: profile for profile in config.profiles.values() if _is_same(profile.server_host, host)}
    for name in (host, DEFAULT_PROFILE):
        if name in matching:
            return matching[name]
    if len(matching) > 1:
        raise ProfileError(f"several profiles are for {host}: {', '.join(matching)}", "name one: --profile NAME")
    if found := next(iter(matching.values()), config.profiles.get(host) or config.profiles.get(DEFAULT_PROFILE)):
        return found
    known = {profile.server_host: None for profile in config.profiles.values()} | dict.fromkeys(config.profiles)
    if near := closest(host, known):
        hint = f"did you mean {near}?"
    elif known:
        hint = f"name one: --profile NAME (profiles: {', '.join(config.profiles)})"
    else:
        hint = f"{config.path} holds no profiles"
    raise ProfileError(f"no profile is for {host}", hint)


def leads_to(profile: Profile, host: str) -> bool:
    """Whether `host` means the server of this profile: by its server_host, or by the profile's name."""
    return host == profile.name or _is_same(profile.server_host, host)


def _is_same(one: str, other: str) -> bool:
    """Whether two hosts are the same, as names whatever their case and final dot, or as addresses."""
    return _normal(one) == _normal(other)


def _normal(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        return host.removesuffix(".").casefold()
