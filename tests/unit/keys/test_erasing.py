"""Secrets are overwritten where they lie."""

import secrets

from openme.keys.erasing import wipe


def test_every_secret_given_is_zeros_afterwards_in_its_own_place() -> None:
    one, two, three = secrets.token_bytes(32), bytearray(secrets.token_bytes(104)), secrets.token_bytes(2)
    same = one
    wipe(one, two, three)
    assert [bytes(secret) for secret in (one, two, three, same)] == [bytes(32), bytes(104), bytes(2), bytes(32)]


def test_nothing_behind_or_before_a_secret_is_touched() -> None:
    neighbours = [secrets.token_bytes(33) for _ in range(300)]
    copies = [bytearray(value) for value in neighbours]
    for secret in neighbours[1::2]:
        wipe(secret)
    assert [bytes(copy) for copy in copies[::2]] == neighbours[::2]
    assert set(neighbours[1::2]) == {bytes(33)}


def test_what_python_shares_is_left_alone() -> None:
    wipe(b"", b"\x07", bytes([200]), bytearray(), bytearray(b"\x01"))
    assert bytes([7]) == b"\x07"
    assert bytes([200])[0] == 200


def test_a_bytearray_that_is_looked_at_elsewhere_is_wiped_too() -> None:
    secret = bytearray(b"secret")
    with memoryview(secret) as view:
        wipe(secret)
        assert bytes(view) == bytes(6)
