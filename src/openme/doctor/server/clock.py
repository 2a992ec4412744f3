"""Whether something sets this host's clock."""

import ctypes
from collections.abc import Iterator

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server

UNSYNCHRONISED = "clock_unsynchronised"
TIME_ERROR = 5
"""What adjtimex(2) returns where nobody sets the clock."""
_TIMEX_BYTES = 256  # more than any system's struct timex


def kernel_state() -> int:
    """What the kernel's clock says of itself. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    state: int = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: only asked
    if state < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return state


def synchronised(_server: Server) -> Iterator[Finding]:
    """By the kernel's word, which an NTP client tells."""
    try:
        state = kernel_state()
    except OSError:
        raise NotLookedError("the kernel does not say whether the clock is set over the network") from None
    yield from findings(state)


def findings(state: int) -> Iterator[Finding]:
    """What an answer of adjtimex(2) means."""
    if state == TIME_ERROR:
        yield Finding(
            UNSYNCHRONISED,
            "nothing sets this host's clock, so that it drifts away from the clients'",
            "timedatectl set-ntp true, or another NTP client; docs/clock.md",
        )
