"""What a start makes of doors that an earlier run left open in the kernel."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from math import inf

import pytest

from openme.config.model import ServerConfig
from openme.firewall.base import Door, PortList
from openme.keeper.policy import health_list
from openme.networks import IPNetwork
from openme.ports import parse_port_spec
from openme.server.takeover import adopted_grants, take_over
from openme.store.base import Claim, Holder
from openme.wire.knock import Knock
from support.keeper_parts import Ground
from support.knocks import ALICE, BOB, ELSEWHERE, HOME, NOW, STRANGER, config, lines, nonce

SSH, WEB = PortList(parse_port_spec("22/tcp")), PortList(parse_port_spec("443/tcp"))
HEALTH = health_list(54154)
DOORS = [Door(SSH, HOME, 20.0), Door(HEALTH, HOME, 20.0)]


def holder(name: str = "alice", ends: float = 20.0, key: bytes = ALICE.public.raw) -> Holder:
    return Holder(key, HOME, name, SSH.ports, NOW.unix - 10, NOW.unix + ends)


def adopted(holders: list[Holder], parsed: ServerConfig | None = None) -> tuple[list[tuple[str, float]], list[Door]]:
    grants, strays = adopted_grants(DOORS, holders, parsed or config(), NOW)
    return [(grant.client_name, grant.deadline) for grant in grants], strays


def test_an_open_door_goes_on_for_its_remaining_time() -> None:
    grants, strays = adopted_grants(DOORS, [holder()], config(), NOW)
    (grant,) = grants
    assert strays == []
    assert (grant.client_name, grant.address, grant.port_lists) == ("alice", HOME, (SSH, HEALTH))
    assert (grant.deadline, grant.expires_at, grant.opened_at) == (NOW.monotonic + 20, NOW.unix + 20, NOW.unix - 10)


def test_a_door_that_nobody_holds_is_closed() -> None:
    assert adopted([]) == ([], DOORS)
    elsewhere = Door(SSH, ELSEWHERE, 5.0)
    assert adopted_grants([*DOORS, elsewhere], [holder()], config(), NOW)[1] == [elsewhere]


def test_a_door_of_a_client_revoked_meanwhile_is_closed() -> None:
    assert adopted([holder(key=STRANGER.public.raw)]) == ([], DOORS)


def test_a_door_of_a_client_expired_meanwhile_is_closed() -> None:
    parsed = config("{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:00Z}}")
    assert adopted([holder()], parsed) == ([], DOORS)


@pytest.mark.parametrize(("allowed", "stays"), [("203.0.113.0/24", True), ("198.51.100.0/24", False)])
def test_a_door_for_an_address_that_allowed_from_has_lost_meanwhile_is_closed(
    allowed: str,
    stays: bool,  # noqa: FBT001
) -> None:
    parsed = config(f"{{alice: {{ed25519_pubkey: KEY_A, allowed_from: [{allowed}]}}}}")
    assert adopted([holder()], parsed) == (([("alice", NOW.monotonic + 20)], []) if stays else ([], DOORS))


def test_a_client_renamed_meanwhile_has_its_new_name() -> None:
    assert adopted([holder()], config("{anna: {ed25519_pubkey: KEY_A}}")) == ([("anna", NOW.monotonic + 20)], [])


def test_ports_taken_away_meanwhile_are_closed() -> None:
    parsed = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}}")
    assert adopted([holder()], parsed)[1] == [DOORS[0]]


def test_a_holder_whose_time_is_over_holds_nothing() -> None:
    assert adopted([holder(ends=-5)]) == ([], DOORS)


def test_a_shared_door_belongs_to_those_whose_time_is_not_over() -> None:
    both = [holder(ends=-5), holder("bob", key=BOB.public.raw)]
    assert adopted(both) == ([("bob", NOW.monotonic + 20)], [])


def test_of_two_behind_one_address_each_goes_on_for_his_own_time() -> None:
    """The door is open for as long as the longer one's; when that one goes, so does what was his alone."""
    both = [holder(ends=5), holder("bob", key=BOB.public.raw)]
    assert adopted(both) == ([("alice", NOW.monotonic + 5), ("bob", NOW.monotonic + 20)], [])


@pytest.mark.parametrize("seconds", [20.0, inf])
def test_a_door_that_was_opened_for_longer_than_those_who_have_it_is_open_for_as_long_as_they_have(
    seconds: float,
) -> None:
    """For one who was revoked while no server ran, or by hand."""
    ground = Ground()
    ground.firewall.open([Door(SSH, HOME, min(seconds, 20.0)), Door(HEALTH, HOME, 5.5)])
    if seconds == inf:
        ground.firewall._until[SSH, HOME] = inf
    claim = Claim(ALICE.public.raw, Knock(NOW.unix_ns, nonce("a"), None), HOME, "alice", NOW.unix, holder(ends=5))
    ground.store.claim([claim], lambda _: None)
    take_over(ground.firewall, ground.keeper, ground.store, NOW)
    assert {door.port_list: round(door.seconds, 1) for door in ground.firewall.doors()} == {SSH: 5, HEALTH: 5.5}


def test_a_door_for_a_single_use_is_left_as_it_is() -> None:
    """To set its time is to open it, which would bring one back that is used up meanwhile."""
    ground = Ground(config("{alice: {ed25519_pubkey: KEY_A, single_use: true}}"))
    once = PortList(SSH.ports, single_use=True)
    ground.firewall.open([Door(once, HOME, 20.0)])
    claim = Claim(ALICE.public.raw, Knock(NOW.unix_ns, nonce("a"), None), HOME, "alice", NOW.unix, holder(ends=5))
    ground.store.claim([claim], lambda _: None)
    take_over(ground.firewall, ground.keeper, ground.store, NOW)
    assert [(door.port_list, door.seconds) for door in ground.firewall.doors()] == [(once, 20)]


WIDE, NET = ip_network("203.0.0.0/16"), ip_network("203.0.113.0/24")


def wide_holder(network: IPNetwork = NET, key: bytes = ALICE.public.raw) -> Holder:
    times = NOW.unix - 10, NOW.unix + 20
    return Holder(key, network.network_address, "alice", SSH.ports, *times, network, HOME)


def wide_doors(length: int = 24, network: IPNetwork = NET) -> list[Door]:
    lists = PortList(SSH.ports, prefix_v4=length), health_list(54154, length)
    return [Door(port_list, network.network_address, 20.0) for port_list in lists]


def test_a_door_for_a_network_goes_on_and_knows_the_address_that_was_knocked_for() -> None:
    doors = wide_doors()
    (grant,), strays = adopted_grants(doors, [wide_holder()], config(server="prefix_v4: 24"), NOW)
    assert strays == []
    assert (grant.address, grant.network, grant.named) == (NET.network_address, NET, HOME)
    assert grant.doors == tuple((door.port_list, door.address) for door in doors)


@pytest.mark.parametrize("length", [25, 32])
def test_a_door_for_a_wider_network_than_the_config_has_now_is_closed(length: int) -> None:
    both = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B, prefix_v4: 24}}"
    parsed = config(both, server=f"prefix_v4: {length}")
    doors = wide_doors()
    assert adopted_grants(doors, [wide_holder()], parsed, NOW) == ([], doors)


def test_nobody_takes_over_what_was_given_to_another_for_more_addresses() -> None:
    """Both networks begin with the same address, and only the longer one was alice's."""
    both = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"
    doors = wide_doors(16, WIDE)
    holders = [replace(wide_holder(ip_network("203.0.0.0/24")), knocked_for=ip_address("203.0.0.9"))]
    parsed = config(both, server="prefix_v4: 16")
    assert adopted_grants(doors, holders, parsed, NOW) == ([], doors)
    alone = Holder(ALICE.public.raw, WIDE.network_address, "alice", SSH.ports, NOW.unix - 10, NOW.unix + 20)
    assert adopted_grants(doors, [alone], parsed, NOW) == ([], doors)


def test_what_somebody_may_have_goes_on_and_the_rest_is_closed() -> None:
    ground = Ground()
    ground.firewall.open([*DOORS, Door(SSH, ELSEWHERE, 20.0)])
    claim = Claim(ALICE.public.raw, Knock(NOW.unix_ns, nonce("a"), None), HOME, "alice", NOW.unix, holder())
    ground.store.claim([claim], lambda _: None)
    with lines("openme.server") as records:
        take_over(ground.firewall, ground.keeper, ground.store, NOW)
    assert [(grant.client_name, grant.address) for grant in ground.grants] == [("alice", HOME)]
    assert ground.open_for() == {HOME}
    kept, closed = (record.getMessage() for record in records)
    assert kept == f"alice: still open for {HOME} from before this start"
    assert "to which nobody has a right any more" in closed
