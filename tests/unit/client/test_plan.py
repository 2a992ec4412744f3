"""Which packet goes where, and which address it names."""

import socket
from ipaddress import ip_address, ip_network

import pytest

from openme.client.addresses import Endpoint
from openme.client.plan import MOST_ADDRESSES, Family, by_family, is_translated, target

V4, V6 = socket.AF_INET, socket.AF_INET6
SERVER = [Endpoint(V6, "2001:db8::1")]


def v4(number: int) -> Endpoint:
    return Endpoint(V4, f"192.0.2.{number}")


def test_addresses_are_grouped_by_family_each_once_in_their_order() -> None:
    assert by_family([v4(2), *SERVER, v4(1), v4(2)]) == [Family((v4(2), v4(1))), Family(tuple(SERVER))]
    assert by_family([]) == []


def test_of_very_many_sixteen_are_knocked_at_and_the_rest_counted() -> None:
    (family,) = by_family([v4(number) for number in range(20)])
    assert (len(family.endpoints), family.left_out) == (MOST_ADDRESSES, 4)
    assert family.endpoints[0] == v4(0)


@pytest.mark.parametrize(
    ("wanted", "own", "target_"),
    [
        (None, "2001:4860::1", None),
        ("auto", "2001:4860::1", "2001:4860::1"),
        ("auto", "8.8.8.8", "8.8.8.8"),
        ("auto", "192.168.1.7", None),
        ("auto", "100.64.0.1", None),
        ("auto", "fe80::1", None),
        ("auto", "fd00::1", None),
        ("auto", "127.0.0.1", None),
        ("203.0.113.5", "192.168.1.7", "203.0.113.5"),
        ("2001:db8::7", "192.168.1.7", "2001:db8::7"),
        ("::ffff:203.0.113.5", "192.168.1.7", "203.0.113.5"),
    ],
)
def test_a_knock_names_what_was_asked_for(wanted: str | None, own: str, target_: str | None) -> None:
    assert target(wanted, ip_address(own), SERVER) == (None if target_ is None else ip_address(target_))


OWN = ip_address("2001:4860::1")


@pytest.mark.parametrize(
    ("server", "prefixes", "named"),
    [
        ("2001:db8::1", [], True),
        ("64:ff9b::c000:201", [], False),
        ("64:ff9b:1::c000:201", [], False),
        ("64:ff9b:2::c000:201", [], True),
        ("2001:db8:64::c000:201", ["2001:db8:64::/96"], False),
        ("2001:db8:65::c000:201", ["2001:db8:64::/96"], True),
        ("fe80::1%eth0", ["2001:db8:64::/96"], True),
    ],
)
def test_behind_nat64_our_own_address_is_not_named(server: str, prefixes: list[str], named: bool) -> None:  # noqa: FBT001
    networks = [ip_network(prefix) for prefix in prefixes]
    endpoints = [Endpoint(V6, server)]
    assert target("auto", OWN, endpoints, networks) == (OWN if named else None)  # type: ignore[arg-type]
    assert target("2001:db8::7", OWN, endpoints, networks) == ip_address("2001:db8::7")  # type: ignore[arg-type]


def test_one_translated_address_among_several_is_enough() -> None:
    assert is_translated([Endpoint(V6, "2001:db8::1"), Endpoint(V6, "64:ff9b::1")])
    assert not is_translated([v4(1)])
