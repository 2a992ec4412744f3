"""Doors for a network in a running server: knocks, changed configs, ends, a restart after kill -9."""

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from openme.firewall.base import CutTarget, IPAddress
from openme.seam.messages import ForgetReceipt
from openme.server import slices
from openme.server.doors import Doors
from openme.server.takeover import adopted_grants
from support.keeper_process import KeeperWorld, keeper_world
from support.knocks import ALICE, BOB, HOME, config, frame, packet_v2

NET, WIDE = ip_network("203.0.113.0/24"), ip_network("203.0.0.0/16")
BESIDE, FAR = ip_address("203.0.113.200"), ip_address("203.0.7.5")
BOTH = "{alice: {ed25519_pubkey: KEY_A, prefix_v4: LENGTH}, bob: {ed25519_pubkey: KEY_B, prefix_v4: 16}}"


def both(length: int) -> str:
    return BOTH.replace("LENGTH", str(length))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeeperWorld]:
    with keeper_world(tmp_path, server="prefix_v4: 24", state_file=tmp_path / "sessions.json") as made:
        yield made


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperWorld]:
    """Everybody's doors are for 65,536 addresses; one address is followed in a step, and one step is a turn."""
    monkeypatch.setattr(Doors, "at_once", 1)
    monkeypatch.setattr(slices, "SHARE", 0)
    with keeper_world(tmp_path, both(16)) as made:
        yield made


def knock(world: KeeperWorld, source: IPAddress = HOME, who: object = ALICE) -> bytes:
    """A knock; its representative."""
    world.clock.advance(1)
    datagram = packet_v2(who, world.clock.now.unix_ns, label=world.clock.now)  # type: ignore[arg-type]
    world.knock(datagram, source=source)
    return datagram[:32]


def doors(world: KeeperWorld) -> set[str]:
    return {
        f"{door.address}/{door.port_list.prefix_v4} {','.join(map(str, door.port_list.ports))}"
        for door in world.firewall.doors()
    }


def both_doors(network: str) -> set[str]:
    return {f"{network} 22/tcp", f"{network} 54154/tcp"}


def test_a_knock_opens_its_network_and_the_state_file_names_both(world: KeeperWorld) -> None:
    knock(world)
    assert doors(world) == both_doors(str(NET))
    (session,) = world.ask("sessions")["active_sessions"]
    assert (session["ip"], session["network"]) == (str(HOME), str(NET))
    world.clock.advance(1)
    world.turn()
    world.work_off()
    assert world.parts.state_file is not None
    (written,) = json.loads(world.parts.state_file.read_text(encoding="utf-8"))["active_sessions"]
    assert (written["ip"], written["network"]) == (str(HOME), str(NET))


def test_knocks_from_all_over_the_network_are_one_session_and_end_together(world: KeeperWorld) -> None:
    representatives = [knock(world), knock(world, BESIDE)]
    (session,) = world.ask("sessions")["active_sessions"]
    assert session["ip"] == str(BESIDE)
    world.told()
    assert world.ask("close", name="alice")["closed"] == [f"{BESIDE} and its network {NET}"]
    assert [order.knock for order in world.orders(ForgetReceipt)] == representatives
    assert doors(world) == set()


@pytest.mark.parametrize("command", ["close", "revoke"])
def test_an_end_cuts_what_came_from_anywhere_in_the_network(world: KeeperWorld, command: str) -> None:
    knock(world)
    world.clock.advance(40)
    world.turn()
    assert doors(world) == set()
    world.ask(command, name="alice", cut=True)
    assert CutTarget(NET.network_address, (), network=NET) in {
        CutTarget(t.address, (), network=t.network) for t in world.firewall.cut_targets
    }


def test_a_narrower_prefix_leaves_no_wide_door_and_ends_what_came_from_outside(wide: KeeperWorld) -> None:
    representative = knock(wide)
    knock(wide, FAR, BOB)
    wide.write_config(both(24))
    wide.turn()
    wide.work_off()
    assert doors(wide) == both_doors(str(NET)) | both_doors(str(WIDE)), "bob's is still for 65,536"
    assert {grant.client_name: grant.network for grant in wide.parts.keeper.grants} == {"alice": NET, "bob": WIDE}
    outside = [target.network for target in wide.firewall.cut_targets]
    assert sum(network.num_addresses for network in outside if network is not None) == 2**16 - 2**8
    wide.told()
    wide.ask("close", name="bob")
    assert doors(wide) == both_doors(str(NET))
    wide.ask("close", name="alice")
    assert representative in [order.knock for order in wide.orders(ForgetReceipt)]


def test_a_knock_between_two_steps_leaves_no_wide_door_behind(wide: KeeperWorld) -> None:
    """Its grant takes the place of the one whose doors were still to follow, for it begins with the same address."""
    first = WIDE.network_address + 5
    knock(wide, ip_address("198.51.100.7"))
    knock(wide, first)
    wide.write_config(both(24))
    wide.clock.advance(1)
    wide.process.tick()
    assert f"{WIDE} 22/tcp" in doors(wide), "the second of two is to follow"
    wide.clock.advance(1)
    wide.send(frame(packet_v2(ALICE, wide.clock.now.unix_ns, label="between"), first))
    wide.process.on_frames()
    assert f"{WIDE} 22/tcp" not in doors(wide)
    wide.work_off()
    assert doors(wide) == both_doors("203.0.0.0/24") | both_doors("198.51.100.0/24")


def test_a_wider_prefix_is_said_and_open_doors_follow_where_they_may(
    world: KeeperWorld, caplog: pytest.LogCaptureFixture
) -> None:
    knock(world)
    world.write_config(server="prefix_v4: 20")
    world.turn()
    assert "client alice may do more than before: prefix_v4 is shorter, 20 (it was 24)" in caplog.text
    assert doors(world) == both_doors("203.0.112.0/20")


def test_a_repair_puts_the_networks_doors_back(world: KeeperWorld) -> None:
    knock(world)
    world.firewall.flush()
    world.clock.advance(1)
    world.turn()
    assert doors(world) == both_doors(str(NET))


def test_after_kill_9_the_network_is_taken_over_with_its_address(world: KeeperWorld) -> None:
    knock(world, BESIDE)
    knock(world, HOME)
    now, parsed = world.clock.now, config(server="prefix_v4: 24")
    (grant,), strays = adopted_grants(world.firewall.doors(), world.parts.store.holders(), parsed, now)
    assert (strays, grant.network, grant.named) == ([], NET, HOME)
    for narrower in ("prefix_v4: 25", ""):
        left = world.firewall.doors()
        assert adopted_grants(left, world.parts.store.holders(), config(server=narrower), now) == ([], left)
