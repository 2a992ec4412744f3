"""Whose exchanges end when rights are lost."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from openme.config.model import ClientEntry, ServerConfig
from openme.firewall.base import CutTarget
from openme.keeper.lost_rights import Expiries, lost_by_change, lost_by_keys, lost_to
from openme.ports import PortRange, parse_port_spec
from openme.store.base import Holder
from support.knocks import ALICE, BOB, ELSEWHERE, HOME, NOW, config
from support.steps import done

KEY = ALICE.public.raw


def ports(*specs: str) -> tuple[PortRange, ...]:
    return tuple(item for spec in specs for item in parse_port_spec(spec))


def holder(*specs: str, key: bytes = KEY) -> Holder:
    return Holder(key, HOME, "alice", ports(*specs), NOW.unix - 60, NOW.unix - 30)


def alice(fields: str = "") -> ClientEntry:
    return config(f"{{alice: {{ed25519_pubkey: KEY_A{fields}}}}}").clients["alice"]


@pytest.mark.parametrize(
    ("held", "fields", "lost"),
    [
        (("22/tcp",), "", ()),
        (("22/tcp", "53/udp"), "", ("53/udp",)),
        (("22/udp",), "", ("22/udp",)),
        (("20-25/tcp",), "", ("20-21/tcp", "23-25/tcp")),
        (("22/tcp",), ", allowed_ports: [20-30/tcp]", ()),
        (("20-30/tcp",), ", allowed_ports: [20-22/tcp, 25/tcp, 30/tcp]", ("23-24/tcp", "26-29/tcp")),
        (("65530-65535/tcp",), ", allowed_ports: [65535/tcp]", ("65530-65534/tcp",)),
        (("22/tcp",), ", expires: 2026-11-23T12:00:00Z", ("22/tcp",)),
        (("22/tcp",), ", expires: 2026-11-23T12:00:01Z", ()),
        (("22/tcp",), ", allowed_from: [203.0.113.0/24]", ()),
        (("22/tcp",), ", allowed_from: [198.51.100.0/24]", ("22/tcp",)),
    ],
)
def test_what_was_given_and_is_allowed_no_more(held: tuple[str, ...], fields: str, lost: tuple[str, ...]) -> None:
    expected = [CutTarget(HOME, ports(*lost))] if lost else []
    assert lost_to(holder(*held), alice(fields), NOW.utc) == expected


def test_a_client_that_is_gone_loses_all() -> None:
    assert lost_to(holder("22/tcp", "53/udp"), None, NOW.utc) == [CutTarget(HOME, ports("22/tcp", "53/udp"))]


def change(before: ServerConfig, after: ServerConfig) -> tuple[list[CutTarget], list[bytes]]:
    """What is lost, and whose holders were looked up."""
    asked: list[bytes] = []

    def holders_of(key: bytes) -> list[Holder]:
        asked.append(key)
        return [holder("22/tcp", key=key)]

    by_key = {client.public_key.raw: client for client in after.clients.values()}
    keys = [*before.index.keys(), b"new" + bytes(29)]
    return done(lost_by_change(keys, before.index.by_key, by_key.get, holders_of, NOW.utc)), asked


def test_a_change_looks_up_those_whose_rights_have_changed() -> None:
    target = CutTarget(HOME, ports("22/tcp"))
    both = config()
    assert change(both, config()) == ([], [])
    assert change(both, config("{alice: {ed25519_pubkey: KEY_A}}")) == ([target], [BOB.public.raw])
    assert change(both, config("{robert: {ed25519_pubkey: KEY_B}, alice: {ed25519_pubkey: KEY_A}}")) == ([], [])
    assert change(both, config(ports="{default: [80/tcp]}")) == ([target] * 2, [KEY, BOB.public.raw])
    assert change(both, config(ports="{default: [22/tcp, 80/tcp]}")) == ([], [KEY, BOB.public.raw])


def test_a_key_that_was_replaced_under_its_name_is_gone() -> None:
    before, after = config("{alice: {ed25519_pubkey: KEY_A}}"), config("{alice: {ed25519_pubkey: KEY_B}}")
    assert change(before, after) == ([CutTarget(HOME, ports("22/tcp"))], [KEY])


def test_many_clients_are_compared_in_steps() -> None:
    entry = alice()
    assert len(list(lost_by_change([KEY] * 1000, lambda _: entry, lambda _: entry, lambda _: [], NOW.utc))) == 5


def test_those_of_a_key_one_key_a_step() -> None:
    steps = lost_by_keys([KEY, BOB.public.raw], {KEY: alice()}.get, lambda key: [holder("22/tcp", key=key)], NOW.utc)
    next(steps)
    assert done(steps) == [CutTarget(HOME, ports("22/tcp"))]


def test_expiries_are_told_once_and_again_after_the_clock_was_set_back() -> None:
    moment = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def at(seconds: float) -> list[bytes]:
        return expiries.passed(moment + timedelta(seconds=seconds))

    expiries = Expiries(moment)
    expiries.follow([(moment, KEY), (moment + timedelta(seconds=10), KEY)])
    assert at(9) == []
    ends = [expiries.next_end]
    assert at(10) == [KEY]
    ends.append(expiries.next_end)
    assert ends == [moment + timedelta(seconds=10), None]
    assert at(11) == []
    assert at(-100) == []
    assert expiries.next_end == moment
    assert at(5) == [KEY]  # the one that ended at the start
    assert at(1000) == [KEY]
    assert at(2000) == []


def test_the_address_of_a_holder_decides_about_its_networks() -> None:
    held = Holder(KEY, ELSEWHERE, "alice", ports("22/tcp"), 0, 0)
    assert lost_to(held, alice(", allowed_from: [198.51.100.0/24]"), NOW.utc) == []
    six = Holder(KEY, ip_address("2001:db8::2"), "alice", ports("22/tcp"), 0, 0)
    assert lost_to(six, alice(", allowed_from: [198.51.100.0/24]"), NOW.utc) == [CutTarget(six.address, six.ports)]
