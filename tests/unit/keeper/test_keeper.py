"""The judge of a knock: what is checked, in which order, and the name of every refusal."""

import logging
from dataclasses import replace
from ipaddress import ip_address

import pytest

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.firewall.base import Door, PortList
from openme.keeper.policy import client_lists, health_list
from openme.keeper.rules import rules_for
from openme.keys.ed25519 import ClientPrivateKey
from openme.ports import merged, parse_port_spec
from openme.store.replay import MAX_NONCES
from support.knocks import (
    ALICE,
    BOB,
    ELSEWHERE,
    HOME,
    NOW,
    NS,
    OWN,
    START,
    STRANGER,
    Judge,
    config,
    frame,
    judged,
    keeper,
    later,
    lines,
    packet,
)

SSH, WEB = PortList(parse_port_spec("22/tcp")), PortList(parse_port_spec("443/tcp"))
HEALTH = health_list(54154)
EXPIRED = "{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:00Z}}"
ONLY_ALICE = "{alice: {ed25519_pubkey: KEY_A}}"


def admitted(judge: Judge, datagram: bytes, now: Now = NOW) -> None:
    grant = judged(judge, datagram, now).grant
    assert grant is not None
    judge.grants.add(grant)


def test_a_good_knock_is_granted_what_the_config_says() -> None:
    outcome = judged(keeper(), packet())
    assert (outcome.reason, outcome.source) == ("accepted", HOME)
    grant = outcome.grant
    assert grant is not None
    assert outcome.client is not None
    assert outcome.remembered is not None
    assert (grant.client_name, grant.client_key, grant.address) == ("alice", ALICE.public.raw, HOME)
    assert (grant.ports, grant.port_lists) == (parse_port_spec("22/tcp"), (SSH, HEALTH))
    assert (grant.opened_at, grant.expires_at, grant.deadline) == (NOW.unix, NOW.unix + 30, NOW.monotonic + 30)


def test_a_named_target_is_opened_in_place_of_the_source() -> None:
    grant = judged(keeper(), packet(target=str(ELSEWHERE))).grant
    assert grant is not None
    assert grant.address == ELSEWHERE


@pytest.mark.parametrize(("raw", "reason"), [(b"", "frame"), (bytes(233), "frame"), (bytes(235), "frame")])
def test_a_frame_of_the_wrong_size_is_refused_by_name(raw: bytes, reason: str) -> None:
    assert keeper().judge_untrusted(raw, NOW).reason == reason


@pytest.mark.parametrize(
    ("offset", "reason"),
    [(69, "version"), (25, "decrypt"), (69 + 33, "decrypt"), (69 + 45, "decrypt"), (69 + 100, "decrypt")],
)
def test_what_a_hostile_listener_changes_is_found_again(offset: int, reason: str) -> None:
    raw = bytearray(frame(packet()))
    raw[offset] ^= 1
    assert keeper().judge_untrusted(bytes(raw), NOW).reason == reason


@pytest.mark.parametrize("offset", [69 + 1, 69 + 101, 69 + 164])
def test_a_changed_ephemeral_key_or_signature_is_nobodys(offset: int) -> None:
    raw = bytearray(frame(packet()))
    raw[offset] ^= 1
    assert keeper().judge_untrusted(bytes(raw), NOW).reason == "unknown_key"


def test_the_frames_nonce_and_epoch_decide_nothing_in_version_1() -> None:
    good = frame(packet())
    changed = good[:17] + b"\xff" * 8 + good[25:57] + bytes(12) + good[69:]
    assert keeper().judge_untrusted(changed, NOW).reason == "accepted"


def test_an_unregistered_key_is_refused() -> None:
    assert judged(keeper(), packet(STRANGER)).reason == "unknown_key"


def test_a_client_that_may_not_speak_version_1_is_refused() -> None:
    judge = keeper(config("{alice: {ed25519_pubkey: KEY_A, protocols: [v2]}}"))
    assert judged(judge, packet()).reason == "protocol"


def test_a_client_expires_at_its_moment_and_not_before() -> None:
    judge = keeper(config(EXPIRED))
    outcome = judged(judge, packet(timestamp_ns=START - NS), later(-1))
    assert outcome.grant is not None
    assert outcome.grant.deadline == later(-1).monotonic + 1
    assert judged(judge, packet(label="b"), NOW).reason == "expired"


@pytest.mark.parametrize("seconds", [60.000000001, 61, 3600, 10**9, -60.000000001, -61, -(10**9)])
def test_a_knock_from_outside_the_window_is_refused(seconds: float) -> None:
    assert judged(keeper(), packet(timestamp_ns=START + round(seconds * NS))).reason == "time"


@pytest.mark.parametrize("timestamp", [-(2**63), 0, 2**63 - 1])
def test_extreme_times_are_refused_like_others(timestamp: int) -> None:
    assert judged(keeper(), packet(timestamp_ns=timestamp)).reason == "time"


@pytest.mark.parametrize("seconds", [60, 59.9, 0, -60])
def test_the_windows_edges_are_inside(seconds: float) -> None:
    assert judged(keeper(), packet(timestamp_ns=START + round(seconds * NS))).reason == "accepted"


def test_the_window_is_the_configs() -> None:
    judge = keeper(config(server="replay_window: 5s"))
    assert judged(judge, packet(timestamp_ns=START - 6 * NS)).reason == "time"
    assert judged(judge, packet(timestamp_ns=START - 5 * NS)).reason == "accepted"


def test_a_resent_knock_is_refused_and_its_first_source_told() -> None:
    judge = keeper()
    judged(judge, packet())
    with lines("openme.journal") as records:
        assert judged(judge, packet(), source=ELSEWHERE).reason == "replay"
        assert judged(judge, packet(), source=HOME).reason == "replay"
    first, second = (record.getMessage() for record in records)
    assert f"first seen from {HOME}" in first
    assert str(ELSEWHERE) in first
    assert "first seen" not in second


def test_an_old_knock_after_a_clock_set_back_is_stale() -> None:
    judge = keeper()
    judged(judge, packet(timestamp_ns=START + 3600 * NS), later(3600))
    assert judged(judge, packet(label="b"), NOW).reason == "stale"


def test_more_knocks_than_are_remembered_are_refused() -> None:
    judge = keeper()
    for number in range(MAX_NONCES):
        assert judged(judge, packet(label=number)).reason == "accepted"
    assert judged(judge, packet(label="one more")).reason == "too_many"
    assert judged(judge, packet(BOB)).reason == "accepted"


def test_policy_comes_last_and_its_refusals_are_remembered_too() -> None:
    judge = keeper()
    outcome = judged(judge, packet(target="127.0.0.1"))
    assert (outcome.reason, outcome.grant) == ("loopback", None)
    assert outcome.remembered is not None
    assert judged(judge, packet(target="127.0.0.1")).reason == "replay"
    assert judged(judge, packet(target=str(OWN))).reason == "replay"  # the nonce alone counts
    assert judged(judge, packet(target=str(OWN), label="b")).reason == "own_address"


def test_the_signature_is_asked_before_everything_a_client_could_be_told() -> None:
    judge = keeper(config(EXPIRED.replace("KEY_A", "KEY_A, protocols: [v2]")))
    stale = START - 10**6 * NS
    assert judged(judge, packet(STRANGER, timestamp_ns=stale, target="127.0.0.1")).reason == "unknown_key"
    assert judged(judge, packet(ALICE, timestamp_ns=stale, target="127.0.0.1")).reason == "protocol"
    judge = keeper(config(EXPIRED))
    assert judged(judge, packet(ALICE, timestamp_ns=stale, target="127.0.0.1")).reason == "expired"
    judge = keeper()
    assert judged(judge, packet(ALICE, timestamp_ns=stale, target="127.0.0.1")).reason == "time"


def test_a_refused_time_is_not_remembered() -> None:
    judge = keeper()
    early = packet(timestamp_ns=START + 90 * NS)
    assert judged(judge, early).remembered is None
    assert judged(judge, early, later(30)).reason == "accepted"


@pytest.mark.parametrize(("skew", "words"), [(3600, "3600 s ahead of ours"), (-120, "120 s behind ours")])
def test_the_log_names_the_client_whose_clock_is_wrong(skew: int, words: str) -> None:
    with lines("openme.journal") as records:
        judged(keeper(), packet(timestamp_ns=START + skew * NS))
    assert [r.levelno for r in records] == [logging.WARNING]
    assert "alice" in records[0].getMessage()
    assert words in records[0].getMessage()


def test_every_refusal_is_counted_under_its_name() -> None:
    judge = keeper()
    judged(judge, packet(STRANGER))
    judged(judge, packet(timestamp_ns=0))
    judged(judge, packet())
    judged(judge, packet())
    judged(judge, packet(label="b", target="224.0.0.1"))
    judge.judge_untrusted(b"", NOW)
    judge.judge_untrusted(b"\x01" + bytes(68) + packet(), NOW)
    assert judge.journal.counts.total == dict.fromkeys(
        ("unknown_key", "time", "replay", "multicast", "frame", "decrypt"), 1
    )


def test_two_clients_behind_one_address_are_both_known() -> None:
    judge = keeper()
    for number in range(4):
        for client, name in ((ALICE, "alice"), (BOB, "bob")):
            outcome = judged(judge, packet(client, label=(number, name)))
            assert outcome.grant is not None
            assert outcome.grant.client_name == name


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openme.keeper.keeper._MAX_SOURCES", 3)
    judge = keeper()
    addresses = [ip_address(f"203.0.113.{number}") for number in range(10)]
    judge.remember_sources((address, ALICE.public.raw) for address in addresses)
    assert list(judge._last_from) == addresses[-3:]
    judge.remember_sources((HOME, bytes([number]) * 32) for number in range(10))
    assert judge._last_from[HOME] == tuple(bytes([number]) * 32 for number in (9, 8, 7, 6))


def test_a_signer_is_found_among_many() -> None:
    keys = [ClientPrivateKey(bytes([n]) * 32) for n in range(60)]
    entries = ", ".join(f"c{n}: {{ed25519_pubkey: '{key.public}'}}" for n, key in enumerate(keys))
    judge = keeper(config(f"{{{entries}}}"))
    for number in (0, 31, 59):
        client = judged(judge, packet(keys[number], label=number)).client
        assert client is not None
        assert client.name == f"c{number}"


# -- a changed config


def changed(judge: Judge, parsed: ServerConfig, seconds: float = 1) -> tuple[set[tuple[str, str]], list[Door]]:
    """Reconfigure; who was ended and why, and the doors to open."""
    outcome = judge.reconfigure(parsed, later(seconds))
    assert outcome.rules == rules_for(parsed)
    return {(grant.client_name, why) for grant, why in outcome.ended}, list(outcome.change.open)


def test_a_revoked_client_is_out_and_its_knocks_are_unknown() -> None:
    judge = keeper()
    admitted(judge, packet())
    outcome = judge.reconfigure(config("{bob: {ed25519_pubkey: KEY_B}}"), later(1))
    assert [(g.client_name, why) for g, why in outcome.ended] == [("alice", "revoked")]
    assert set(outcome.change.close) == {(SSH, HOME), (HEALTH, HOME)}
    assert outcome.change.open == ()
    assert list(judge.grants) == []
    assert judged(judge, packet(label="b"), later(1)).reason == "unknown_key"


def test_a_door_shared_with_a_revoked_client_falls_back_to_the_others_time() -> None:
    judge = keeper()
    admitted(judge, packet(BOB))
    admitted(judge, packet(ALICE, START + 10 * NS), later(10))
    ended, opening = changed(judge, config("{bob: {ed25519_pubkey: KEY_B}}"), 15)
    assert ended == {("alice", "revoked")}
    assert set(opening) == {Door(SSH, HOME, 15.0), Door(HEALTH, HOME, 15.0)}


def test_adding_the_same_key_again_forgets_no_knock() -> None:
    judge = keeper()
    judged(judge, packet())
    judge.reconfigure(config("{bob: {ed25519_pubkey: KEY_B}}"), NOW)
    judge.reconfigure(config("{alice-again: {ed25519_pubkey: KEY_A}}"), NOW)
    assert judged(judge, packet()).reason == "replay"


def test_a_renamed_client_stays_in_under_its_new_name() -> None:
    judge = keeper(config(ONLY_ALICE))
    admitted(judge, packet())
    ended, opening = changed(judge, config("{anna: {ed25519_pubkey: KEY_A}}"))
    assert ended == set()
    assert [g.client_name for g in judge.grants] == ["anna"]
    assert set(opening) == {Door(SSH, HOME, 29.0), Door(HEALTH, HOME, 29.0)}


def test_changed_ports_move_the_open_door_and_not_its_time() -> None:
    judge = keeper(config(ONLY_ALICE))
    admitted(judge, packet())
    parsed = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}}")
    outcome = judge.reconfigure(parsed, later(10))
    assert set(outcome.change.open) == {Door(WEB, HOME, 20.0), Door(HEALTH, HOME, 20.0)}
    assert outcome.change.close == ()  # the list 22/tcp is gone from the rules, and its doors with it
    assert SSH not in outcome.rules.port_lists
    (grant,) = judge.grants
    assert (grant.ports, grant.deadline) == (parse_port_spec("443/tcp"), NOW.monotonic + 30)


def test_a_door_that_moves_closes_behind_it_where_the_list_lives_on() -> None:
    judge = keeper()
    admitted(judge, packet())
    parsed = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}, bob: {ed25519_pubkey: KEY_B}}")
    assert judge.reconfigure(parsed, later(1)).change.close == ((SSH, HOME),)


def test_expiry_and_allowed_from_end_open_doors() -> None:
    judge = keeper(config(ONLY_ALICE))
    admitted(judge, packet())
    ended, _ = changed(judge, config("{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:01Z}}"), 1)
    assert ended == {("alice", "expired")}
    judge = keeper(config(ONLY_ALICE))
    admitted(judge, packet())
    ended, _ = changed(judge, config("{alice: {ed25519_pubkey: KEY_A, allowed_from: [198.51.100.0/24]}}"))
    assert ended == {("alice", "allowed_from")}


def test_an_unchanged_client_keeps_its_door_untouched() -> None:
    judge = keeper()
    admitted(judge, packet())
    outcome = judge.reconfigure(config(server="knock_timeout: 5s"), later(1))
    assert (outcome.ended, outcome.change.open, outcome.change.close) == ((), (), ())
    assert [g.deadline for g in judge.grants] == [NOW.monotonic + 30]


def test_whoever_was_given_the_grants_before_a_change_sees_what_they_are_after_it() -> None:
    """What closes doors in steps, and what spares the connections of others, asks long after it was made."""
    judge = keeper()
    is_open, held = judge.grants.is_open, judge.grants
    admitted(judge, packet())
    assert is_open(HOME, *parse_port_spec("22/tcp"))
    judge.reconfigure(config("{bob: {ed25519_pubkey: KEY_B}}"), later(1))
    assert not is_open(HOME, *parse_port_spec("22/tcp"))
    admitted(judge, packet(BOB), later(1))
    assert is_open(HOME, *parse_port_spec("22/tcp"))
    assert [grant.client_name for grant in held] == ["bob"]


def test_a_longer_window_after_a_change_brings_no_knock_back() -> None:
    judge = keeper()
    judged(judge, packet())
    judged(judge, packet(label="b", timestamp_ns=START + 121 * NS), later(121))
    judge.reconfigure(config(server="replay_window: 1h"), later(121))
    assert judged(judge, packet(), later(121)).reason == "stale"


def test_a_longer_window_after_a_change_forgets_no_knock_that_it_lets_in() -> None:
    judge = keeper()
    judge.reconfigure(config(server="replay_window: 1h"), NOW)
    judged(judge, packet())
    for seconds in (121, 600, 3599):
        judged(judge, packet(label=seconds, timestamp_ns=START + seconds * NS), later(seconds))
        assert judged(judge, packet(), later(seconds)).reason == "replay"


def test_a_client_that_expires_while_its_door_is_open_is_overdue() -> None:
    judge = keeper(config("{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:10Z}}"))
    admitted(judge, packet())
    assert judge.overdue([ALICE.public.raw], later(9.9)) == []
    assert [why for _, why in judge.overdue([ALICE.public.raw, BOB.public.raw], later(10))] == ["expired"]


def test_grants_of_an_earlier_run_are_adopted() -> None:
    old, new = keeper(), keeper()
    admitted(old, packet())
    new.adopt(old.grants)
    assert [g.client_name for g in new.grants_of("alice")] == ["alice"]
    assert new.grants_of("bob") == []


# -- static rules


def test_rules_hide_the_health_port_whatever_drop_ports_says() -> None:
    rules = rules_for(config(server="drop_ports: false; health_port: 4000"))
    assert [str(r) for r in rules.hidden] == ["4000/tcp"]
    rules = rules_for(config(server="drop_ports: true; health_port: 4000"))
    assert [str(r) for r in rules.hidden] == ["22/tcp", "4000/tcp"]


def test_another_programs_health_port_is_hidden_as_drop_ports_says_and_opened_by_a_knock() -> None:
    for drop_ports, hidden in (("false", []), ("true", ["22/tcp", "4000/tcp"])):
        known = config(server=f"drop_ports: {drop_ports}; health_port: 4000").with_health_port(listens=False)
        rules = rules_for(known)
        assert [str(r) for r in rules.hidden] == hidden
        assert rules.always_hidden == ()
        assert health_list(4000) in rules.port_lists


@pytest.mark.parametrize("drop_ports", ["true", "false"])
def test_a_named_health_port_is_hidden_from_everybody_while_openme_still_listens_there(drop_ports: str) -> None:
    known = config(server=f"drop_ports: {drop_ports}; health_port: 22").with_health_port(listens=True)
    rules = rules_for(known)
    assert [str(r) for r in rules.hidden] == [str(r) for r in rules.always_hidden] == ["22/tcp"]


def test_a_single_use_of_a_client_is_not_renewed_by_a_health_port_among_its_own_ports() -> None:
    text = "{alice: {ed25519_pubkey: KEY_A, single_use: true}, bob: {ed25519_pubkey: KEY_B, allowed_ports: [80/tcp]}}"
    clients = config(text, server="health_port: 22").clients
    assert [item.single_use for item in client_lists(clients["alice"], 22)] == [True]
    assert len(client_lists(clients["bob"], 22)) == 2


def test_rules_have_every_list_that_a_client_may_open() -> None:
    text = (
        "{alice: {ed25519_pubkey: KEY_A, allowed_ports: [default, 443/tcp], single_use: true},"
        " bob: {ed25519_pubkey: KEY_B, disable_health_port: true}}"
    )
    both = PortList(merged((*SSH.ports, *WEB.ports)), single_use=True)
    assert rules_for(config(text)).port_lists == {both, SSH, HEALTH}


def test_a_port_that_openme_answers_on_is_open_to_no_network() -> None:
    rules = rules_for(config(server="drop_ports: true; health_port: 4000; always_open_from: [192.0.2.0/24]"))
    assert [str(network) for network in rules.always_open_from] == ["192.0.2.0/24"]
    assert [str(r) for r in rules.always_hidden] == ["4000/tcp"]
    # Named by a group, it is a service's, and openme does not listen there.
    assert rules_for(config(server="drop_ports: true; health_port: 22")).always_hidden == ()


def test_rules_carry_the_configs_words() -> None:
    parsed = replace(config(server="udp_port: 7; hidden_as: reject; hide_udp_errors: false"), interface="eth7")
    rules = rules_for(parsed)
    assert (rules.knock_port, rules.hidden_as, rules.hide_udp_errors) == (7, "reject", False)
    assert (rules.interface, rules.open_knock_port) == ("eth7", True)
