"""Networks around addresses."""

from ipaddress import ip_address, ip_network

import pytest

from openme.networks import Places, collapsed, first_of, in_order, inside, is_within, network_around, without


@pytest.mark.parametrize(
    ("address", "length", "first"),
    [
        ("203.0.113.77", 32, "203.0.113.77"),
        ("203.0.113.77", 24, "203.0.113.0"),
        ("203.0.113.77", 26, "203.0.113.64"),
        ("255.255.255.255", 16, "255.255.0.0"),
        ("2001:db8:1:2:3::4", 128, "2001:db8:1:2:3::4"),
        ("2001:db8:1:2:3::4", 64, "2001:db8:1:2::"),
        ("2001:db8:1:ffff::", 49, "2001:db8:1:8000::"),
    ],
)
def test_the_network_around_an_address_begins_where_its_host_bits_are_zero(
    address: str, length: int, first: str
) -> None:
    assert first_of(ip_address(address), length) == ip_address(first)
    assert network_around(ip_address(address), length) == ip_network(f"{first}/{length}")


def test_a_network_lies_in_one_of_its_own_version_alone() -> None:
    assert is_within(ip_network("192.0.2.0/25"), ip_network("192.0.2.0/24"))
    assert not is_within(ip_network("192.0.2.0/24"), ip_network("192.0.2.0/25"))
    assert is_within(ip_network("2001:db8::/64"), ip_network("2001:db8::/48"))
    assert not is_within(ip_network("192.0.2.0/25"), ip_network("::/0"))
    assert not is_within(ip_network("::/64"), ip_network("0.0.0.0/0"))


def test_two_halves_are_one_whole() -> None:
    halves = map(ip_network, ("192.0.2.128/25", "2001:db8::/33", "192.0.2.0/25", "2001:db8:8000::/33"))
    assert list(collapsed(halves)) == [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("outer", "taken"),
    [
        ("192.0.2.0/28", ["192.0.2.5/32"]),
        ("192.0.2.0/28", ["192.0.2.8/30", "192.0.2.0/32", "192.0.2.15/32", "192.0.2.9/32"]),
        ("2001:db8::/120", ["2001:db8::80/126"]),
        ("255.255.255.0/24", ["255.255.255.255/32"]),
        ("10.0.0.0/24", ["10.0.0.0/24"]),
        ("10.0.0.0/24", ["10.0.0.0/16"]),
        ("10.0.0.0/24", ["10.0.0.0/25", "10.0.0.128/25"]),
        ("10.0.0.0/24", ["10.1.0.0/24", "2001:db8::/64"]),
        ("10.0.0.0/24", []),
    ],
)
def test_what_is_left_is_all_but_what_was_taken_out(outer: str, taken: list[str]) -> None:
    whole, parts = ip_network(outer), [ip_network(part) for part in taken]
    left = [address for network in without(whole, parts) for address in network]
    assert left == [address for address in whole if not any(address in part for part in parts)]


def test_those_inside_a_network_are_found_in_order() -> None:
    texts = ("10.0.1.0/24", "2001:db8:0:1::/64", "10.0.0.0/24", "10.0.255.0/24", "10.1.0.0/24", "10.0.1.0/24")
    ordered = in_order(map(ip_network, texts))
    assert len(ordered) == 5

    def found(outer: str) -> list[str]:
        return [str(network) for network in inside(ip_network(outer), ordered)]

    assert found("10.0.0.0/16") == ["10.0.0.0/24", "10.0.1.0/24", "10.0.255.0/24"]
    assert found("2001:db8::/48") == ["2001:db8:0:1::/64"]
    assert found("10.1.0.0/24") == ["10.1.0.0/24"]
    assert found("10.0.1.128/25") == ["10.0.1.0/24"], "the one that holds it"
    assert found("10.0.2.0/24") == found("9.0.0.0/16") == found("2001:db8:1::/48") == []
    assert list(inside(ip_network("10.0.0.0/16"), [])) == []
    ends = in_order(map(ip_network, ("10.0.0.255/32", "10.0.0.0/32", "10.0.1.0/32", "9.255.255.255/32")))
    assert [str(network) for network in inside(ip_network("10.0.0.0/24"), ends)] == ["10.0.0.0/32", "10.0.0.255/32"]


def test_places_hold_addresses_and_whole_networks() -> None:
    places = Places()
    assert ip_address("192.0.2.1") not in places
    places.add(ip_address("192.0.2.0"))
    places.add(ip_address("198.51.100.0"), ip_network("198.51.100.0/24"))
    places.add(ip_address("2001:db8::"), ip_network("2001:db8::/64"))
    inside = ("192.0.2.0", "198.51.100.0", "198.51.100.255", "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")
    outside = ("192.0.2.1", "198.51.101.0", "198.51.99.255", "2001:db8:0:1::", "::198.51.100.1")
    assert [ip_address(text) in places for text in (*inside, *outside)] == [True] * 5 + [False] * 5
