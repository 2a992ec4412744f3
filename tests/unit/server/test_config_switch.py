"""A config's way into force, without a file: what was changed, in which order, and what a refusal leaves."""

from typing import TYPE_CHECKING

import pytest

from openme.config.model import ServerConfig
from openme.keeper.events import Ended, Moved, NewConfig
from openme.reasons import End
from openme.server.config_switch import FIRST_RETRY
from openme.server.hidden_ports import HiddenPorts
from support.keeper_parts import GivenFile, Ground
from support.knocks import ELSEWHERE, HOME, config, lines

if TYPE_CHECKING:
    from openme.firewall.base import IPAddress

ONLY_BOB = "{bob: {ed25519_pubkey: KEY_B}}"


class Stand:
    def __init__(self) -> None:
        self.ground = Ground()
        self.file = GivenFile(self.ground.keeper.config)
        self.hidden = HiddenPorts()
        self.switch = self.ground.switch(self.file, self.hidden)

    def edit(self, parsed: ServerConfig) -> None:
        self.file.changed = parsed
        self.switch.follow(self.ground.clock.now)

    @property
    def clients(self) -> set[str]:
        return set(self.ground.keeper.config.clients)


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_nothing_changed_is_nothing_done(stand: Stand) -> None:
    stand.switch.follow(stand.ground.clock.now)
    assert stand.ground.published == []
    assert stand.ground.firewall.calls == []


def test_who_has_gone_is_out_and_his_door_is_closed(stand: Stand) -> None:
    grant = stand.ground.let_in()
    with lines("openme.keeper") as records:
        stand.edit(config(ONLY_BOB))
    assert stand.clients == {"bob"}
    assert stand.ground.open_for() == set()
    assert [type(event) for event in stand.ground.published] == [Ended, NewConfig]
    assert stand.ground.told(Ended) == [Ended(((grant, End.REVOKED),))]
    assert records[-1].getMessage() == "config in force: 1 clients"
    stand.ground.work_off()
    assert (HOME, grant.ports) in stand.ground.firewall.cuts


def test_the_rules_come_before_the_judgement(stand: Stand) -> None:
    """Or a knock could be given a door that no rule knows."""
    seen: list[object] = []
    stand.ground.events.subscribe(NewConfig, lambda _: seen.append(stand.ground.firewall.rules))
    stand.edit(config(ports="{default: [443/tcp]}"))
    assert seen == [stand.ground.doors.rules]
    assert any(item.first == 443 for ports in stand.ground.doors.rules.port_lists for item in ports.ports)


def test_a_client_by_another_name_keeps_his_door_and_the_move_is_told(stand: Stand) -> None:
    grant = stand.ground.let_in()
    stand.edit(config("{alicia: {ed25519_pubkey: KEY_A}}"))
    (moved,) = stand.ground.told(Moved)
    assert [(before, after.client_name) for before, after in moved.grants] == [(grant, "alicia")]
    assert stand.ground.open_for() == {HOME}


def test_a_refused_config_takes_who_has_gone_away_and_nothing_else(stand: Stand) -> None:
    stand.ground.let_in()
    stand.ground.let_in("bob", ELSEWHERE)
    stand.ground.firewall.refusing = {"apply"}
    before = stand.ground.doors.rules
    stand.edit(config(ONLY_BOB, ports="{default: [443/tcp]}"))
    assert stand.clients == {"bob"}
    assert stand.ground.doors.rules == before
    assert stand.ground.open_for() == {ELSEWHERE}
    assert stand.file.fault == "this firewall refuses to apply"
    assert stand.hidden.ports == (), "what was never in force is not kept hidden"


def test_a_refused_config_by_which_nobody_goes_is_not_told_of(stand: Stand) -> None:
    """Or each try would have the whole state file written anew."""
    stand.ground.let_in()
    stand.ground.firewall.refusing = {"apply"}
    stand.edit(config(ports="{default: [443/tcp]}"))
    assert stand.ground.told(NewConfig) == []
    stand.edit(config(ONLY_BOB, ports="{default: [443/tcp]}"))
    assert [set(event.config.clients) for event in stand.ground.told(NewConfig)] == [{"bob"}]


def test_a_refused_config_is_tried_again_ever_more_rarely_until_it_is_taken(stand: Stand) -> None:
    stand.ground.firewall.refusing = {"apply"}
    wanted = config(ports="{default: [443/tcp]}")
    waits = []
    stand.edit(wanted)
    for _ in range(5):
        tries, waited = stand.file.read_anew, 0.0
        while stand.file.read_anew == tries:
            stand.ground.clock.advance(0.25)
            waited += 0.25
            stand.switch.follow(stand.ground.clock.now)
        waits.append(waited)
        stand.edit(wanted)
    assert waits == [FIRST_RETRY * 2**number for number in range(5)]
    stand.ground.firewall.refusing = set()
    stand.file.fault = None
    stand.edit(wanted)
    stand.ground.clock.advance(1000)
    tries = stand.file.read_anew
    stand.switch.follow(stand.ground.clock.now)
    assert stand.file.read_anew == tries, "taken, and not tried again"
    stand.ground.firewall.refusing = {"apply"}
    stand.edit(config())
    stand.ground.clock.advance(FIRST_RETRY)
    stand.switch.follow(stand.ground.clock.now)
    assert stand.file.read_anew == tries + 1, "the next refusal has its own tries, and the first of them soon"


def test_doors_of_many_follow_in_steps_and_who_has_gone_comes_first(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand.ground.doors, "at_once", 2)
    bobs: set[IPAddress] = {ELSEWHERE + number for number in range(5)}
    for address in bobs:
        stand.ground.let_in("bob", address)
    stand.ground.let_in()
    stand.edit(config("{bob: {ed25519_pubkey: KEY_B, allowed_ports: [443/tcp]}}"))
    assert HOME not in stand.ground.open_for()
    assert stand.ground.doors.are_on_their_way
    stand.ground.work_off()
    assert stand.ground.open_for() == bobs
    assert {door.port_list.ports[0].first for door in stand.ground.firewall.doors()} >= {443}
    assert all(port.first != 22 for door in stand.ground.firewall.doors() for port in door.port_list.ports)


def test_what_needs_a_restart_is_said_and_left_as_it_is(stand: Stand) -> None:
    with lines("openme.keeper") as records:
        stand.edit(config(server="udp_port: 4000"))
    assert "udp_port has changed: this takes effect when the server is restarted" in records[0].getMessage()
    assert stand.ground.keeper.config.udp_port == 54154
