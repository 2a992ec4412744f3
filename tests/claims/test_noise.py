"""`noise`: version 1 does NOT have it. One packet is enough to tell a knock from random bytes, and this shows how.

Nothing here needs a key. Version 2, whose packets are to look like random bytes, is not there yet.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from nacl.bindings import crypto_core_ed25519_is_valid_point

from openme.client.knock import build
from support.recorded import Recorder, recorder

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_A = 486662
SAMPLES = 500

Sign = Callable[[bytes], bool]


def is_curve25519(raw: bytes) -> bool:
    """Whether these 32 bytes are the x-coordinate of a point: half of all strings are not."""
    u = int.from_bytes(raw, "little")
    value = (u * u * u + CURVE_A * u * u + u) % PRIME
    return u < PRIME and (value == 0 or pow(value, (PRIME - 1) // 2, PRIME) == 1)


# Each as in spec wire-v1.md "Not noise", with the share of random strings that show it too.
SIGNS: dict[str, tuple[Sign, float]] = {
    "byte 0 is 1": (lambda packet: packet[0] == 1, 1 / 256),
    "the top bit of byte 32 is 0": (lambda packet: packet[32] < 0x80, 1 / 2),
    "bytes 1 to 32 are a point's x-coordinate": (lambda packet: is_curve25519(packet[1:33]), 1 / 4),
    "the signature begins with a point of prime order": (
        lambda packet: crypto_core_ed25519_is_valid_point(packet[101:133]),
        1 / 16,
    ),
    "the signature ends below the group's order": (
        lambda packet: int.from_bytes(packet[133:], "little") < ORDER,
        1 / 16,
    ),
}


def is_a_knock(packet: bytes) -> bool:
    return len(packet) == 165 and all(sign(packet) for sign, _ in SIGNS.values())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("noise"))
    with closing(made.ear):
        yield made


def test_version_1_is_not_noise_one_packet_is_enough(path: Recorder) -> None:
    assert is_a_knock(path.knock("alice"))
    assert is_a_knock(path.knock("bob", "--ip", "192.0.2.7"))


def test_version_1_is_not_noise_every_packet_shows_every_sign(path: Recorder) -> None:
    profile = path.profile("alice")
    assert all(is_a_knock(build(profile, None, now).datagram) for now in range(SAMPLES))


def test_random_bytes_do_not_show_them() -> None:
    """The other half of the certainty: what is called a knock is one."""
    chance = random.Random(1)
    strings = [chance.randbytes(165) for _ in range(4 * SAMPLES)]
    assert not any(map(is_a_knock, strings))
    for name, (sign, share) in SIGNS.items():
        assert sum(map(sign, strings)) / len(strings) == pytest.approx(share, rel=0.2, abs=0.01), name


def test_the_length_alone_gives_it_away(path: Recorder) -> None:
    """In both versions every knock has the same length; that is the price of having no length to read from it."""
    assert {len(path.knock("alice")), len(path.knock("bob", "--ip", "2001:db8::7"))} == {165}


def test_the_recorder_writes_to_its_own_folder(path: Recorder) -> None:
    assert Path(path.config.state_dir).is_relative_to(path.folder)
