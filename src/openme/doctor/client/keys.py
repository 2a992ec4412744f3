"""Whether the profile has an epoch key for this machine's date."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from openme.client.knock import version_of
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding
from openme.keys.ratchet import NS, epoch_at
from openme.moments import day
from openme.wire.base import Keys

if TYPE_CHECKING:
    from openme.config.profile_model import EpochKeys

ENDED = "keys_ended"
NOT_BEGUN = "keys_not_begun"
END_SOON = "keys_end_soon"
MISSING = "keys_missing"
_RENEW = "if the date is right, get a new file: on the server, openme renew NAME; else set the clock"


def epoch_keys(client: Client) -> Iterator[Finding]:
    """Only version 2 has any."""
    profile = client.profile
    version = version_of(profile)
    if version.keys is not Keys.EPOCH:
        return
    keys: EpochKeys | None = profile.epoch_keys
    if keys is None:
        yield Finding(
            MISSING,
            f"profile {profile.name} has no epoch_keys, which protocol: {version.name} needs",
            "get a file with them: on the server, openme renew NAME",
        )
        return
    length, known = int(keys.length), client.known.keys(profile)
    now = time.time_ns()
    epoch, today = epoch_at(now, length), day(now // NS)
    if epoch > max(known):
        end = day((max(known) + 1) * length - 1)
        yield Finding(ENDED, f"the epoch keys of profile {profile.name} ended on {end}, and it is {today} here", _RENEW)
    elif epoch not in known:
        begin = day(min(index for index in known if index > epoch) * length)
        yield Finding(
            NOT_BEGUN, f"the epoch keys of profile {profile.name} begin on {begin}, and it is {today} here", _RENEW
        )


def end(client: Client) -> Iterator[Finding]:
    """Whether they end soon, also after what a receipt may have brought."""
    profile = client.profile
    if (last := client.session.keys_end()) is not None:
        yield Finding(
            END_SOON,
            f"the epoch keys of profile {profile.name} end on {day(last)}",
            "a receipt brings new ones (openme knock --check), or a new file (on the server, openme renew NAME)",
        )
