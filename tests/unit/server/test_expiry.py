"""What ends by itself, alone: doors at their time, rights at their date, and what goes with them."""

import pytest

from openme.firewall.base import CutTarget
from openme.keeper.events import Ended, NewConfig
from openme.reasons import End
from openme.server.expiry import Expiry
from support.keeper_parts import Ground
from support.knocks import HOME, config

UNTIL = "{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:05Z}, bob: {ed25519_pubkey: KEY_B}}"


def expiry(ground: Ground) -> Expiry:
    made = Expiry(ground.keeper, ground.doors, ground.exchanges, ground.clock.now)
    made.follow(ground.events)
    return made


@pytest.mark.parametrize("refuses", [False, True])
def test_a_right_that_ends_closes_its_door_and_ends_what_was_begun_through_it(*, refuses: bool) -> None:
    ground = Ground(config(UNTIL))
    made, grant = expiry(ground), ground.let_in()
    ground.let_in("bob", HOME + 1)
    ground.clock.advance(4.9)
    made.tick(ground.clock.now)
    assert ground.told(Ended) == []
    ground.clock.advance(0.2)
    if refuses:
        ground.firewall.refusing = {"close", "apply"}
    made.tick(ground.clock.now)
    assert ground.told(Ended) == [Ended(((grant, End.EXPIRED),))]
    assert ground.open_for() == ({HOME, HOME + 1} if refuses else {HOME + 1})
    assert (ground.doors.why_left_open(ground.clock.now.monotonic) is not None) == refuses
    ground.work_off()
    assert ground.firewall.cut_targets == [CutTarget(HOME, grant.ports)]


def test_a_config_that_comes_into_force_says_when_rights_end() -> None:
    ground = Ground()
    made = expiry(ground)
    ground.let_in()
    plan = ground.keeper.plan(config(UNTIL), ground.clock.now)
    ground.keeper.follow(plan)
    ground.events.publish(NewConfig(plan.config, ground.clock.now))
    ground.clock.advance(6)
    made.tick(ground.clock.now)
    assert [grants[0][1] for grants in (event.grants for event in ground.told(Ended))] == [End.EXPIRED]


def test_a_door_ends_at_its_time_though_the_firewall_refuses_everything() -> None:
    ground = Ground()
    made, grant = expiry(ground), ground.let_in()
    ground.firewall.refusing = {"open", "close", "apply", "cut"}
    ground.clock.advance(30)
    made.tick(ground.clock.now)
    assert ground.told(Ended) == [Ended(((grant, End.TIME_OVER),))]
