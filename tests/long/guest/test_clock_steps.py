"""Whoever sets the wall clock of a machine of its own: the kernel tells it, each time."""

import os
import select
import time
from contextlib import closing

import pytest

from openme.server.clock_steps import ClockSteps

pytestmark = pytest.mark.skipif("OPENME_GUEST" not in os.environ, reason="it sets the clock of the whole machine")


def has_told(steps: ClockSteps) -> bool:
    told = bool(select.select([steps], [], [], 10)[0])
    steps.read()
    return told and not select.select([steps], [], [], 0)[0]


def test_every_step_of_the_clock_is_told_however_small_and_in_whichever_direction() -> None:
    ahead = time.time() - time.monotonic()
    with closing(ClockSteps()) as steps:
        assert steps.tells
        try:
            for step in (3600, -7200, 5, -1, 10**8):
                time.clock_settime(time.CLOCK_REALTIME, time.time() + step)
                assert has_told(steps), step
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + ahead)
