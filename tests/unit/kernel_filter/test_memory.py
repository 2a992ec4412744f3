"""What the process writes for the program and reads of it, in memory that stands in for the maps'."""

import struct

import pytest

from openme.kernel_filter import layout
from openme.kernel_filter.counts import Counts
from openme.kernel_filter.keys import Slots
from openme.kernel_filter.layout import Refused

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
    places += [layout.slot_at(slot) + word for slot in range(layout.SLOTS) for word in range(layout.SLOT_WORDS)]
    assert sorted(places) == list(range(layout.SETTINGS))


def test_counts_of_all_processors_are_one_and_each_is_told_once() -> None:
    words = memoryview(bytearray(8 * layout.COUNTS)).cast("Q")
    counts = Counts(words)
    assert counts.new() == {}
    for kind in Refused:
        for processor in (0, 1, layout.PROCESSORS - 1):
            words[(kind * layout.PROCESSORS + processor) * layout.ROW_WORDS] = kind + 1
    assert counts.new() == {"length": 3, "filter": 6, "copy": 9}
    assert counts.new() == {}
    words[(Refused.FILTER * layout.PROCESSORS + 1) * layout.ROW_WORDS] += 4
    assert counts.new() == {"filter": 4}
