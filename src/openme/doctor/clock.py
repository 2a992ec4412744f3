"""Whether the clock is right, by another one: on either side."""

from collections.abc import Iterator

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.sntp import measure

SERVER = "pool.ntp.org"
WORTH_A_WORD = 5.0
"""Seconds. A server takes knocks with a difference of a minute by default, so there is time to set a clock right."""
NOBODY = "none"
CLOCK = "clock"


def clock_is_wrong(ntp: str) -> Iterator[Finding]:
    """Ask the NTP server called so; `none`: nobody is to be asked."""
    if ntp == NOBODY:
        raise NotLookedError("no NTP server is to be asked")
    try:
        measured = measure(ntp)
    except (OSError, UnicodeError):
        measured = None
    if measured is None:
        raise NotLookedError(f"no answer from the NTP server {ntp} (another one: --ntp HOST)")
    if abs(measured.offset) - measured.delay / 2 > WORTH_A_WORD:
        side = "behind" if measured.offset > 0 else "ahead of"
        yield Finding(
            CLOCK,
            f"this machine's clock is {abs(measured.offset):.0f} s {side} that of {ntp}",
            "have it set over the network: timedatectl set-ntp true, or this system's setting for it; docs/clock.md",
        )
