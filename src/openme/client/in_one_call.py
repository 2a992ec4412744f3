"""`openme.knock` and `openme.aknock`: load the profile, knock, wait for the door; thin, over the two sessions."""

from pathlib import Path
from typing import TYPE_CHECKING

from openme.client.errors import ShutError
from openme.client.knock import Attempt
from openme.client.policy import Outcome, State
from openme.client.profiles import load_profiles
from openme.client.session import Session
from openme.config.profile_model import ClientConfig, Profile

if TYPE_CHECKING:
    from openme.client.identity import Identity
    from openme.client.key_file import Passphrase

_WHY = {
    State.CLOSED: "the door stayed shut after the knock",
    State.NOT_AS_ASKED: "the server opened another address than the knock named",
    State.NOT_CONFIRMED: "something answers after the knock, and does not prove to be the server",
}
_CURE = "on the server, the log says why (journalctl -u openme)"


def knock(
    profile: str | Profile | None = None,
    *,
    config: ClientConfig | Path | None = None,
    ip: str | None = None,
    identity: "Identity | None" = None,
    passphrase: "Passphrase | None" = None,
) -> Outcome:
    """Knock, and return once the door is open: under version 2 by the server's own word. Up to nine seconds.

    `profile`: a name, as on the command line; a Profile, which stands in place of the file's of that name; None for the
    only one or `default`. `config`: what it stands in, a file already loaded or the path of one; None for
    `~/.openme/config.yaml`. `ip`, `identity` and `passphrase` are as for `Session`.

    ShutError, with the outcome, for a door that is not open; ConfigError for a file that cannot be used; whatever
    `Session.knock` raises. The profile's `post_knock` is not run.
    """
    chosen, name = meant(profile, config)
    session = Session(chosen, name, identity=identity, passphrase=passphrase)
    attempt = session.knock(ip)
    return opened(session.profile, attempt, session.check(attempt))


async def aknock(
    profile: str | Profile | None = None,
    *,
    config: ClientConfig | Path | None = None,
    ip: str | None = None,
    identity: "Identity | None" = None,
    passphrase: "Passphrase | None" = None,
) -> Outcome:
    """See `knock`; for a task of asyncio, which may be cancelled."""
    import asyncio  # noqa: PLC0415  # not with `knock`

    from openme.client.async_session import AsyncSession  # noqa: PLC0415

    chosen, name = await asyncio.to_thread(meant, profile, config)
    session = AsyncSession(chosen, name, identity=identity, passphrase=passphrase)
    attempt = await session.knock(ip)
    return opened(session.profile, attempt, await session.check(attempt))


def meant(profile: str | Profile | None, config: ClientConfig | Path | None) -> tuple[ClientConfig, str | None]:
    """The file, and the name of the profile in it, that `knock` is to use. ConfigError, ProfileError."""
    loaded = config if isinstance(config, ClientConfig) else load_profiles(config)
    if not isinstance(profile, Profile):
        return loaded, profile
    return loaded._replace(profiles={**loaded.profiles, profile.name: profile}), profile.name


def opened(profile: Profile, attempt: Attempt, outcome: Outcome) -> Outcome:
    """The outcome of a knock whose door is open. ShutError otherwise."""
    if outcome.is_open:
        return outcome
    raise ShutError(f"{profile.server_host}: {_WHY[outcome.state]}", _CURE, attempt, outcome)
