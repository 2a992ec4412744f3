"""The kernel's word that the wall clock was set, where nobody sets it: that is tried in tests/long/guest."""

import os
import select
from contextlib import closing
from pathlib import Path

import pytest

from openme.server import clock_steps
from openme.server.clock_steps import ClockSteps


def test_while_nobody_sets_the_clock_it_says_nothing() -> None:
    with closing(ClockSteps()) as steps:
        assert steps.tells
        assert select.select([steps], [], [], 0)[0] == []
        steps.read()
        assert steps.tells
    assert not steps.tells


class _NoTimers:
    timerfd_create = staticmethod(lambda *_: -1)


class _NoCancelling:
    timerfd_create = staticmethod(lambda *_: os.open(os.devnull, os.O_RDONLY))
    timerfd_settime = staticmethod(lambda *_: -1)


@pytest.mark.parametrize("kernel", [_NoTimers, _NoCancelling])
def test_a_kernel_that_does_not_tell_is_no_fault(kernel: type, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(clock_steps, "_libc", kernel)
    assert (ClockSteps().tells, ClockSteps().fileno()) == (False, -1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
