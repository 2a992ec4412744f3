"""What a proven client may open: every refused target by its name, and how long a door stays."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from openme.config.model import ClientEntry
from openme.firewall.base import PortList
from openme.keeper.policy import Opening, PolicyRefusal, client_lists, decide, health_list, refused_target
from openme.ports import parse_port_spec, port
from openme.reasons import Reason
from support.knocks import ALICE, ELSEWHERE, HOME, OWN

SSH = parse_port_spec("22/tcp")
CLIENT = ClientEntry("alice", ALICE.public, ports=SSH)
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
HEALTH = 54154


def decided(client: ClientEntry = CLIENT, target: str | None = None, timeout: float = 30.0) -> Opening | PolicyRefusal:
    wanted = None if target is None else ip_address(target)
    return decide(client, wanted, HOME, AT, timeout, HEALTH, lambda address: address == OWN)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.254", "reserved"),
        ("::c000:209", "embedded"),
        ("::2", "embedded"),
        ("::ffff:0:c000:209", "embedded"),
        (str(OWN), "own_address"),
        *(
            (a, None)
            for a in ("203.0.113.5", "10.0.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "223.255.255.255")
        ),
        *((a, None) for a in ("2001:db8::7", "fe80::1", "fd00::1", "2000::", "64:ff9b::1", "1::")),
    ],
)
def test_a_door_opens_for_one_unicast_address_only(address: str, reason: str | None) -> None:
    assert refused_target(ip_address(address), lambda a: a == OWN) == reason
    outcome = decided(target=address)
    assert (outcome.reason if isinstance(outcome, PolicyRefusal) else None) == reason


@pytest.mark.parametrize("source", ["127.0.0.1", "ff02::1", "255.255.255.255", str(OWN)])
def test_the_source_address_is_held_to_the_same_rules(source: str) -> None:
    outcome = decide(CLIENT, None, ip_address(source), AT, 30, HEALTH, lambda address: address == OWN)
    assert isinstance(outcome, PolicyRefusal)


def test_without_a_target_the_source_is_opened_and_with_one_the_target() -> None:
    for target, opened in ((None, HOME), (str(ELSEWHERE), ELSEWHERE)):
        outcome = decided(target=target)
        assert isinstance(outcome, Opening)
        assert outcome.address == opened


def test_a_client_that_must_name_its_address_opens_nothing_without() -> None:
    strict = replace(CLIENT, require_target_ip=True)
    assert decided(strict) == PolicyRefusal(Reason.TARGET_REQUIRED)
    assert isinstance(decided(strict, str(ELSEWHERE)), Opening)


@pytest.mark.parametrize(
    ("networks", "target", "allowed"),
    [
        (["203.0.113.0/24"], None, True),
        (["203.0.113.0/24"], "198.51.100.7", False),
        (["198.51.100.0/24"], None, False),
        (["198.51.100.0/24", "2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "203.0.113.5", False),
        (["203.0.113.5/32"], "203.0.113.5", True),
        (["203.0.113.5/32"], "203.0.113.6", False),
    ],
)
def test_the_opened_address_must_be_in_allowed_from(networks: list[str], target: str | None, *, allowed: bool) -> None:
    outcome = decided(replace(CLIENT, allowed_from=tuple(map(ip_network, networks))), target)
    assert (outcome != PolicyRefusal(Reason.ALLOWED_FROM)) is allowed
    assert isinstance(outcome, Opening) is allowed


@pytest.mark.parametrize(
    ("changes", "timeout", "seconds"),
    [
        ({}, 30.0, 30.0),
        ({"max_timeout": 10.0}, 30.0, 10.0),
        ({"max_timeout": 100.0}, 30.0, 30.0),
        ({"expires": AT + timedelta(seconds=7)}, 30.0, 7.0),
        ({"expires": AT + timedelta(seconds=700)}, 30.0, 30.0),
        ({"expires": AT + timedelta(seconds=7), "max_timeout": 3.0}, 30.0, 3.0),
    ],
)
def test_a_door_stays_open_for_the_shortest_of_its_limits(
    changes: dict[str, Any], timeout: float, seconds: float
) -> None:
    outcome = decided(replace(CLIENT, **changes), timeout=timeout)
    assert isinstance(outcome, Opening)
    assert outcome.seconds == seconds


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_an_expired_client_opens_nothing(left: float) -> None:
    assert decided(replace(CLIENT, expires=AT + timedelta(seconds=left))) == PolicyRefusal(Reason.EXPIRED)


def test_the_health_port_opens_with_every_door_unless_switched_off() -> None:
    ssh, health = PortList(SSH), health_list(HEALTH)
    assert health == PortList((port("tcp", HEALTH),))
    assert client_lists(CLIENT, HEALTH) == (ssh, health)
    assert client_lists(replace(CLIENT, disable_health_port=True), HEALTH) == (ssh,)
    assert client_lists(replace(CLIENT, ports=()), HEALTH) == (health,)


def test_a_single_use_never_covers_the_health_port() -> None:
    lists = client_lists(replace(CLIENT, single_use=True), HEALTH)
    assert lists == (PortList(SSH, single_use=True), health_list(HEALTH))


def test_a_client_with_nothing_to_open_is_told_apart() -> None:
    assert decided(replace(CLIENT, ports=(), disable_health_port=True)) == PolicyRefusal(Reason.NO_PORTS)


def test_port_lists_are_canonical_so_that_equal_ones_share_a_rule() -> None:
    one = replace(CLIENT, ports=(*parse_port_spec("23/tcp"), *SSH))
    other = replace(CLIENT, ports=parse_port_spec("22-23/tcp"))
    assert client_lists(one, HEALTH) == client_lists(other, HEALTH)
