"""Keys renew themselves through use, whatever the use: when a client asks for new epoch keys, and when it warns.

A receipt brings the keys of the horizon from its knock's epoch on (spec wire-v2.md "Receipt"), so a client that
fetches one now and then never runs dry. One that only knocks fetches one too, once fewer than half of its keys are
left: after sending, once a day, for a second at most.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from openme.client.addresses import Endpoint
from openme.client.known import PastKnock
from openme.client.receipt import Proof, prove
from openme.config.profile_model import EpochKeys
from openme.keys.ratchet import NS, epoch_at

if TYPE_CHECKING:
    from openme.client.driver import Driver

FETCH_SECONDS = 1.0
"""For all there is to try after a knock that nobody asked to wait for."""
TRY_EVERY = 86400
"""Seconds between two tries, whatever came of the first; fewer where keys last for less than eight days."""
_TRIES = 8  # at least, within the time that a file's keys last
WARN_SECONDS = 8 * 7 * 86400
"""A client whose keys last no longer than this says so."""
_FULL_SPAN = 53 * 7 * 86400
"""What a file carries by default, in seconds; where it carries less, the warning comes later in proportion."""
_FIRST_ATTEMPT = 0.05  # seconds; a first SYN may overtake the opening of the door, and a dropped one is not answered


def epochs_left(keys: EpochKeys, known: Mapping[int, bytes], now_ns: int) -> int:
    """For how many epochs there are keys, the current one included; 0 or less for a clock beyond the last."""
    return max(known) + 1 - epoch_at(now_ns, int(keys.length))


def is_due(keys: EpochKeys, known: Mapping[int, bytes], now_ns: int, tried: int | None) -> bool:
    """Whether a knock made now is to fetch its receipt, and no try was made lately.

    It is when fewer than half of a file's epochs are left, or where a file has so few, with the last one.
    `tried`: Unix seconds of the last try; one in the future was made under another clock, and counts for nothing.
    """
    now = now_ns // NS
    every = min(TRY_EVERY, len(keys.keys) * int(keys.length) // _TRIES)
    if tried is not None and 0 <= now - tried < every:
        return False
    left = epochs_left(keys, known, now_ns)
    return left <= 1 or 2 * left < len(keys.keys)


def last_moment(keys: EpochKeys, known: Mapping[int, bytes], now_ns: int) -> int | None:
    """The Unix second with which the last key's epoch ends, if that is near enough for a warning; else None."""
    length = int(keys.length)
    end = (max(known) + 1) * length
    warn = min(WARN_SECONDS, WARN_SECONDS * len(keys.keys) * length // _FULL_SPAN)
    return end - 1 if end - now_ns // NS < warn else None


async def fetch(
    driver: "Driver", knocks: Sequence[tuple[Endpoint, PastKnock]], port: int, seconds: float = FETCH_SECONDS
) -> Proof | None:
    """The receipt of one of these knocks, the first that comes within `seconds`; None if none does."""
    deadline = driver.monotonic() + seconds
    by_endpoint = dict(knocks)
    attempt = _FIRST_ATTEMPT
    while (left := deadline - driver.monotonic()) > 0:
        for endpoint in await driver.open_endpoints(by_endpoint, port, min(attempt, left)):
            left = max(0.0, deadline - driver.monotonic())
            proof = await prove(driver, endpoint, port, by_endpoint[endpoint], patience=0, limit=left)
            if proof.receipt is not None:
                return proof
        # A port that refuses at once must not be asked as fast as it answers.
        await driver.pause(max(0.0, min(_FIRST_ATTEMPT, deadline - driver.monotonic())))
        attempt *= 2
    return None
