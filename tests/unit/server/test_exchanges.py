"""What was begun by a right that is lost, alone: it is ended, once, however often the rules were away."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from openme.firewall.base import CutTarget
from openme.keeper.events import NewConfig
from openme.store.base import Claim, Holder
from openme.wire.knock import IPAddress, Knock
from support.keeper_parts import Ground
from support.knocks import ALICE, ELSEWHERE, HOME, config, lines, nonce

ONLY_BOB = "{bob: {ed25519_pubkey: KEY_B}}"


def remember(ground: Ground, address: IPAddress) -> None:
    """Alice had a door open once."""
    now, ports = ground.clock.now, ground.keeper.config.clients["alice"].ports
    holder = Holder(ALICE.public.raw, address, "alice", ports, now.unix - 60, now.unix - 30)
    knock = Knock(now.unix_ns, nonce(address), None)
    ground.store.claim([Claim(ALICE.public.raw, knock, HOME, "alice", now.unix, holder)], lambda _: None)


def switch(ground: Ground) -> None:
    plan = ground.keeper.plan(config(ONLY_BOB), ground.clock.now)
    ground.keeper.follow(plan)
    ground.events.publish(NewConfig(plan.config, ground.clock.now))


def test_what_the_disk_knows_and_what_is_open_are_both_ended() -> None:
    ground = Ground()
    before, ports = ground.keeper.config.index, ground.keeper.config.clients["alice"].ports
    remember(ground, ELSEWHERE)
    grant = ground.let_in()
    switch(ground)
    ground.exchanges.end_by_change(before, ground.keeper.config.index, [grant], ground.clock.now)
    ground.work_off()
    assert set(ground.firewall.cut_targets) == {CutTarget(HOME, ports), CutTarget(ELSEWHERE, ports)}


def test_of_a_config_that_only_takes_clients_out_nobody_else_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground()
    before, ports = ground.keeper.config.index, ground.keeper.config.clients["alice"].ports
    remember(ground, ELSEWHERE)
    asked: list[bytes] = []
    holders_of = ground.store.holders_of

    def noted(key: bytes) -> list[Holder]:
        asked.append(key)
        return holders_of(key)

    monkeypatch.setattr(ground.store, "holders_of", noted)
    monkeypatch.setattr(ground.store, "holder_keys", None)
    plan = ground.keeper.plan(
        replace(ground.keeper.config, clients={}).with_index(before.without([ALICE.public.raw])), ground.clock.now
    )
    ground.keeper.follow(plan)
    ground.exchanges.end_by_change(before, plan.config.index, [], ground.clock.now)
    ground.work_off()
    assert asked == [ALICE.public.raw]
    assert ground.firewall.cut_targets == [CutTarget(ELSEWHERE, ports)]


def test_whoever_keeps_his_right_keeps_what_he_began() -> None:
    ground = Ground()
    remember(ground, ELSEWHERE)
    ground.exchanges.end_what_was_lost_before()
    ground.work_off()
    assert ground.firewall.cut_targets == []


def test_rules_that_are_away_again_and_again_cost_one_look_at_a_time() -> None:
    ground = Ground()
    remember(ground, ELSEWHERE)
    switch(ground)
    for _ in range(50):
        ground.exchanges.end_what_began_without_rules()
    ground.work_off()
    assert 1 <= ground.firewall.calls.count("cut") <= 2
    ground.firewall.calls.clear()
    ground.exchanges.end_what_began_without_rules()
    ground.work_off()
    assert ground.firewall.calls.count("cut") == 1, "and later it is looked again"


def test_who_loses_a_network_loses_what_came_from_all_of_it() -> None:
    network = ip_network("203.0.113.0/24")
    ground = Ground()
    grant = replace(ground.grant(), address=network.network_address, network=network, knocked_for=HOME)
    ground.exchanges.end_of([grant.client_key], [grant], ground.clock.now)
    ground.work_off()
    assert ground.firewall.cut_targets == [CutTarget(network.network_address, grant.ports, network=network)]


def test_a_firewall_that_cannot_end_them_is_said() -> None:
    ground = Ground()
    remember(ground, ELSEWHERE)
    switch(ground)
    ground.firewall.refusing = {"cut"}
    with lines("openme.keeper") as records:
        ground.exchanges.end_what_was_lost_before()
        ground.work_off()
    assert "some connections that should have ended may go on" in records[0].getMessage()
