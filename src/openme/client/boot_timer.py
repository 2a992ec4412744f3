"""A timer that counts the time that the machine sleeps (timerfd_create(2) on CLOCK_BOOTTIME). Linux alone has it.

poll(2) and every other wait of Python's stand still meanwhile: where the machine sleeps for an hour, 10 s into a wait
of 25, that ends 15 s after it has woken, unless the processor is woken every few seconds to look.
"""

import ctypes
import os
import time

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class BootTimer:
    """Readable from the moment on that `set` has named. OSError, AttributeError where the system has no such thing."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.timerfd_create(time.CLOCK_BOOTTIME, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def __del__(self) -> None:
        # As long as its process.
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def fileno(self) -> int:
        """For whoever waits."""
        return int(self._descriptor)

    def set(self, moment: float) -> None:
        """Be readable from that second of CLOCK_BOOTTIME on, and not before; at once if it is over."""
        nanoseconds = max(1, int(moment * 10**9))  # zero would be never
        value = _Timespec(*divmod(nanoseconds, 10**9))
        if self._library.timerfd_settime(
            self._descriptor, _ABSOLUTE, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
