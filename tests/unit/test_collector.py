"""When Python searches for garbage, and what it need not look at."""

import gc
from collections.abc import Iterator

import pytest

from openme.collector import as_long_as_the_process, collector_paused


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The other tests' garbage is looked for as ever."""
    yield
    gc.enable()
    gc.unfreeze()


def test_the_search_is_paused_and_goes_on_afterwards() -> None:
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_whoever_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_what_is_made_to_stay_is_out_of_the_search_before_it_goes_on() -> None:
    gc.collect()
    runs = sum(generation["collections"] for generation in gc.get_stats())
    with as_long_as_the_process():
        kept = [[number] for number in range(100_000)]
    assert sum(generation["collections"] for generation in gc.get_stats()) == runs
    assert gc.get_freeze_count() > len(kept)
    assert gc.isenabled()
