"""What the process writes for the program and reads of it, in memory that stands in for the maps'."""

import struct
from ipaddress import ip_address

import pytest

from openme.kernel_filter import layout
from openme.kernel_filter.addresses import Addresses
from openme.kernel_filter.counts import Counts
from openme.kernel_filter.keys import Slots
from openme.kernel_filter.layout import Refused, Senders

KEYS = [bytes([number]) * 8 + bytes([number + 100]) * 8 for number in range(1, 6)]


class Words:
    """Settings that note each number as it is written."""

    def __init__(self) -> None:
        self.words = [0] * layout.SETTINGS
        self.written: list[int] = []

    def __setitem__(self, place: int, number: int) -> None:
        self.words[place] = number
        self.written.append(place)

    def slots(self) -> list[bytes | None]:
        """The keys that the program would use, slot by slot."""
        found: list[bytes | None] = []
        for slot in range(layout.SLOTS):
            at = layout.slot_at(slot)
            first, second, seal = self.words[at : at + layout.SLOT_WORDS]
            found.append(struct.pack("<QQ", first, second) if seal == layout.sealed(first, second) else None)
        return found


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def slots(words: Words) -> Slots:
    return Slots(words)  # type: ignore[arg-type]  # all that it does with them


def test_an_empty_slot_fits_nothing(words: Words) -> None:
    assert words.slots() == [None, None]


def test_a_key_that_goes_on_is_not_written_again(words: Words, slots: Slots) -> None:
    assert slots.hold({KEYS[0]})
    for begins in KEYS[1:]:
        held = words.slots().index(KEYS[0])
        words.written.clear()
        assert slots.hold({KEYS[0], begins})
        assert set(words.slots()) == {KEYS[0], begins}
        at = layout.slot_at(held)
        assert not set(words.written) & set(range(at, at + layout.SLOT_WORDS))


def test_a_key_that_has_ended_is_overwritten(words: Words, slots: Slots) -> None:
    slots.hold(set(KEYS[:2]))
    slots.hold({KEYS[1]})
    assert set(words.slots()) == {None, KEYS[1]}
    slots.hold(set())
    assert words.words == [0] * layout.SETTINGS


def test_with_more_keys_than_slots_it_says_so(slots: Slots, words: Words) -> None:
    assert not slots.hold(set(KEYS[:3]))
    assert slots.hold(set(KEYS[1:3]))
    assert set(words.slots()) == set(KEYS[1:3])


def test_slots_lie_apart_from_each_other_and_from_the_rest() -> None:
    places = [layout.JUDGES, layout.TAKES_SHAPED, layout.TOLD_A_SECOND]
    places += [layout.COPIES_KEY + word for word in range(layout.KEY_WORDS)]
    places += [layout.ADDRESS_KEY + word for word in range(layout.KEY_WORDS)]
    places += [layout.places_at(senders) + word for senders in Senders for word in range(layout.PLACES_WORDS)]
    places += [layout.slot_at(slot) + word for slot in range(layout.SLOTS) for word in range(layout.SLOT_WORDS)]
    assert sorted(places) == list(range(layout.SETTINGS))


def test_counts_of_all_processors_are_one_and_each_is_told_once() -> None:
    words = memoryview(bytearray(8 * layout.COUNTS)).cast("Q")
    counts = Counts(words)
    assert counts.new() == {}
    for kind in Refused:
        for processor in (0, 1, layout.PROCESSORS - 1):
            words[(kind * layout.PROCESSORS + processor) * layout.ROW_WORDS] = kind + 1
    assert counts.new() == {"length": 3, "filter": 6, "copy": 9, "busy": 12}
    assert counts.new() == {}
    words[(Refused.FILTER * layout.PROCESSORS + 1) * layout.ROW_WORDS] += 4
    assert counts.new() == {"filter": 4}


@pytest.fixture
def familiar() -> memoryview:
    return memoryview(bytearray(8 * layout.FAMILIAR)).cast("Q")


def held(familiar: memoryview) -> set[int]:
    return set(familiar.tolist()) - {0}


def test_an_address_is_known_once_in_whichever_form_it_comes(familiar: memoryview) -> None:
    addresses = Addresses(memoryview(bytearray(8 * layout.SETTINGS)).cast("Q"), familiar)
    for text in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"):
        addresses.add(ip_address(text))
    assert len(held(familiar)) == 2


def test_a_full_bucket_forgets_the_one_that_was_told_first(
    familiar: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "BUCKETS", 1)
    addresses = Addresses(memoryview(bytearray(8 * layout.SETTINGS)).cast("Q"), familiar)
    told: list[int] = []
    for number in range(3 * layout.BUCKET_WORDS):
        addresses.add(ip_address(number + 1))
        (new,) = held(familiar) - set(told)
        told = [*told, new][-layout.BUCKET_WORDS :]
        assert held(familiar) == set(told)
        if number == 2 * layout.BUCKET_WORDS:
            addresses.add(ip_address(number - 5))  # told once more, so that it is the last to go
            told.append(told.pop(1))
            assert held(familiar) == set(told)


def test_addresses_lie_elsewhere_under_another_key(familiar: memoryview) -> None:
    """Nobody who does not know it can choose some that take each other's room."""
    for key in range(2):
        settings = memoryview(bytearray(8 * layout.SETTINGS)).cast("Q")
        settings[layout.ADDRESS_KEY] = key
        Addresses(settings, familiar).add(ip_address("192.0.2.1"))
    assert len(held(familiar)) == 2
