"""The ratchet: every later key, no earlier one."""

import hmac
from datetime import UTC, datetime

import pytest
from nacl.bindings import crypto_scalarmult_base

from openme.keys.ratchet import MAX_STEPS, NS, Ratchet, epoch_at

KEY = bytes(range(32))
WEEK = 604_800


def ratchet(index: int = 100, length: int = WEEK) -> Ratchet:
    return Ratchet(length, index, bytes(bytearray(KEY)))


def key_of(made: Ratchet) -> bytes:
    place = bytearray(40)
    made.copy_key_to(place, 4)
    assert place[:4] + place[36:] == bytes(8)
    return bytes(place[4:36])


def derived(key: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(bytes(32), key, "sha256"), info + b"\x01", "sha256")


def after(steps: int) -> bytes:
    key = KEY
    for _ in range(steps):
        key = derived(key, b"openme-v2 ratchet")
    return key


# -- epochs


@pytest.mark.parametrize(
    ("unix_ns", "epoch"),
    [
        (0, 0),
        (WEEK * NS - 1, 0),
        (WEEK * NS, 1),
        (2951 * WEEK * NS - 1, 2950),
        (2951 * WEEK * NS, 2951),
        (-1, -1),
        (-WEEK * NS, -1),
        (-WEEK * NS - 1, -2),
        (2**63 - 1, 15250),
    ],
)
def test_an_epoch_begins_with_its_first_nanosecond(unix_ns: int, epoch: int) -> None:
    assert epoch_at(unix_ns, WEEK) == epoch


def test_epochs_are_counted_from_1970_in_any_length() -> None:
    noon = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
    assert [epoch_at(noon * NS, length) for length in (1, 3600, 86400)] == [noon, noon // 3600, noon // 86400]


# -- steps


@pytest.mark.parametrize("steps", [0, 1, 2, 53])
def test_a_step_is_one_hkdf_and_the_private_key_another(steps: int) -> None:
    made = ratchet()
    private = derived(after(steps), b"openme-v2 epoch key")
    assert made.private_key(100 + steps) == private
    assert made.public_keys(100 + steps, 1) == (crypto_scalarmult_base(private),)
    made.advance_to(100 + steps)
    assert (made.index, key_of(made)) == (100 + steps, after(steps))


def test_looking_ahead_changes_nothing() -> None:
    made = ratchet()
    first = made.private_key(100)
    made.public_keys(100, 10)
    made.private_key(130)
    made.later(120).forget()
    made.later(100).forget()
    assert (made.index, key_of(made), made.private_key(100)) == (100, KEY, first)


def test_public_keys_are_those_of_consecutive_epochs() -> None:
    made = ratchet()
    keys = made.public_keys(103, 4)
    assert keys == tuple(crypto_scalarmult_base(made.private_key(epoch)) for epoch in range(103, 107))
    assert len(set(keys)) == 4
    assert made.public_keys(103, 0) == ()


def test_many_small_steps_lead_where_a_long_one_does() -> None:
    slow, fast = ratchet(), ratchet()
    for epoch in range(101, 121):
        slow.advance_to(epoch)
    fast.advance_to(120)
    assert key_of(slow) == key_of(fast) == key_of(ratchet().later(120))


# -- nothing backwards


def test_no_earlier_key_comes_out_of_an_advanced_ratchet() -> None:
    made = ratchet()
    made.advance_to(105)
    assert not made.reaches(104)
    for ask in (made.private_key, made.later, made.advance_to, lambda epoch: made.public_keys(epoch, 1)):
        with pytest.raises(ValueError, match="no key for epoch 104"):
            ask(104)
    assert made.index == 105


def test_advancing_wipes_the_key_in_its_place() -> None:
    key = bytes(bytearray(KEY))
    made = Ratchet(WEEK, 100, key)
    made.advance_to(101)
    assert key == bytes(32)
    assert key_of(made) == after(1)


def test_advancing_to_where_it_stands_keeps_the_key() -> None:
    made = ratchet()
    made.advance_to(100)
    assert key_of(made) == KEY


def test_a_later_ratchet_has_a_key_of_its_own() -> None:
    made = ratchet()
    for epoch in (100, 101):
        copy = made.later(epoch)
        copy.forget()
        assert key_of(copy) == bytes(32)
        assert key_of(made) == KEY


def test_forgetting_wipes_the_key() -> None:
    key = bytes(bytearray(KEY))
    Ratchet(WEEK, 100, key).forget()
    assert key == bytes(32)


def test_private_keys_are_the_callers_to_wipe() -> None:
    made = ratchet()
    assert made.private_key(100) is not made.private_key(100)


# -- bounds


def test_it_reaches_from_its_index_on_and_not_for_ever() -> None:
    made = ratchet()
    assert [made.reaches(epoch) for epoch in (-1, 99, 100, 101, 100 + MAX_STEPS, 101 + MAX_STEPS)] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="no key"):
        made.private_key(101 + MAX_STEPS)


@pytest.mark.parametrize(
    ("length", "index", "key"),
    [(0, 1, KEY), (-1, 1, KEY), (WEEK, -1, KEY), (WEEK, 1, KEY[:31]), (WEEK, 1, KEY + b"x"), (WEEK, 1, b"")],
)
def test_what_is_no_ratchet_is_refused(length: int, index: int, key: bytes) -> None:
    with pytest.raises(ValueError, match="not a ratchet"):
        Ratchet(length, index, key)


def test_its_repr_shows_no_key() -> None:
    made = ratchet()
    assert repr(made) == "Ratchet(length=604800, index=100)"
    assert KEY.hex() not in repr(vars(made).keys())
