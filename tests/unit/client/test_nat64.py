"""The prefix of this network's NAT64: read from the answer, waited for briefly, kept, and never trusted beyond that."""

import socket
import threading
from ipaddress import IPv6Address, IPv6Network

import pytest

from openme.client.nat64 import LIFETIME, MOST_NETWORKS, RETRY, Nat64, look_up, prefixes_in

OWN = IPv6Address("2001:db8:1:2::7")
PREFIX = IPv6Network("2001:db8:64::/96")


@pytest.mark.parametrize(
    ("answer", "prefix"),
    [
        # RFC 6052 section 2.4, with 192.0.0.170 (c000:00aa) in the place of its example.
        ("2001:db8:c000:aa::", "2001:db8::/32"),
        ("2001:db8:1c0:0:aa::", "2001:db8:100::/40"),
        ("2001:db8:122:c000:0:aa00::", "2001:db8:122::/48"),
        ("2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56"),
        ("2001:db8:122:344:c0:0:aa00:0", "2001:db8:122:344::/64"),
        ("2001:db8:122:344::c000:aa", "2001:db8:122:344::/96"),
        ("64:ff9b::c000:ab", "64:ff9b::/96"),
        ("2001:db8::1", None),
        ("::", None),
    ],
)
def test_the_prefix_stands_before_the_known_address(answer: str, prefix: str | None) -> None:
    assert prefixes_in([IPv6Address(answer)]) == (() if prefix is None else (IPv6Network(prefix),))


def test_an_answer_of_both_addresses_shows_one_prefix() -> None:
    both = [IPv6Address("64:ff9b::c000:aa"), IPv6Address("64:ff9b::c000:ab")]
    assert prefixes_in(both) == (IPv6Network("64:ff9b::/96"),)


def raises(error: Exception) -> list[IPv6Address]:
    raise error


def test_what_the_resolver_says_and_what_it_does_not() -> None:
    assert look_up(lambda: [IPv6Address("2001:db8:64::c000:aa")]) == (PREFIX,)
    assert look_up(lambda: raises(socket.gaierror(socket.EAI_NONAME, "no such name"))) == ()
    assert look_up(lambda: raises(socket.gaierror(socket.EAI_AGAIN, "try again"))) is None
    assert look_up(lambda: raises(OSError("no"))) is None
    assert look_up(lambda: raises(ValueError("no"))) is None


def test_a_resolver_that_never_answers_is_not_waited_for() -> None:
    never = threading.Event()
    before = set(threading.enumerate())

    def ask() -> list[IPv6Address]:
        never.wait()
        return []

    try:
        assert look_up(ask, patience=0.01) is None
        (left,) = set(threading.enumerate()) - before
        assert left.is_alive()
        assert left.daemon
    finally:
        never.set()


class Network:
    """A network's resolver, and what is stored."""

    def __init__(self, answer: tuple[IPv6Network, ...] | None = (PREFIX,)) -> None:
        self.answer = answer
        self.stored: dict[str, object] = {}
        self.asked = 0
        self.now = 1_000_000.0
        self.nat64 = Nat64(lambda: dict(self.stored), self.save, self.look, lambda: self.now)

    def save(self, value: dict[str, object]) -> None:
        self.stored = value

    def look(self) -> tuple[IPv6Network, ...] | None:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize("answer", [(PREFIX,), (), None])
def test_a_network_is_asked_once_and_again_when_that_is_old(answer: tuple[IPv6Network, ...] | None) -> None:
    network = Network(answer)
    for _ in range(3):
        assert network.nat64.prefixes(OWN) == (answer or ())
        assert network.nat64.prefixes(OWN + 1) == (answer or ())
    assert network.asked == 1
    network.now += RETRY if answer is None else LIFETIME
    network.nat64.prefixes(OWN)
    assert network.asked == 2
    network.nat64.prefixes(IPv6Address("2001:db8:1:3::7"))
    assert network.asked == 3, "another network is another question"


def test_a_clock_that_was_set_back_asks_again() -> None:
    network = Network()
    network.nat64.prefixes(OWN)
    network.now -= 1000
    network.nat64.prefixes(OWN)
    assert network.asked == 2


@pytest.mark.parametrize(
    "entry",
    [
        None,
        1,
        [],
        {},
        {"at": "x"},
        {"at": 1_000_000, "prefixes": ["no"]},
        {"at": 1_000_000, "prefixes": 5},
        {"at": True},
    ],
)
def test_a_damaged_memory_is_none(entry: object) -> None:
    network = Network()
    network.stored = {"2001:db8:1:2::/64": entry}
    assert network.nat64.prefixes(OWN) == (PREFIX,)
    assert network.asked == 1


def test_only_the_latest_networks_are_kept() -> None:
    network = Network()
    for number in range(MOST_NETWORKS + 5):
        network.nat64.prefixes(IPv6Address((0x20010DB8 << 96) + (number << 64)))
    assert len(network.stored) == MOST_NETWORKS
    network.nat64.prefixes(IPv6Address((0x20010DB8 << 96) + ((MOST_NETWORKS + 4) << 64)))
    assert network.asked == MOST_NETWORKS + 5
