"""A health port that a service gets: it is asked for until the listener has left it, and then it is that service's."""

from collections.abc import Iterator

import pytest

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.keeper.events import NewConfig
from openme.processes.listener_reports import Reports
from openme.seam.messages import LeaveHealthPort, LeftHealthPort
from openme.server.leaving_health_port import LeavingHealthPort
from support.keeper_parts import Ground, Listening, listening
from support.knocks import config


class Stand:
    def __init__(self, listener: Listening) -> None:
        self.ground = Ground()
        self.listener = listener
        self.reports = Reports()
        self.used: list[ServerConfig] = []
        self.takes = True
        self.leaving = LeavingHealthPort(self.reports, listener.outbox, self.use)
        self.leaving.follow(self.ground.events)

    def use(self, parsed: ServerConfig, now: Now) -> bool:
        self.used.append(parsed)
        if self.takes:
            self.ground.events.publish(NewConfig(parsed, now))
        return self.takes

    def edit(self, ports: str) -> None:
        parsed = config(ports=ports).with_health_port(listens=True)
        self.ground.events.publish(NewConfig(parsed, self.ground.clock.now))

    def turn(self, seconds: float = 0.0) -> list[object]:
        self.ground.clock.advance(seconds)
        self.leaving.tick(self.ground.clock.now)
        return list(self.listener.told())

    def listener_has_left(self) -> None:
        self.reports.on_report_untrusted(LeftHealthPort().pack(), 0.0)


@pytest.fixture
def stand() -> Iterator[Stand]:
    with listening() as listener:
        yield Stand(listener)


NAMED = "{default: [22/tcp, 54154/tcp]}"


def test_a_port_that_nobody_names_is_kept(stand: Stand) -> None:
    stand.edit("{default: [22/tcp]}")
    stand.listener_has_left()
    assert stand.turn(10) == []
    assert stand.used == []


def test_it_is_asked_for_once_a_second_until_it_is_left_and_then_in_force(stand: Stand) -> None:
    stand.listener_has_left()  # what it says unasked counts for nothing
    stand.edit(NAMED)
    assert stand.turn() == [LeaveHealthPort()]
    assert stand.turn(0.5) == []
    assert stand.turn(0.5) == [LeaveHealthPort()]
    assert stand.used == []
    stand.listener_has_left()
    assert stand.turn() == []
    assert [parsed.listens for parsed in stand.used] == [False]
    assert stand.used[0].groups == config(ports=NAMED).groups
    assert stand.turn(100) == []
    assert len(stand.used) == 1


def test_rules_that_the_firewall_refused_are_tried_again_a_minute_later(stand: Stand) -> None:
    stand.takes = False
    stand.edit(NAMED)
    stand.listener_has_left()
    stand.turn()
    stand.turn(60)
    assert len(stand.used) == 1
    stand.takes = True
    stand.turn(4)
    assert len(stand.used) == 2


def test_a_port_that_is_named_no_more_is_left_all_the_same(stand: Stand) -> None:
    """The listener was told to; it takes nothing back."""
    stand.edit(NAMED)
    assert stand.turn() == [LeaveHealthPort()]
    stand.edit("{default: [22/tcp, 443/tcp]}")
    stand.listener_has_left()
    stand.turn(1)
    assert [used.groups for used in stand.used] == [config(ports="{default: [22/tcp, 443/tcp]}").groups]
