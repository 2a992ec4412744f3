"""Who waits where, that nobody starves, and that all of it is bounded."""

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openme.listener.load import (
    MAX_COPIES,
    MAX_COPIES_PER_SOURCE,
    MAX_FAMILIAR,
    MAX_OTHERS,
    MAX_PER_SOURCE,
    Copies,
    Datagram,
    Turns,
    Waiting,
    network_of,
)

HOME = ip_address("192.0.2.2")
ELSEWHERE = ("198.51.100.1", "1")


def item(name: str) -> Datagram:
    return name.encode(), (name, "1")


def test_a_known_address_has_a_queue_of_its_own_in_both_spellings() -> None:
    waiting = Waiting()
    waiting.make_familiar(HOME)
    for number in range(MAX_OTHERS * 2):
        assert waiting.add(b"noise", ELSEWHERE) == (number < MAX_OTHERS)
    assert waiting.add(b"four", ("192.0.2.2", "1"))
    assert waiting.add(b"mapped", ("::ffff:192.0.2.2", "1"))
    taken = [waiting.take_familiar() for _ in range(3)]
    assert [item and item[0] for item in taken] == [b"four", b"mapped", None]
    assert sum(1 for _ in iter(waiting.take_other, None)) == MAX_OTHERS
    assert not waiting


def test_known_addresses_take_turns_and_none_fills_memory() -> None:
    waiting = Waiting()
    waiting.make_familiar(HOME)
    waiting.make_familiar(ip_address("2001:db8::2"))
    for _ in range(2 * MAX_PER_SOURCE):
        waiting.add(b"forged", ("192.0.2.2", "1"))
    waiting.add(b"honest", ("2001:db8::2", "1"))
    taken = [item[0] for item in iter(waiting.take_familiar, None)]
    assert b"honest" in taken[:2]
    assert len(taken) == MAX_PER_SOURCE + 1


def test_all_known_addresses_together_fill_no_memory_and_none_is_kept_out() -> None:
    waiting = Waiting()
    addresses = [ip_address(f"192.0.2.{number}") for number in range(1, 33)]
    for address in addresses:
        waiting.make_familiar(address)
        for _ in range(MAX_PER_SOURCE):
            waiting.add(b"forged", (str(address), "1"))
    later = ip_address("192.0.2.33")
    waiting.make_familiar(later)
    waiting.add(b"later", (str(later), "1"))
    taken = [item[0] for item in iter(waiting.take_familiar, None)]
    assert len(taken) == MAX_FAMILIAR
    assert b"later" in taken[: len(addresses) + 1]


@pytest.mark.parametrize("networks", [1, 2, 16, 300])
def test_a_flood_from_some_networks_takes_no_place_from_another(networks: int) -> None:
    """An address that nobody knows is served when each network had its turn once, whatever came before and after."""
    waiting = Waiting()
    forged = [
        (f"{number % 200 + 20}.{number // 200}.{host}.1", "1") for host in range(256) for number in range(networks)
    ]
    for sockaddr in forged * 20:
        waiting.add(b"flood", sockaddr)
    waiting.add(b"honest", ("10.9.0.1", "1"))
    for sockaddr in forged:
        waiting.add(b"flood", sockaddr)
    taken = [item[0] for item in iter(waiting.take_other, None)]
    assert b"honest" in taken[: networks + 1]
    assert len(taken) <= MAX_OTHERS


@pytest.mark.parametrize(
    ("host", "another", "elsewhere"),
    [
        ("192.0.2.1", "192.0.77.1", "192.1.2.1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.77.1", "::ffff:192.1.2.1"),
        ("2001:db8:1::1", "2001:db8:ffff:1::2", "2001:db9:1::1"),
        ("2001:db8::", "2001:db8:0:1:2:3:4:5", "2001::db8"),
        ("fe80::1%eth0", "fe80::2%eth0", "::1"),
    ],
)
def test_a_network_is_about_a_providers(host: str, another: str, elsewhere: str) -> None:
    assert network_of(host) == network_of(another)
    assert network_of(host) != network_of(elsewhere)


MOST_OF_ONE, MOST = 4, 12
SENDERS = st.sampled_from("abcdefghijklmnop")


@given(st.lists(SENDERS | st.none(), max_size=200))
def test_turns_are_bounded_and_say_what_they_drop(steps: list[str | None]) -> None:
    """Any order of adding, and of taking (None)."""
    turns = Turns(MOST_OF_ONE, MOST)
    inside = 0
    for sender in steps:
        if sender is None:
            assert (turns.take() is not None) == (inside > 0)
            inside -= inside > 0
        else:
            inside += turns.add(sender, item(sender))
        assert bool(turns) == (inside > 0)
        assert inside <= MOST
    rest = Counter(sender for _, (sender, *_) in iter(turns.take, None))
    assert rest.total() == inside
    assert all(count <= MOST_OF_ONE for count in rest.values())


def test_who_sends_more_than_his_part_loses_one_by_lot() -> None:
    """So that neither the first of a flood nor its latest keeps a knock out that comes in its midst."""
    turns = Turns(MOST_OF_ONE, MOST)
    for number in range(100 * MOST_OF_ONE):
        assert turns.add("a", (str(number).encode(), ("a", "1"))) == (number < MOST_OF_ONE)
    left = [int(item[0]) for item in iter(turns.take, None)]
    assert len(left) == MOST_OF_ONE
    assert not set(left) & set(range(MOST_OF_ONE)), "the first ones went, too"


def test_for_a_newcomer_the_latest_goes_of_the_last_in_turn_who_has_more_than_his_part() -> None:
    """What has waited for longest stays, and so does its order."""
    turns = Turns(MOST_OF_ONE, MOST_OF_ONE)
    for name in ("a1", "a2", "b1", "b2"):
        assert turns.add(name[0], item(name))
    assert not turns.add("c", item("c1"))
    assert [name for name, _ in iter(turns.take, None)] == [b"a1", b"b1", b"c1", b"a2"]


@given(st.lists(SENDERS, min_size=1, max_size=300))
def test_a_turn_goes_round_all_senders_before_one_has_his_second(added: list[str]) -> None:
    turns = Turns(MOST_OF_ONE, MOST)
    for sender in added:
        turns.add(sender, item(sender))
    taken = [sender for _, (sender, *_) in iter(turns.take, None)]
    each = len(set(taken))
    assert len(set(taken[:each])) == each


@given(st.lists(st.sampled_from("abc") | SENDERS, max_size=100), st.lists(SENDERS, max_size=100))
def test_who_sends_one_keeps_it_while_there_are_places_for_all_senders(before: list[str], after: list[str]) -> None:
    """However unequal the others are when he comes, and whoever comes after him."""
    turns = Turns(MOST_OF_ONE, MOST)
    for sender in before:
        turns.add(sender, item(sender))
    turns.add("honest", item("honest"))
    senders = {"honest", *before}
    for sender in after:
        if len(senders | {sender}) <= MOST:
            senders.add(sender)
            turns.add(sender, item(sender))
    kept = [sender for _, (sender, *_) in iter(turns.take, None)]
    assert "honest" in kept or len(senders) > MOST


def test_who_is_the_last_in_turn_keeps_his_place_if_it_is_his_only_one() -> None:
    turns = Turns(MOST_OF_ONE, MOST)
    for sender in "aaaabbbbccc":
        turns.add(sender, item(sender))
    for sender in ("honest", "d", "e"):
        turns.add(sender, item(sender))
    taken = Counter(sender for _, (sender, *_) in iter(turns.take, None))
    assert taken.total() == MOST
    assert taken["honest"] == taken["d"] == taken["e"] == 1


def test_with_more_senders_than_places_all_places_are_in_use() -> None:
    turns = Turns(MOST_OF_ONE, MOST)
    for number in range(5 * MOST):
        assert turns.add(str(number), item("one")) == (number < MOST)
    assert sum(1 for _ in iter(turns.take, None)) == MOST


def test_a_packet_is_passed_on_a_few_times_from_an_address_and_not_for_ever_from_others() -> None:
    copies = Copies(165)
    for _ in range(MAX_COPIES_PER_SOURCE):
        assert not copies.too_many(b"packet", "192.0.2.2")
        copies.note(b"packet", "192.0.2.2")
    assert copies.too_many(b"packet", "192.0.2.2")
    assert not copies.too_many(b"another", "192.0.2.2")
    for number in range(MAX_COPIES - MAX_COPIES_PER_SOURCE):
        assert not copies.too_many(b"packet", f"198.51.100.{number}")
        copies.note(b"packet", f"198.51.100.{number}")
    assert copies.too_many(b"packet", "203.0.113.5")
