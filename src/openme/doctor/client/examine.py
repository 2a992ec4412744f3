"""All of the client's looks at one profile."""

from pathlib import Path

from openme.client.addresses import parse_wanted
from openme.client.errors import ProfileError
from openme.client.profiles import load_profiles, profiles_path
from openme.config.faults import ConfigError
from openme.doctor.client.subject import Client
from openme.doctor.client.table import LOOKS, PROFILE
from openme.doctor.looks import Finding, Report, run

_SEE = "see docs/configuration.md, The client's file"


def is_there(path: Path | None) -> bool:
    """Whether there is a client's file, by its name or in its usual place."""
    try:
        return path is not None or profiles_path().exists()
    except (ProfileError, OSError):
        return False


def check_ip(ip: str | None) -> None:
    """AddressError unless a knock can name this."""
    if ip is not None:
        parse_wanted(ip)


def examine(path: Path | None, name: str | None, *, ntp: str, ip: str | None = None, knocks: bool = True) -> Report:
    """Look at the profile called `name` in the file at `path`, as for `load_profiles` and `choose_profile`.

    `ntp`: whom to ask for the time, or `none`. `ip`: what the knock names in place of the profile's. Without `knocks`
    none is sent.
    """
    try:
        client = Client(load_profiles(path), name, ntp=ntp, ip=ip, knocks=knocks)
    except ConfigError as error:
        return Report(tuple(Finding(PROFILE, str(fault), fault.hint or _SEE) for fault in error.faults), (), ())
    except ProfileError as error:
        return Report((Finding(PROFILE, error.message, error.hint or _SEE),), (), ())
    return run(LOOKS, client)
