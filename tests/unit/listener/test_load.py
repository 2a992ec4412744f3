"""Who waits where, and that all of it is bounded."""

from ipaddress import ip_address

from openme.listener.load import (
    MAX_COPIES,
    MAX_COPIES_PER_SOURCE,
    MAX_FAMILIAR,
    MAX_OTHERS,
    MAX_PER_SOURCE,
    Copies,
    Waiting,
)

HOME = ip_address("192.0.2.2")
ELSEWHERE = ("198.51.100.1", "1")


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


def test_all_known_addresses_together_fill_no_memory() -> None:
    waiting = Waiting()
    addresses = [ip_address(f"192.0.2.{number}") for number in range(1, 33)]
    for address in addresses:
        waiting.make_familiar(address)
        for _ in range(MAX_PER_SOURCE):
            waiting.add(b"forged", (str(address), "1"))
    assert sum(1 for _ in iter(waiting.take_familiar, None)) == MAX_FAMILIAR
    assert waiting.add(b"later", ("192.0.2.32", "1"))


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
