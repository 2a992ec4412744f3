"""The keeper's shell with the memory firewall and a given clock: what goes in, and what must and must not come out."""

import errno
import json
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from openme import interrupts
from openme.firewall.base import Door, Steps
from openme.keeper import deliveries
from openme.keeper.events import NewConfig
from openme.keeper.ratchet_file import read_ratchet
from openme.listener.load import Waiting
from openme.reasons import Reason
from openme.seam import channel as channel_module
from openme.seam.channel import ChannelClosedError
from openme.seam.messages import (
    FRAME_SIZE,
    MAX_FAMILIAR_ADDRESSES,
    Delivered,
    FamiliarAddress,
    ForgetEpochKey,
    ForgetReceipt,
    ForgetV1Key,
    KnockNotOpened,
    KnockOpened,
    Order,
    Serve,
    UseEpochKey,
    UseV1Key,
)
from openme.server import admission
from openme.server.file_changes import LOOK_INTERVAL
from openme.server.loop import Ending
from openme.server.trial import Trial
from openme.store.base import Answer, Claim, Seen
from openme.store.reader import read_seen
from support.keeper_process import KeeperWorld, answered, keeper_world
from support.knocks import (
    ALICE,
    BOB,
    ELSEWHERE,
    EPOCH,
    HOME,
    START,
    STRANGER,
    WEEK,
    frame,
    lines,
    listener,
    obey,
    packet,
    packet_v2,
    ratchet,
)


def told_verdicts(world: KeeperWorld) -> list[KnockOpened | KnockNotOpened]:
    return world.orders(KnockOpened, KnockNotOpened)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeeperWorld]:
    with keeper_world(tmp_path) as made:
        yield made


def said(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


def on_the_disk(world: KeeperWorld) -> dict[bytes, Seen]:
    """What the next start would know if this process were killed now; the files themselves are kept from others."""
    with TemporaryDirectory() as copy:
        for name in world.state_dir.iterdir():
            if name.is_file():
                shutil.copy(name, copy)
        return read_seen(Path(copy))


# -- a good knock


@pytest.mark.parametrize("datagram", [packet(), packet_v2()])
def test_a_knock_opens_its_doors_and_is_remembered(world: KeeperWorld, datagram: bytes) -> None:
    with lines("openme.journal") as records:
        world.knock(datagram)
    assert world.open_for() == {str(HOME)}
    assert len(world.firewall.doors()) == 2  # its ports, and the health port
    assert said(records) == [f"alice: opened 22/tcp for {HOME} for 30s"]
    assert [session["client_name"] for session in world.ask("sessions")["active_sessions"]] == ["alice"]
    seen = on_the_disk(world)[ALICE.public.raw]
    assert (seen.name, seen.source) == ("alice", HOME)
    world.knock(datagram)
    assert world.orders(KnockNotOpened)


def test_the_knock_is_on_the_disk_before_its_door_opens(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []
    real = world.firewall.open

    def opens(doors: Iterable[Door]) -> None:
        known.append(ALICE.public.raw in on_the_disk(world))
        real(doors)

    monkeypatch.setattr(world.firewall, "open", opens)
    world.knock(packet_v2())
    assert known == [True]


def test_knocks_that_come_together_open_in_one_transaction(world: KeeperWorld) -> None:
    knocks = [packet_v2(label=1), packet_v2(BOB, label=2), packet_v2(STRANGER, label=3)]
    world.knock(*knocks)
    assert world.firewall.calls == ["open"]
    assert world.grants() == {"alice", "bob"}
    assert [(type(order), order.knock) for order in told_verdicts(world)] == [
        (KnockOpened, knocks[0][:32]),
        (KnockOpened, knocks[1][:32]),
        (KnockNotOpened, knocks[2][:32]),
    ]


def test_the_listener_is_told_of_the_address_of_a_good_knock_and_of_no_other(world: KeeperWorld) -> None:
    world.knock(packet_v2(STRANGER), source=ELSEWHERE)
    assert world.orders(FamiliarAddress) == []
    world.knock(packet_v2())
    assert len(world.orders(FamiliarAddress)) == 1


def test_an_address_that_goes_on_knocking_is_told_again_before_the_listener_forgets_it(world: KeeperWorld) -> None:
    """However many others come: the listener keeps the latest ones that it was told."""
    keeper, waiting = world.parts.keeper, Waiting()
    for number in range(2 * MAX_FAMILIAR_ADDRESSES):
        keeper.remember_sources([(ELSEWHERE + number, ALICE.public.raw)])
        if number % 1000 == 0:
            keeper.remember_sources([(HOME, BOB.public.raw)])
            world.turn()
            for order in world.orders(FamiliarAddress):
                waiting.make_familiar(order.address)
            waiting.add(b"knock", (str(HOME), "1"))
            assert waiting.take_familiar() is not None, number


def test_addresses_wait_while_the_listener_takes_no_orders(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a flood, when it matters most: an order that may be lost would be, and is not given again."""
    with monkeypatch.context() as patched:
        patched.setattr(channel_module, "send", lambda _end, _message: False)
        world.process.outbox.put([KnockNotOpened()] * 5000)
        world.knock(packet_v2())
    world.turn()
    assert [order.address for order in world.orders(FamiliarAddress)] == [HOME]


@pytest.mark.parametrize("seconds", [0.5, 7, 45])
def test_a_door_is_open_for_no_longer_than_we_know_of_it_also_where_the_disk_takes_its_time(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Else it would be open when nobody is in any more, and no revocation would close it."""
    claim = world.store.claim

    def slowly(claims: Sequence[Claim], answer: Answer) -> None:
        world.clock.advance(seconds)
        claim(claims, answer)

    monkeypatch.setattr(world.store, "claim", slowly)
    world.knock(packet_v2())
    (grant,), doors = world.parts.keeper.grants, world.firewall.doors()
    assert {door.seconds for door in doors} == {30} == {grant.deadline - world.clock.now.monotonic}


def test_a_version_2_frame_is_wiped_once_it_is_judged(world: KeeperWorld) -> None:
    world.knock(packet_v2(), packet_v2(STRANGER), packet_v2(BOB))
    assert world.channel.given == [bytes(FRAME_SIZE)] * 3


# -- a firewall that refuses


def test_a_grant_that_the_firewall_refused_is_undone(world: KeeperWorld) -> None:
    world.firewall.refusing = {"open", "apply"}
    with lines("openme.journal") as journal, lines("openme.keeper") as records:
        world.knock(packet_v2())
    assert world.grants() == set()
    assert world.ask("sessions")["active_sessions"] == []
    assert [type(order) for order in told_verdicts(world)] == [KnockNotOpened]
    assert said(journal) == []
    assert "a valid knock opened nothing: this firewall refuses to apply" in said(records)
    # Nothing of it comes back with the rules.
    world.firewall.refusing = set()
    world.firewall.flush()
    world.turn()
    assert world.open_for() == set()


def test_two_grants_of_one_client_that_were_refused_together_are_both_undone(world: KeeperWorld) -> None:
    world.firewall.refusing = {"open", "apply"}
    world.knock(packet_v2(label=1), packet_v2(label=2), packet_v2(label=3))
    assert world.grants() == set()


def test_what_was_open_before_a_refused_knock_is_open_still_and_for_its_own_time(world: KeeperWorld) -> None:
    world.knock(packet_v2(label=1))
    (before,) = world.parts.keeper.grants
    world.clock.advance(10)
    world.firewall.refusing = {"open", "apply"}
    world.knock(packet_v2(label=2), packet_v2(label=3))
    assert list(world.parts.keeper.grants) == [before]
    world.clock.advance(20.1)
    with lines("openme.journal") as records:
        world.turn()
    assert said(records) == [f"alice: closed for {HOME} (its time is over)"]


def test_a_refused_knock_cannot_be_sent_again(world: KeeperWorld) -> None:
    world.firewall.refusing = {"open", "apply"}
    world.knock(packet_v2())
    world.firewall.refusing = set()
    world.knock(packet_v2())
    assert world.open_for() == set()


def test_a_knock_that_meets_a_flushed_ruleset_puts_it_back_with_every_door(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.firewall.flush()
    world.firewall.touched = False  # nobody has told us
    world.knock(packet_v2(BOB), source=ELSEWHERE)
    assert world.open_for() == {str(HOME), str(ELSEWHERE)}


def test_a_single_use_knock_that_meets_a_flushed_ruleset_opens_too_and_once(tmp_path: Path) -> None:
    with keeper_world(tmp_path, "{alice: {ed25519_pubkey: KEY_A, single_use: true}}") as world:
        world.firewall.flush()
        world.firewall.touched = False
        world.knock(packet_v2())
        assert any(door.port_list.single_use for door in world.firewall.doors())
        # The kernel alone knows whether it was used meanwhile: what was lost with a ruleset is not put back.
        world.firewall.flush()
        world.turn()
        assert not world.firewall.lost
        assert not any(door.port_list.single_use for door in world.firewall.doors())


def test_doors_that_cannot_be_closed_early_are_said_and_close_on_time(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.firewall.refusing = {"close", "apply"}
    with lines("openme.keeper", logging.ERROR) as records:
        world.ask("close", name="alice")
    assert said(records) == ["doors could not be closed early: this firewall refuses to apply"]
    world.clock.advance(31)
    world.turn()
    assert world.open_for() == set()


def test_doors_come_back_with_the_rules_in_one_transaction_or_not_at_all(world: KeeperWorld) -> None:
    """What is taken back was open at no moment, whichever of the steps fails."""
    world.knock(packet_v2())
    for broken in ("open", "apply", "close"):
        world.firewall.flush()
        world.firewall.touched = False
        world.firewall.refusing = {broken}
        world.knock(packet_v2(BOB, label=broken), source=ELSEWHERE)
        assert (str(ELSEWHERE) in world.open_for()) == ("bob" in world.grants())
        world.ask("close", name="bob")
        world.firewall.refusing = set()
        world.ask("close", name="bob")


# -- repair


def test_a_flush_is_repaired_at_once_with_the_doors_that_are_open(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.firewall.flush()
    world.turn()
    assert not world.firewall.lost
    assert world.open_for() == {str(HOME)}


def test_between_two_repairs_there_is_a_pause(world: KeeperWorld) -> None:
    """Two programs that take the rules from each other must not fill the machine with it."""
    repairs = 0
    for _ in range(100):  # a flush every hundredth of a second
        world.firewall.flush()
        world.firewall.calls.clear()
        world.turn()
        repairs += world.firewall.calls.count("apply")
        world.clock.advance(0.01)
    assert 2 <= repairs <= 4


def test_a_repair_that_is_due_is_made_though_nothing_more_happens(world: KeeperWorld) -> None:
    world.firewall.flush()
    world.turn()
    world.firewall.flush()
    world.turn()
    assert world.firewall.lost
    world.clock.advance(0.5)
    world.turn()
    assert not world.firewall.lost


def test_a_repair_that_is_refused_is_tried_again_and_not_at_once(world: KeeperWorld) -> None:
    world.firewall.refuse_next["apply"] = 1
    world.firewall.flush()
    with lines("openme.keeper", logging.ERROR) as records:
        world.turn()
        world.turn()
    assert world.firewall.calls.count("apply") == 1
    assert said(records) == ["the rules could not be put back: this firewall refuses to apply"]
    world.clock.advance(0.5)
    world.turn()
    assert not world.firewall.lost


def test_what_clients_lost_ends_again_after_a_repair_and_one_look_at_a_time(world: KeeperWorld) -> None:
    """While the rules were away it may have begun anew."""
    world.knock(packet_v2())
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}")
    world.turn()
    world.turn()
    assert world.firewall.cuts
    world.firewall.cuts.clear()
    for _ in range(3):
        world.firewall.flush()
        world.process.doors.on_ruleset_change()
        world.clock.advance(0.5)
        world.process.tick()
        assert not world.firewall.lost
    world.work_off()
    looks = world.firewall.calls[::-1].index("apply")
    assert world.firewall.calls[-looks:].count("cut") == 2
    assert {address for address, _ in world.firewall.cuts} == {HOME}


def test_a_change_that_left_our_rules_alone_is_no_repair(world: KeeperWorld) -> None:
    world.firewall.touched = True
    with lines("openme.keeper") as records:
        world.turn()
    assert world.firewall.calls == ["intact"]
    assert said(records) == []


# -- time


def test_a_door_that_is_over_is_noted_once(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.clock.advance(30.1)
    with lines("openme.journal") as records:
        world.turn()
        world.turn()
    assert said(records) == [f"alice: closed for {HOME} (its time is over)"]
    assert world.firewall.calls == ["open"]  # the kernel has closed it by itself


def test_doors_that_end_together_are_noted_in_one_turn_with_a_line_for_each(tmp_path: Path) -> None:
    clients = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"
    with keeper_world(tmp_path, clients) as world:
        world.send(
            frame(packet_v2(label=1), HOME), frame(packet_v2(label=2), ELSEWHERE), frame(packet_v2(BOB, label=3), HOME)
        )
        world.turn()
        assert len(list(world.parts.keeper.grants)) == 3
        world.clock.advance(30.1)
        with lines("openme.journal") as records:
            world.process.tick()
            assert sorted(said(records)) == [
                f"alice: closed for {ELSEWHERE} (its time is over)",
                f"alice: closed for {HOME} (its time is over)",
                f"bob: closed for {HOME} (its time is over)",
            ]
            world.process.tick()
            assert len(said(records)) == 3
        assert world.grants() == set()


def test_a_clock_that_is_set_does_not_end_or_prolong_a_door(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    for offset in (86_400, -2 * 86_400):
        world.clock.step_wall(offset)
        world.turn()
        assert world.grants() == {"alice"}
    world.clock.advance(30.1)
    world.turn()
    assert world.grants() == set()


def test_a_client_that_expires_while_its_door_is_open_loses_it(tmp_path: Path) -> None:
    with keeper_world(tmp_path, "{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:10Z}}") as world:
        world.knock(packet_v2())
        assert world.open_for() == {str(HOME)}
        world.clock.step_wall(11)
        with lines("openme.journal") as records:
            world.turn()
        assert said(records) == [f"alice: closed for {HOME} (expired)"]
        assert world.open_for() == set()
        assert world.orders(ForgetReceipt)


def test_the_state_file_is_written_no_more_than_once_a_second(tmp_path: Path) -> None:
    state_file = tmp_path / "sessions.json"
    with keeper_world(tmp_path, state_file=state_file) as world:
        writes = 0
        for number in range(20):
            before = state_file.stat().st_ino if state_file.exists() else None
            world.knock(packet_v2(label=number))
            world.work_off()
            writes += state_file.stat().st_ino != before
            world.clock.advance(0.05)
        assert writes == 1
        assert "alice" in state_file.read_text()
        assert "bob" not in state_file.read_text()
        world.knock(packet_v2(BOB))
        world.clock.advance(1)
        world.turn()
        world.work_off()
        assert [session["client_name"] for session in json.loads(state_file.read_text())["active_sessions"]] == [
            "alice",
            "bob",
        ]
        world.clock.advance(30)
        world.turn()
        world.turn()
        assert json.loads(state_file.read_text())["active_sessions"] == []
        assert set(json.loads(state_file.read_text())["last_seen"]) == {"alice", "bob"}
        world.write_config("{carol: {ed25519_pubkey: KEY_A}}")
        for _ in range(3):
            world.clock.advance(1)
            world.turn()
        assert set(json.loads(state_file.read_text())["last_seen"]) == {"carol"}


def test_without_a_state_file_nothing_is_kept_for_it(world: KeeperWorld) -> None:
    for number in range(5):
        world.knock(packet_v2(label=number), source=HOME + number)
        world.clock.advance(1)
        world.turn()
    assert not world.process.state_file._changed


# -- the config


def test_whoever_is_taken_out_of_the_file_loses_the_door_and_the_next_knock(world: KeeperWorld) -> None:
    world.knock(packet_v2(), packet_v2(BOB))
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}")
    with lines("openme.journal") as records:
        world.turn()
    assert said(records) == [f"alice: closed for {HOME} (revoked)"]
    assert world.grants() == {"bob"}
    world.knock(packet_v2(label="next"))
    assert world.grants() == {"bob"}


def test_a_knock_is_judged_by_the_file_that_stands_there_when_it_is_taken(world: KeeperWorld) -> None:
    world.send(frame(packet_v2()))
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}")
    world.turn()
    assert "open" not in world.firewall.calls


def test_a_stranger_who_waits_is_judged_by_the_file_of_when_he_is_served(world: KeeperWorld) -> None:
    """A version 1 knock of somebody unknown here waits; meanwhile its client is revoked."""
    world.send(frame(packet()))
    world.process.on_frames()
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}")
    world.process.tick()
    world.turn()
    assert "open" not in world.firewall.calls


def test_a_file_that_does_not_parse_changes_nothing_and_is_said(world: KeeperWorld) -> None:
    world.write_config("{alice: [")
    with lines("openme.config", logging.ERROR) as records:
        world.knock(packet_v2())
    assert world.open_for() == {str(HOME)}
    assert "NOT in force" in said(records)[0]


def test_what_needs_a_restart_stays_as_it_is_and_is_said(world: KeeperWorld) -> None:
    port = world.parts.keeper.config.udp_port
    world.write_config(server="udp_port: 4242")
    with lines("openme.keeper", logging.WARNING) as records:
        world.turn()
    assert world.parts.keeper.config.udp_port == port
    assert "udp_port has changed: this takes effect when the server is restarted" in said(records)
    assert world.firewall.rules is not None
    assert world.firewall.rules.knock_port == port


def test_version_1_switched_off_takes_its_key_from_the_listener(world: KeeperWorld) -> None:
    world.process._v1_keys.give(world.parts.keeper.config)
    (given,) = world.orders(UseV1Key)
    world.write_config(server="protocols: [v2]")
    world.turn()
    assert [order.number for order in world.orders(ForgetV1Key)] == [given.number]
    world.knock(packet())
    assert world.open_for() == set()


def test_version_2_switched_off_takes_its_keys_from_the_listener(world: KeeperWorld) -> None:
    live = set(world.parts.keeper.epochs.live) if world.parts.keeper.epochs else set()
    assert live
    world.write_config(server="protocols: [v1]")
    world.turn()
    assert {order.epoch for order in world.orders(ForgetEpochKey)} == live
    assert world.parts.keeper.epochs is None


def test_new_rules_and_the_doors_that_move_are_one_transaction(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.firewall.calls.clear()
    world.write_config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}, bob: {ed25519_pubkey: KEY_B}}")
    world.turn()
    ports = {str(port) for door in world.firewall.doors() for port in door.port_list.ports}
    assert ports == {"443/tcp", f"{world.parts.keeper.config.health_port}/tcp"}
    assert world.firewall.calls[0] == "apply"
    assert "open" not in world.firewall.calls


def test_new_rules_close_what_a_revoked_client_had_open_of_a_list_that_lives_on(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}", server="hidden_as: reject")
    world.turn()
    assert world.firewall.rules is not None
    assert world.firewall.rules.hidden_as == "reject"
    assert world.open_for() == set()


def test_the_store_remembers_for_as_long_as_the_config_in_force_says(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(world.store, "set_window", told.append)
    parsed = replace(world.parts.keeper.config, replay_window=90.0)
    world.process.events.publish(NewConfig(parsed, world.clock.now))
    assert told == [90 * 10**9]


def test_the_firewall_is_let_alone_by_a_change_that_is_not_its(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.firewall.calls.clear()
    world.write_config(server="knock_timeout: 44s")
    world.turn()
    assert world.firewall.calls == []
    assert world.open_for() == {str(HOME)}


def test_receipts_of_an_opening_that_ends_early_are_forgotten_up_to_a_bound(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST", 5)
    representatives = []
    for number in range(8):
        datagram = packet_v2(timestamp_ns=world.clock.now.unix_ns, label=number)
        representatives.append(datagram[:32])
        world.knock(datagram)
        world.clock.advance(1)
    world.told()
    world.ask("close", name="alice")
    assert [order.knock for order in world.orders(ForgetReceipt)] == representatives[-5:]


# -- epochs


def after_an_epoch(world: KeeperWorld) -> list[Order]:
    """A week and a day later a client has knocked with a new key: the old one may go. What the listener was told."""
    world.clock.advance(WEEK + 86_400)
    world.turn()
    epoch = world.clock.now.unix_ns // (WEEK * 10**9)
    datagram = packet_v2(timestamp_ns=world.clock.now.unix_ns, label="new", epoch=epoch)
    made = listener()
    told = world.told()
    for order in told:
        if isinstance(order, UseEpochKey):
            obey(made, order)
    world.send(made.frame_untrusted(datagram, HOME)[0].pack())
    world.turn()
    return told + world.told()


def test_an_epoch_that_is_over_is_erased_everywhere_once_a_client_confirms_it(world: KeeperWorld) -> None:
    told = after_an_epoch(world)
    epochs = world.parts.keeper.epochs
    assert epochs is not None
    first = epochs.ratchet.index
    assert first > EPOCH
    saved = read_ratchet(world.state_dir)
    assert saved is not None
    assert saved.index == first
    assert EPOCH in {order.epoch for order in told if isinstance(order, ForgetEpochKey)}


def test_the_keys_of_an_epoch_that_has_ended_are_gone_before_a_knock_is_looked_at(world: KeeperWorld) -> None:
    world.clock.advance(WEEK)
    world.send(frame(packet_v2()))
    world.process.on_frames()
    assert EPOCH in {order.epoch for order in world.orders(ForgetEpochKey)}


def test_a_receipt_that_was_fetched_renews_its_client(world: KeeperWorld) -> None:
    datagram = packet_v2()
    world.knock(datagram)
    world.send(Delivered(datagram[:16]).pack())
    world.turn()
    assert set(world.store.renewals()) == {ALICE.public.raw}


def test_a_child_that_is_forked_can_read_no_key_and_no_knock(world: KeeperWorld) -> None:
    """What waits for the listener, what is held for it, and the ratchet: all of it may be erased while the child reads.

    Its memory is this one's copy.
    """
    held, order = frame(packet_v2()), UseEpochKey(EPOCH, ratchet().private_key(EPOCH))
    world.process.outbox._waiting.append(order)
    epochs = world.parts.keeper.epochs
    assert epochs is not None
    with world.process.admission.holding([held]):
        world.parts.watch.forget_in_child()
    assert held == bytes(len(held))
    assert order.key == bytes(32)
    assert epochs.private_key(EPOCH) != ratchet().private_key(EPOCH)


def test_a_disk_that_will_not_erase_is_asked_again_after_a_minute_and_not_before(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def refuses(*_: object) -> None:
        tries.append(world.clock.now.monotonic)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("openme.server.epoch_keys.write_ratchet", refuses)
    after_an_epoch(world)
    for _ in range(130):
        world.clock.advance(0.5)
        world.turn()
    assert len(tries) == 2
    assert tries[1] - tries[0] >= 60


# -- strangers


def test_a_crowd_of_strangers_is_bounded_and_the_last_is_served(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_SHARE", 0.0)  # nobody is served meanwhile
    for number in range(300):
        world.send(frame(packet(STRANGER, label=number)))
        world.process.on_frames()
    assert len(world.process.admission._waiting) == 256
    assert world.parts.journal.counts.total[Reason.BUSY] == 44
    monkeypatch.undo()
    world.knock(packet())
    while world.process.admission:
        world.turn()
    assert world.grants() == {"alice"}


def test_a_stranger_who_waits_too_long_is_not_served(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(frame(packet()))
    world.process.on_frames()
    monkeypatch.setattr(admission, "_PATIENCE", -1.0)
    world.turn()
    assert world.open_for() == set()
    assert world.parts.journal.counts.total[Reason.BUSY] == 1


# -- a trial


def test_a_trial_in_which_a_client_knocks_is_passed_once(tmp_path: Path) -> None:
    passed: list[int] = []
    with keeper_world(tmp_path, trial=Trial(60.0, lambda: passed.append(1))) as world:
        world.knock(packet_v2(STRANGER))
        assert (world.process.is_on_trial, passed) == (True, [])
        world.parts.hidden._confirmed = False
        world.knock(packet_v2(label=1), packet_v2(label=2))
        assert (world.process.is_on_trial, passed) == (False, [1])
        assert world.parts.hidden._confirmed, "what the trial hides is kept from now on"
        world.clock.advance(61)
        world.turn()
        assert world.process.loop.ending is None


def test_a_knock_that_the_firewall_refused_passes_no_trial(tmp_path: Path) -> None:
    with keeper_world(tmp_path, trial=Trial(60.0, lambda: None), refusing=["open", "apply"]) as world:
        world.knock(packet_v2())
        assert world.process.is_on_trial


# -- the control socket


@pytest.mark.parametrize("request_", [b"{", b"[]", b"7", b"{}", b"[" * 60_000, b"\xff\xfe", b'{"command": "open"}'])
def test_a_request_that_makes_no_sense_is_answered_in_words(world: KeeperWorld, request_: bytes) -> None:
    assert b'"error"' in world.ask_raw(request_)
    world.knock(packet_v2())
    assert world.open_for() == {str(HOME)}


def test_close_ends_the_doors_of_that_client_alone(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.knock(packet_v2(BOB, label="another"), source=ELSEWHERE)
    world.ask("close", name="alice")
    assert world.open_for() == {str(ELSEWHERE)}
    assert len(world.orders(ForgetReceipt)) == 1


# -- the loop itself


@pytest.mark.usefixtures("own_signals")
def test_a_signal_that_came_before_the_loop_ends_it(world: KeeperWorld) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.ENDINGS)
    signal.pthread_kill(
        threading.get_ident(), signal.SIGTERM
    )  # to this thread: others of the test runner block nothing
    ready: list[int] = []
    assert world.process.run(lambda: ready.append(1)) is Ending.ASKED
    assert ready == [1]


@pytest.mark.usefixtures("own_signals")
def test_the_loop_serves_a_knock_and_ends_with_the_listener(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.firewall.open

    def opens(doors: Iterable[Door]) -> None:
        real(doors)
        world.listener.close()

    monkeypatch.setattr(world.firewall, "open", opens)
    world.send(frame(packet_v2(timestamp_ns=START)))
    assert world.process.run() is Ending.LISTENER_GONE
    assert world.open_for() == {str(HOME)}


@pytest.mark.usefixtures("own_signals")
def test_a_listener_that_says_what_none_says_ends_the_loop(world: KeeperWorld) -> None:
    world.listener.send(b"x" * (FRAME_SIZE + 1))
    assert world.process.run() is Ending.LISTENER_GONE


@pytest.mark.usefixtures("own_signals")
def test_at_the_end_work_is_given_up_before_the_answers_that_come_of_that_are_closed(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def endless() -> Steps[None]:
        try:
            while True:
                yield
        finally:
            closed.append("work")

    def ready() -> None:
        world.process.slices.add(endless())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(world.process.control, "close", lambda: closed.append("answers"))
    world.process.run(ready)
    assert closed == ["work", "answers"]


@pytest.mark.usefixtures("own_signals")
def test_a_run_begins_with_what_clients_lost_while_there_was_none(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(world.process.exchanges, "end_what_was_lost_before", lambda: begun.append("lost"))
    world.process.run(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert begun == ["lost"]


@pytest.mark.usefixtures("own_signals")
def test_all_that_tells_of_something_wakes_the_loop(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    telling, other = socket.socketpair()
    monkeypatch.setattr(world.firewall, "surroundings", telling)
    watched: set[object] = set()

    def ready() -> None:
        watched.update(key.fileobj for key in world.process.loop.selector.get_map().values())
        os.kill(os.getpid(), signal.SIGTERM)

    world.process.run(ready)
    parts = world.parts
    assert {parts.listener, parts.control, telling, parts.files, parts.clock_steps} <= watched
    telling.close()
    other.close()


@pytest.mark.usefixtures("own_signals")
def test_what_changed_before_the_kernel_was_asked_to_tell_is_seen_at_once(world: KeeperWorld) -> None:
    """Between the first reading of the config and the first turn."""

    def ready() -> None:
        world.write_config("{bob: {ed25519_pubkey: KEY_B}}")
        os.kill(os.getpid(), signal.SIGTERM)

    world.process.run(ready)
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def iter_once() -> Steps[None]:
    """Work of one step."""
    yield


def test_a_turn_waits_for_nothing_while_there_is_work(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.work_off()
    waited: list[float] = []
    monkeypatch.setattr(world.process.loop, "wait", waited.append)
    world.process.turn()
    world.process.slices.add(iter_once())
    world.process.turn()
    assert waited == [LOOK_INTERVAL, 0]


def test_a_turn_asks_everybody_whether_something_is_due(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(world.firewall, "adapt", lambda: asked.append("firewall"))
    monkeypatch.setattr(world.parts.hidden, "tick", lambda _: asked.append("hidden ports"))
    monkeypatch.setattr(world.parts.reports, "tick", lambda _: asked.append("reports"))
    world.store.failing = "no space left"
    with lines("openme.keeper", logging.ERROR) as records:
        world.process.tick()
    assert asked == ["firewall", "hidden ports", "reports"]
    assert "the replay memory cannot be written (no space left)" in said(records)[0]


@pytest.mark.usefixtures("own_signals")
def test_a_trial_without_a_knock_ends_the_loop(tmp_path: Path) -> None:
    with keeper_world(tmp_path, trial=Trial(60.0, lambda: None)) as world:
        assert world.process.run(lambda: world.clock.advance(61)) is Ending.TRIAL_OVER


@pytest.mark.usefixtures("own_signals")
def test_the_listener_hears_serve_after_its_keys(world: KeeperWorld) -> None:
    assert world.parts.keeper.epochs is not None
    world.parts.keeper.epochs.live.clear()
    world.process.run(lambda: os.kill(os.getpid(), signal.SIGTERM))
    told = [type(order) for order in world.told()]
    assert told.index(UseV1Key) < told.index(Serve)
    assert told.index(UseEpochKey) < told.index(Serve)


@pytest.mark.parametrize("rules", ["", "hidden_as: reject"])
def test_who_loses_his_right_as_the_listener_goes_loses_the_door_too(world: KeeperWorld, rules: str) -> None:
    """That his receipt is to be forgotten is the first that finds it gone, and the server's last turn."""
    world.knock(packet_v2())
    world.knock(packet_v2(BOB), source=ELSEWHERE)
    world.listener.close()
    world.write_config("{bob: {ed25519_pubkey: KEY_B}}", server=rules)
    with pytest.raises(ChannelClosedError):
        world.process.tick()
    assert world.grants() == {"bob"}
    assert world.open_for() == {str(ELSEWHERE)}


def test_a_door_closes_at_the_operators_word_though_the_listener_is_gone(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.listener.close()
    with pytest.raises(ChannelClosedError):
        answered(world.process, {"command": "close", "name": "alice"})
    assert world.open_for() == set()


def test_a_disk_that_does_not_give_what_it_was_given_ends_nobody(tmp_path: Path) -> None:
    """The database was whole when it was opened; from then on a page of it may go bad at any time."""
    with keeper_world(tmp_path) as world:
        world.knock(packet_v2())
        assert world.grants() == {"alice"}
        world.store._connection.execute("DROP TABLE holder")
        world.store._connection.execute("DROP TABLE seen")
        assert "cannot be read" in world.ask("stored")["error"]
        assert "cannot be read" in world.ask("revoke", name="alice", cut=True)["error"]
        assert world.grants() == world.open_for() == set()
        assert world.firewall.cuts, "what the doors in memory name is cut all the same"
        world.write_config("{}")
        world.turn()
        assert world.ask("sessions")["active_sessions"] == []
