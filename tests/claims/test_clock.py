"""The row `clock` of the security model: moving the server's clock neither reopens an old knock nor destroys keys,
and setting it right restores service.

Real: everything but the server's wall clock, which is turned by libfaketime (support/clock.py): while it runs, and
across restarts. Clients' clocks are right throughout. The keys that a clock could destroy are version 2's.
"""

import time

import pytest

from openme.store.mark import MARK
from openme.store.places import DATABASE
from support.claims import ClaimsWorld, noted
from support.server import CLIENT

pytestmark = pytest.mark.root

HOUR, DAY, WEEK, YEAR = 3600, 86400, 7 * 86400, 365 * 86400
STEPS = [HOUR, -HOUR, DAY, -DAY, YEAR, -YEAR]


def _now() -> int:
    """The offset that counts as the right time: an hour before it has to lie in the same epoch."""
    return 2 * HOUR if time.time() % WEEK < 2 * HOUR else 0


def _turn(world: ClaimsWorld, offset: int, *, restart: bool) -> None:
    if restart:
        world.kill()
    world.clock.step(offset)
    if restart:
        world.start()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("step", STEPS)
def test_stepped_and_set_right(world: ClaimsWorld, step: int, restart: bool) -> None:  # noqa: FBT001
    old = world.assert_opens(world.alice)
    never_arrived = world.signed(world.bob)
    world.close("alice")

    _turn(world, step, restart=restart)
    with noted("wrong clock"):
        true_time = world.packet(world.alice)  # an honest client, whose clock is right
        world.assert_refuses(old, never_arrived, true_time)
    if world.wire == 1:  # the operator is told whose clock differs; of another epoch nobody can read who it was
        assert "its clock is" in world.log()

    _turn(world, 0, restart=restart)
    with noted("clock set right"):
        world.assert_refuses(old)
        fresh = world.assert_opens(world.alice)
        world.close("alice")
        world.assert_refuses(old, fresh)
        world.assert_opens(world.bob, "bob")


def test_beyond_what_nanoseconds_hold_the_server_says_so_and_the_next_start_serves(world: ClaimsWorld) -> None:
    old = world.assert_opens(world.alice)
    world.close("alice")
    world.clock.step(300 * YEAR)
    assert world.wait() == 1
    world.says("openme: error: this machine's clock stands beyond the year 2262\nopenme: hint: set the clock first\n")
    assert world.tcp(world.client, 22) == "filtered"
    world.begin(prefix=world.clock.prefix)
    assert world.wait() == 1
    world.says("beyond the year 2262")
    world.clock.step(_now())
    world.start()
    world.assert_refuses(old)
    world.assert_opens(world.alice)


def test_turned_back_to_when_a_knock_was_good(world: ClaimsWorld) -> None:
    """The attacker turns the clock so that an old knock's time fits again, to the second, as often as he likes."""
    now = _now()
    past = now - HOUR
    world.clock.step(past)
    old = world.assert_opens(world.alice)  # an hour ago, all clocks agreed
    world.close("alice")
    world.clock.step(now)
    fresh = world.assert_opens(world.alice)
    world.close("alice")
    for offset, restart in (
        (past, False),
        (now, True),
        (past, True),
        (past - 59, False),
        (past + 59, True),
        (now, False),
    ):
        _turn(world, offset, restart=restart)
        with noted(f"{offset:+d} s"):
            world.assert_refuses(old, fresh)
    world.assert_opens(world.alice)


def test_a_knock_that_never_arrived_is_stale_once_its_client_has_knocked_later(world: ClaimsWorld) -> None:
    """As promised: until its client's next knocks someone who swallowed it and turns the clock back can deliver it."""
    now = _now()
    world.clock.step(now - HOUR)
    swallowed = world.signed(world.alice)
    world.clock.step(now)
    world.assert_opens(world.alice)
    world.close("alice")
    world.clock.step(now - HOUR)
    world.assert_refuses(swallowed)
    assert f"alice: refused: stale (from {CLIENT[4]})" in world.log()


def test_a_client_whose_clock_was_ahead_with_the_servers_is_reset_by_the_operator(world: ClaimsWorld) -> None:
    world.clock.step(DAY)
    world.ask("sessions")
    ahead = world.assert_opens(world.alice)
    world.close("alice")
    world.clock.step(0)
    world.ask("sessions")
    if world.wire == 1:  # under version 2 the knock has shown that this epoch was over, where it was
        world.assert_refuses(world.signed(world.alice))
        done = world.openme(world.server, "--config", world.config, "reset", "alice", code=0)
        assert "knocks made from now on" in done.stderr
        world.assert_opens(world.alice)
        world.close("alice")
    world.assert_refuses(ahead)
    world.clock.step(DAY)
    world.ask("sessions")
    world.assert_refuses(ahead)


def test_memory_and_mark_lost_under_a_clock_ahead_wait_for_the_operators_word(world: ClaimsWorld) -> None:
    """Nothing is left that knows what was accepted: no clock that is set back lets anybody in, `reset --all` does."""
    old = world.assert_opens(world.alice)
    world.kill()
    world.forget_newest()
    for name in (DATABASE, f"{DATABASE}-wal", MARK):
        (world.state_dir / name).unlink(missing_ok=True)
    world.clock.step(YEAR)
    world.start()
    world.says("the replay memory may be incomplete (state.db and state.mark are gone)")
    world.clock.step(0)
    for _ in range(2):
        world.restart()
        world.says("nobody gets in before")
        world.says("openme reset --all")
        world.assert_refuses(old, world.packet(world.alice))
    done = world.openme(world.server, "--config", world.config, "reset", "--all", code=0)
    assert "are accepted again" in done.stderr
    assert "could use it once when its time comes" in done.stderr
    world.assert_refuses(old)
    world.clock.step(61)  # what may have been dated ahead when it was accepted
    world.ask("sessions")
    world.assert_refuses(old)
    world.assert_opens(world.alice)
    world.restart()
    assert "nobody gets in" not in world.log()
    world.assert_opens(world.alice)
