"""Doors alone: what the firewall is asked, what is said of it, and what holds when it refuses."""

import logging
from dataclasses import replace

import pytest

from openme.firewall.base import FirewallError
from openme.keeper.events import Ended
from openme.keeper.rules import rules_for
from openme.reasons import End
from openme.server import door_steps
from openme.server.doors import REPAIR_INTERVAL
from support.keeper_parts import Ground
from support.knocks import ELSEWHERE, HOME, config, lines


@pytest.fixture
def ground() -> Ground:
    return Ground()


def test_grants_open_together_or_not_at_all(ground: Ground) -> None:
    grants = [ground.grant("alice"), ground.grant("bob", ELSEWHERE)]
    ground.firewall.refusing = {"open", "apply"}
    assert ground.doors.open(grants, ground.clock.now) == set()
    assert not list(ground.grants)
    ground.firewall.refusing = set()
    ground.firewall.calls.clear()
    assert ground.doors.open(grants, ground.clock.now) == {id(grant) for grant in grants}
    assert ground.firewall.calls == ["open"]
    assert ground.open_for() == {HOME, ELSEWHERE}


def test_a_refused_grant_leaves_the_earlier_one_as_it_was(ground: Ground) -> None:
    earlier = ground.let_in()
    ground.clock.advance(5)
    ground.firewall.refusing = {"open", "apply"}
    assert ground.doors.open([ground.grant()], ground.clock.now) == set()
    assert list(ground.grants) == [earlier]


def test_what_expires_is_told_once_and_asks_nothing_of_the_firewall(ground: Ground) -> None:
    grant = ground.let_in()
    ground.firewall.calls.clear()
    ground.clock.advance(29)
    ground.doors.expire(ground.clock.now.monotonic)
    assert ground.told(Ended) == []
    ground.clock.advance(1)
    for _ in range(2):
        ground.doors.expire(ground.clock.now.monotonic)
    assert ground.told(Ended) == [Ended(((grant, End.TIME_OVER),))]
    assert ground.firewall.calls == []


def test_what_ends_early_is_closed_and_told(ground: Ground) -> None:
    grant = ground.let_in()
    ground.doors.end([(grant, End.CLOSED)], ground.clock.now)
    assert ground.open_for() == set()
    assert ground.told(Ended) == [Ended(((grant, End.CLOSED),))]
    assert ground.doors.why_left_open(ground.clock.now.monotonic) is None


def test_a_door_that_could_not_be_closed_is_said_to_be_open_for_as_long_as_it_may_be(ground: Ground) -> None:
    grant = ground.let_in()
    ground.firewall.refusing = {"close", "apply"}
    with lines("openme.keeper") as records:
        ground.doors.end([(grant, End.CLOSED)], ground.clock.now)
    assert "doors could not be closed early: this firewall refuses to apply" in records[-1].getMessage()
    for seconds, why in (
        (0.0, "this firewall refuses to apply"),
        (29.9, "this firewall refuses to apply"),
        (30.1, None),
    ):
        assert ground.doors.why_left_open(ground.clock.now.monotonic + seconds) == why


def test_of_many_that_end_the_last_wait_and_whoever_knocks_meanwhile_stays(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground.doors, "at_once", 2)
    grants = [ground.let_in(address=HOME + number) for number in range(5)]
    ground.doors.end([(grant, End.CLOSED) for grant in grants], ground.clock.now)
    assert len(ground.open_for()) == 3
    assert ground.doors.are_on_their_way
    ground.clock.advance(1)
    ground.let_in(address=HOME + 4)
    ground.work_off()
    assert ground.open_for() == {HOME + 4}
    assert not ground.doors.are_on_their_way


def test_a_door_is_not_opened_again_for_who_shares_it_once_no_rule_knows_it(ground: Ground) -> None:
    """His own waits to follow the config; what the rules do not know the firewall would refuse, and with it the end."""
    grant = ground.let_in()
    ground.doors.open([ground.grant("bob", seconds=60)], ground.clock.now)
    ground.doors.rules = replace(ground.rules, port_lists=frozenset())
    ground.firewall.calls.clear()
    ground.doors.end([(grant, End.CLOSED)], ground.clock.now)
    assert "open" not in ground.firewall.calls
    assert [held.client_name for held in ground.grants] == ["bob"]


def test_doors_that_wait_for_their_turn_are_on_their_way(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_steps, "AT_ONCE", 1)
    grant = ground.let_in()
    assert len(grant.doors) == 2
    ground.doors.end([(grant, End.CLOSED)], ground.clock.now)
    assert len(ground.firewall.doors()) == 1
    assert ground.doors.are_on_their_way
    ground.work_off()
    assert ground.firewall.doors() == []
    assert not ground.doors.are_on_their_way


def test_rules_are_in_force_when_the_firewall_took_them_and_never_before(ground: Ground) -> None:
    before, after = ground.doors.rules, rules_for(config(ports="{default: [443/tcp]}"))
    ground.firewall.refusing = {"apply"}
    with pytest.raises(FirewallError):
        ground.doors.use(after)
    assert ground.doors.rules == before
    ground.firewall.refusing = set()
    ground.doors.use(after)
    assert ground.doors.rules == after == ground.firewall.rules


def test_the_same_rules_are_not_put_in_force_again(ground: Ground) -> None:
    ground.doors.use(rules_for(config()))
    assert ground.firewall.calls == []


def test_a_flush_is_repaired_with_the_doors_that_are_open(ground: Ground) -> None:
    ground.let_in()
    ground.firewall.flush()
    ground.doors.on_ruleset_change()
    assert ground.doors.repair(ground.clock.now.monotonic) is True
    assert ground.open_for() == {HOME}
    assert ground.doors.repair(ground.clock.now.monotonic) is False, "once is enough"


def test_repairs_have_a_least_distance_and_a_refused_one_is_tried_again(ground: Ground) -> None:
    ground.firewall.flush()
    ground.firewall.refusing = {"apply"}
    ground.doors.on_ruleset_change()
    assert ground.doors.repair(ground.clock.now.monotonic) is False
    ground.firewall.refusing = set()
    assert ground.doors.repair(ground.clock.now.monotonic + REPAIR_INTERVAL / 2) is False
    assert ground.doors.repair(ground.clock.now.monotonic + REPAIR_INTERVAL) is True


def test_what_a_refused_try_has_left_is_looked_at(ground: Ground) -> None:
    ground.firewall.refuse_next = {"apply": 1}
    with pytest.raises(FirewallError):
        ground.doors.use(rules_for(config(ports="{default: [443/tcp]}")))
    ground.firewall.lost = True
    assert ground.doors.repair(ground.clock.now.monotonic) is True


def test_devices_are_followed_unless_another_interface_is_in_force(ground: Ground) -> None:
    ground.doors.rules = replace(ground.rules, interface="eth0", interface_indexes=(2,))
    now = ground.clock.now.monotonic
    ground.doors.follow_devices("eth1", (3,), now)
    assert ground.firewall.calls == []
    ground.doors.follow_devices("eth0", (2, 3), now)
    assert ground.doors.rules.interface_indexes == (2, 3)
    ground.doors.follow_devices("eth0", (4,), now)
    assert ground.doors.rules.interface_indexes == (2, 3), "not at once again"
    ground.firewall.refusing = {"apply"}
    with lines("openme.keeper", logging.ERROR) as records:
        ground.doors.follow_devices("eth0", (4,), now + REPAIR_INTERVAL)
    assert ground.doors.rules.interface_indexes == (2, 3)
    assert "do not follow interface eth0" in records[0].getMessage()
