"""What a command that has knocked does for the epoch keys, and says of them."""

from openme.cli.output import warn
from openme.client import Attempt, DiskError, KeysRefusedError, Session
from openme.moments import day


def renewed(session: Session, attempt: Attempt) -> str | None:
    """Fetch new keys after a knock that was just sent, if they are due; why what came was not kept."""
    try:
        session.renew(attempt)
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
