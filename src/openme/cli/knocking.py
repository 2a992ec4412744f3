"""What the commands that knock have in common: the session, and what becomes of the epoch keys after a knock."""

from typing import TYPE_CHECKING

from openme.cli.output import warn
from openme.client import Attempt, ClientConfig, DiskError, KeysRefusedError, Session
from openme.moments import day

if TYPE_CHECKING:
    from pathlib import Path


def session_with(config: ClientConfig, name: str | None) -> Session:
    """A session with the profile of that name, for which somebody may be asked for a passphrase."""
    return Session(config, name, passphrase=_passphrase)


def _passphrase(path: "Path") -> bytearray:
    from openme.cli.passphrase import passphrase  # noqa: PLC0415  # with subprocess, for sealed keys alone

    return passphrase(path)


def renewed(session: Session, attempt: Attempt, *, always: bool = False) -> str | None:
    """Fetch new keys after a knock that was just sent, if they are due or `always`; why what came was not kept."""
    try:
        session.renew(attempt, always=always)
    except (DiskError, KeysRefusedError) as error:
        return error.message
    return None


def warn_of_keys(session: Session, problem: str | None = None) -> None:
    """Say what went wrong with new keys, and that those there are end soon."""
    if problem:
        warn(problem)
    end = session.keys_end()
    if end is not None:
        warn(
            f"profile {session.profile.name} has epoch keys until {day(end)}, and cannot knock after that: new ones"
            " come with a receipt (openme knock --check), or in a new file (on the server: openme renew NAME)"
        )
