"""The kernel tells when somebody has set the wall clock, or the machine has slept (timerfd_create(2)).

A timer that is never to go off is cancelled by that. It is made before the process may make no more, and to read it is
enough to hear of the next time too.
"""

import ctypes
import os
from contextlib import suppress

# time.h, timerfd.h
_CLOCK_REALTIME = 0
_ABSTIME, _CANCEL_ON_SET = 1, 2
_NEVER = 2 ** (8 * ctypes.sizeof(ctypes.c_long) - 1) - 1
_READ_SIZE = 8

_libc = ctypes.CDLL(None, use_errno=True)


class ClockSteps:
    """Is readable when the wall clock may have been set."""

    def __init__(self) -> None:
        self._descriptor = _libc.timerfd_create(_CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK)
        # struct itimerspec: no interval, and when it goes off, each in seconds and nanoseconds.
        never = (ctypes.c_long * 4)(0, 0, _NEVER, 0)
        if self._descriptor >= 0 and _libc.timerfd_settime(self._descriptor, _ABSTIME | _CANCEL_ON_SET, never, None):
            self.close()

    @property
    def tells(self) -> bool:
        """Whether the kernel tells."""
        return bool(self._descriptor >= 0)

    def fileno(self) -> int:
        """The descriptor; below zero if it does not tell."""
        return int(self._descriptor)

    def read(self) -> None:
        """Take what there is: `fileno` is readable again at the next time."""
        with suppress(OSError):  # ECANCELED is the news itself
            os.read(self._descriptor, _READ_SIZE)

    def close(self) -> None:
        """Have nothing told any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
