"""When the keeper wakes by itself: once a part of it has something to do, and for nothing else.

What is due happens at that moment of the given clock, and then nothing is due at once: a loop that comes too late, or
spins, would be seen.
"""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from openme.firewall.memory import MemoryFirewall
from openme.keeper.journal import Journal
from openme.moments import rfc3339
from openme.processes.listener_reports import Reports
from openme.refusals import REPORT_INTERVAL
from openme.seam.messages import UseEpochKey
from openme.server import logs
from openme.server.clock_steps import ClockSteps
from openme.server.config_switch import FIRST_RETRY, ConfigSwitch
from openme.server.doors import REPAIR_INTERVAL, Doors
from openme.server.file_changes import LOOK_INTERVAL, POLL_INTERVAL, FileChanges
from openme.server.hidden_ports import HiddenPorts
from openme.server.interface_rules import InterfaceRules
from openme.server.leaving_health_port import LeavingHealthPort
from openme.server.state_file import StateFile
from openme.server.trial import Trial
from support.keeper_process import KeeperWorld, keeper_world
from support.knocks import EPOCH, HOME, NS, STRANGER, WEEK, frame, packet, packet_v2

WINDOW = 60  # seconds that an epoch lives on after its end: replay_window


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeeperWorld]:
    with keeper_world(tmp_path) as made:
        made.turn()
        yield made


def until_due(world: KeeperWorld, seconds: float) -> None:
    """It wakes after this time, and then has its turn."""
    assert world.sleeps() == pytest.approx(seconds)
    world.clock.advance(world.sleeps())
    world.turn()
    world.work_off()
    assert world.sleeps() > 0, "it does not spin"


def test_with_nothing_to_do_it_looks_once_a_minute(world: KeeperWorld) -> None:
    until_due(world, LOOK_INTERVAL)
    until_due(world, LOOK_INTERVAL)


def test_while_somebody_is_searched_for_it_does_not_sleep(world: KeeperWorld) -> None:
    """A version 1 knock from an address that nobody is known to use."""
    world.send(frame(packet(), HOME))
    world.process.on_frames()
    assert world.process.admission
    assert world.sleeps() == 0
    world.turn()
    assert world.grants() == {"alice"}
    assert world.sleeps() > 0


def test_while_long_work_is_under_way_it_does_not_sleep(world: KeeperWorld) -> None:
    world.process.slices.add(iter([None, None]))  # type: ignore[arg-type]  # steps
    assert world.sleeps() == 0
    world.work_off()
    assert world.sleeps() == LOOK_INTERVAL


def test_a_door_is_over_when_its_time_is(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.clock.advance(10)
    world.turn()
    assert world.grants() == {"alice"}
    until_due(world, 20)
    assert world.grants() == set()


def test_a_right_ends_at_its_date(world: KeeperWorld) -> None:
    end = world.clock.now.unix + 15
    world.write_config(f"{{alice: {{ed25519_pubkey: KEY_A, expires: '{rfc3339(end)}'}}}}")
    world.turn()
    world.knock(packet_v2())
    assert world.grants() == {"alice"}
    until_due(world, 15)
    assert world.grants() == set()


def test_what_was_begun_through_a_door_ends_with_the_right_also_when_the_door_is_over_already(
    world: KeeperWorld,
) -> None:
    """An UDP exchange outlives the door; nothing else happens at the moment at which its client expires."""
    end = world.clock.now.unix + 45
    world.write_config(f"{{alice: {{ed25519_pubkey: KEY_A, expires: '{rfc3339(end)}'}}}}")
    world.turn()
    world.knock(packet_v2())
    until_due(world, 30)
    assert (world.grants(), world.firewall.cuts) == (set(), [])
    until_due(world, 15)
    assert [address for address, _ in world.firewall.cuts] == [HOME]


def test_a_right_that_ends_in_days_wakes_nobody_today(world: KeeperWorld) -> None:
    end = world.clock.now.unix + 2 * 86400 + 5
    world.write_config(f"{{alice: {{ed25519_pubkey: KEY_A, expires: '{rfc3339(end)}'}}}}")
    world.turn()
    world.work_off()
    assert world.sleeps() == LOOK_INTERVAL


def test_the_key_of_an_epoch_is_given_when_it_begins_to_be_live(world: KeeperWorld) -> None:
    begins = (EPOCH + 1) * WEEK - WINDOW
    world.clock.advance(begins - world.clock.now.unix - 20)
    world.turn()
    assert EPOCH + 1 not in [order.epoch for order in world.orders(UseEpochKey)]
    until_due(world, 20)
    assert [order.epoch for order in world.orders(UseEpochKey)] == [EPOCH + 1]


def test_a_repair_that_must_wait_is_made_when_it_may(world: KeeperWorld) -> None:
    for _ in range(2):
        world.firewall.flush()
        world.turn()
    assert world.firewall.lost
    until_due(world, REPAIR_INTERVAL)
    assert not world.firewall.lost


def test_a_config_that_the_firewall_refused_is_tried_again_in_time(world: KeeperWorld) -> None:
    world.firewall.refusing = {"apply"}
    world.write_config(server="drop_ports: true")
    world.turn()
    world.turn()
    world.firewall.refusing = set()
    until_due(world, FIRST_RETRY)
    assert world.parts.watch.fault is None


def test_what_was_refused_is_said_a_minute_after_the_last_time(world: KeeperWorld) -> None:
    world.knock(packet_v2(STRANGER, label=1))
    assert world.sleeps() == LOOK_INTERVAL, "the first is said at once"
    world.clock.advance(REPORT_INTERVAL - 20)
    world.knock(packet_v2(STRANGER, label=2))
    until_due(world, 20)


def test_the_state_file_follows_a_second_after_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    with keeper_world(tmp_path, state_file=path) as world:
        world.knock(packet_v2())
        world.turn()
        world.clock.advance(0.25)
        world.ask("close", name="alice")
        assert "alice" in path.read_text().partition("last_seen")[0]
        until_due(world, 0.75)
        assert "alice" not in path.read_text().partition("last_seen")[0]


def test_a_trial_is_over_when_its_time_is(tmp_path: Path) -> None:
    with keeper_world(tmp_path, trial=Trial(45.0, lambda: None)) as world:
        world.turn()
        assert world.sleeps() == 45
        world.clock.advance(45)
        world.turn()
        assert world.process.loop.ending is not None


def test_lines_that_stderr_has_no_room_for_are_offered_again(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [True, False]
    monkeypatch.setattr(logs, "write_late", lambda: waiting.pop(0))
    world.turn()
    until_due(world, 0.5)
    assert world.sleeps() == LOOK_INTERVAL


def test_orders_that_the_listener_did_not_take_are_offered_again(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(world.process.outbox), "__bool__", lambda _: True)
    assert world.sleeps() == pytest.approx(0.01)


SOON = 1007.0  # by the given clock, which begins at 1,000


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (part, "next_at")
        for part in (
            *(Doors, ConfigSwitch, InterfaceRules, LeavingHealthPort, HiddenPorts, StateFile, Journal, Reports),
        )
    ],
)
def test_every_part_is_asked_when_it_has_something_to_do(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch, part: type, what: str
) -> None:
    monkeypatch.setattr(part, what, property(lambda _: SOON))
    assert world.sleeps() == SOON - 1000.0


@pytest.mark.parametrize(
    ("part", "what", "value"),
    [
        (FileChanges, "interval", POLL_INTERVAL),
        (ClockSteps, "tells", False),
        (MemoryFirewall, "adapts_every", POLL_INTERVAL),
    ],
)
def test_where_the_kernel_does_not_tell_it_looks_as_often_as_ever(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch, part: type, what: str, value: Any
) -> None:
    monkeypatch.setattr(part, what, property(lambda _: value))
    assert world.sleeps() == pytest.approx(POLL_INTERVAL)


def test_a_fault_that_is_said_again_in_a_minute_is_nothing_to_do_until_then(world: KeeperWorld) -> None:
    """By the machine's own clock, which is what the watch of the config reads."""
    watch = world.parts.watch
    assert watch.next_at == inf
    world.config.write_text("server: [")
    world.turn()
    first = watch.next_at
    assert first < inf
    watch._last_said = first - 2 * LOOK_INTERVAL  # a minute goes by
    world.turn()
    assert watch.next_at > first - 2 * LOOK_INTERVAL + LOOK_INTERVAL
    assert world.process.switch.next_at == watch.next_at


def test_so_is_a_list_of_revoked_keys_that_is_damaged(world: KeeperWorld) -> None:
    (world.state_dir / "revoked").write_text("nonsense\n")
    world.turn()
    assert world.process.switch.next_at < inf


def test_the_clock_that_is_set_back_keeps_a_door_open_no_longer(world: KeeperWorld) -> None:
    world.knock(packet_v2())
    world.clock.step_wall(-3600)
    world.turn()
    until_due(world, 30)
    assert world.grants() == set()
    assert world.clock.now.unix_ns < (EPOCH + 1) * WEEK * NS
