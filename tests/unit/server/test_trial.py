"""A trial alone: it ends by a knock, or it is over."""

import os
from contextlib import ExitStack

import pytest

from openme.keeper.events import LetIn
from openme.server import start
from openme.server.trial import Trial
from support.keeper_parts import Ground
from support.knocks import HOME


def test_whoever_knocks_in_time_ends_it_once() -> None:
    ground, passed = Ground(), []
    trial = Trial(60.0, lambda: passed.append("guard"))
    trial.begin(ground.events, 1000.0, lambda: passed.append("kept"))
    assert not trial.is_over(1059.9)
    for _ in range(2):
        ground.events.publish(LetIn(ground.grant(), HOME, ground.clock.now))
    assert passed == ["guard", "kept"]
    assert not trial.is_running
    assert not trial.is_over(5000.0)


def test_without_a_knock_it_is_over_when_its_time_is() -> None:
    ground = Ground()
    trial = Trial(60.0, lambda: None)
    running = [trial.is_running]  # nothing is hidden yet
    trial.begin(ground.events, 1000.0, lambda: None)
    running.append(trial.is_running)
    assert running == [False, True]
    assert [trial.is_over(now) for now in (1059.9, 1060.0)] == [False, True]


@pytest.mark.parametrize("guards", [True, False])
def test_a_guard_that_somebody_has_ended_does_not_end_the_server_with_the_knock(
    monkeypatch: pytest.MonkeyPatch, *, guards: bool
) -> None:
    lifeline, ours = os.pipe()
    monkeypatch.setattr(start, "fork_with_lifeline", lambda _: (0, ours))
    monkeypatch.setattr(start, "wait_for", lambda _: None)
    with ExitStack() as stack:
        if guards:
            stack.callback(os.close, lifeline)
        else:
            os.close(lifeline)
        ground, trial = Ground(), Trial(60.0, start._start_trial_guard(stack, "memory", None))
        trial.begin(ground.events, 1000.0, lambda: None)
        ground.events.publish(LetIn(ground.grant(), HOME, ground.clock.now))
        assert not trial.is_running
        if guards:
            assert os.read(lifeline, 9) == b"1"
