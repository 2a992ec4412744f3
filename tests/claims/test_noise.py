"""`noise`: version 2 has it, version 1 does not. Nothing here needs a key.

Packets of version 2 look like random bytes in everything that is looked at (tests/support/noise.py says what chance
allows), and each look finds the flaw that it is there for. One packet of version 1 is enough to tell it.

`bench/studies/noise.py` does the same with 100,000 packets and draws it; OPENME_NOISE_PACKETS does it here.
"""

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import monocypher
import pytest
from nacl.bindings import crypto_core_ed25519_is_valid_point

from openme.keys.x25519 import public_key_of
from openme.wire import v2
from support import noise
from support.recorded import Recorder, recorder

PACKETS = int(os.environ.get("OPENME_NOISE_PACKETS", "10000"))
FEW = 4_000  # enough for the controls, whose flaws are gross
SIZE = 165

pytestmark = pytest.mark.timeout(max(120, PACKETS // 100))

Sign = Callable[[bytes], bool]


def is_curve25519(raw: bytes) -> bool:
    """Whether these 32 bytes are the x-coordinate of a point: half of all numbers below the prime are not."""
    u = int.from_bytes(raw, "little")
    return u < noise.PRIME and noise.is_on_curve(u)


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
        lambda packet: int.from_bytes(packet[133:], "little") < noise.ORDER,
        1 / 16,
    ),
}


def is_a_v1_knock(packet: bytes) -> bool:
    return len(packet) == SIZE and all(sign(packet) for sign, _ in SIGNS.values())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("noise"))
    with closing(made.ear):
        yield made


@pytest.fixture(scope="module")
def v1_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("noise-v1"), "--v1")
    with closing(made.ear):
        yield made


@pytest.fixture(scope="module")
def packets(path: Recorder) -> list[bytes]:
    """One client, one target, one moment: if anything shows through, it shows most where packets differ least."""
    return path.knocks("alice", PACKETS, time.time_ns())


@pytest.fixture(scope="module")
def v1_packets(v1_path: Recorder) -> list[bytes]:
    return v1_path.knocks("alice", FEW, time.time_ns())


def sample(look: str, packets: Sequence[bytes]) -> Sequence[bytes]:
    """All packets, or a tenth where each takes long arithmetic with whole numbers."""
    return packets[: len(packets) // 10] if look in {"points", "coordinates"} else packets


@pytest.mark.parametrize("look", noise.LOOKS)
def test_version_2_looks_like_random_bytes(packets: list[bytes], look: str) -> None:
    found = noise.LOOKS[look](sample(look, packets))
    assert not found.tells, found


def test_a_classifier_learns_nothing_about_version_2(packets: list[bytes]) -> None:
    accuracy, chance = noise.learned(packets, noise.random_strings(PACKETS))
    assert accuracy <= chance


def test_the_two_top_bits_of_r_are_random(packets: list[bytes]) -> None:
    """The map ignores them, so that nothing but the generator makes them so."""
    found = Counter(packet[31] >> 6 for packet in packets)
    assert all(abs(found[bits] / len(packets) - 1 / 4) <= noise.slack(len(packets), 4) for bits in range(4))


def test_r_becomes_a_point_of_the_curve_and_so_does_every_string(packets: list[bytes]) -> None:
    """Never one of the twist: that R maps to the curve tells nothing. What the points are is the look `points`."""
    for strings in (packets[: FEW // 4], noise.random_strings(FEW // 4)):
        assert all(noise.is_on_curve(noise.point_of(string)) for string in strings)


def test_version_2_shows_the_signs_of_version_1_as_often_as_random_bytes_do(packets: list[bytes]) -> None:
    for name, (sign, share) in SIGNS.items():
        found = sum(map(sign, packets[:FEW])) / len(packets[:FEW])
        assert abs(found - share) <= noise.slack(len(packets[:FEW]), len(SIGNS)), name


def test_who_holds_e_i_tells_a_knock_from_noise(path: Recorder) -> None:
    """The limit of the claim (spec wire-v2.md "What version 2 does not promise"): E_i is not for publishing."""
    known = path.profile("bob").epoch_keys
    assert known is not None
    filters = [v2.filter_key(key) for key in known.keys]
    knock = path.knock("alice")
    assert sum(v2.passes_filter_untrusted(knock, key) for key in filters) == 1
    assert not any(v2.passes_filter_untrusted(string, filters[0]) for string in noise.random_strings(FEW))


def top_bits_cleared(packet: bytes) -> bytes:
    """A representative as it is, below half the prime."""
    return packet[:31] + bytes([packet[31] & 0x3F]) + packet[32:]


def key_in_the_clear(packet: bytes) -> bytes:
    """A public key without Elligator, its top bit filled by chance."""
    key = public_key_of(secrets.token_bytes(32))
    return key[:31] + bytes([key[31] | packet[31] & 0x80]) + packet[32:]


def ordinary_key(packet: bytes) -> bytes:
    """An X25519 key put through the inverse map: its point is in the prime-order subgroup."""
    while True:
        try:
            representative = monocypher.elligator_rev(public_key_of(secrets.token_bytes(32)))
        except ValueError:  # half of all points are not in the map's image
            continue
        return bytes(representative) + packet[32:]


def mac_repeats_r(packet: bytes) -> bytes:
    """Eight bytes stand there twice."""
    return packet[:32] + packet[:8] + packet[40:]


def three_bits_depend(packet: bytes) -> bytes:
    """Each bit of byte 40, and each two, look random; of three the sum is always even."""
    value = packet[40] & 0xF8 | (0, 3, 5, 6)[packet[40] & 3]
    return packet[:40] + bytes([value]) + packet[41:]


FLAWS: dict[str, Callable[[bytes], bytes]] = {
    "bits": top_bits_cleared,
    "pairs": mac_repeats_r,
    "byte values": three_bits_depend,
    "coordinates": key_in_the_clear,
    "points": ordinary_key,
}


@pytest.mark.parametrize("look", FLAWS)
def test_a_look_finds_its_flaw(packets: list[bytes], look: str) -> None:
    flawed = [FLAWS[look](packet) for packet in sample(look, packets[:FEW])]
    assert noise.LOOKS[look](flawed).tells


def test_one_ephemeral_key_that_is_used_twice_is_found(packets: list[bytes]) -> None:
    again = packets[0][:32] + packets[-1][32:]
    assert noise.repeats([*packets, again]).tells


@pytest.mark.parametrize("look", noise.LOOKS)
def test_random_bytes_pass_every_look(look: str) -> None:
    """What is expected of them is right, the share of each low-order component among their points included."""
    chance = random.Random(1)
    assert not noise.LOOKS[look](sample(look, [chance.randbytes(SIZE) for _ in range(FEW)])).tells


def test_version_1_is_not_noise_one_packet_is_enough(v1_path: Recorder) -> None:
    assert is_a_v1_knock(v1_path.knock("alice"))
    assert is_a_v1_knock(v1_path.knock("bob", "--ip", "192.0.2.7"))


def test_version_1_is_not_noise_every_packet_shows_every_sign(v1_packets: list[bytes]) -> None:
    assert all(map(is_a_v1_knock, v1_packets))


def test_random_bytes_do_not_show_them() -> None:
    """The other half of the certainty: what is called a knock is one."""
    chance = random.Random(1)
    strings = [chance.randbytes(SIZE) for _ in range(2000)]
    assert not any(map(is_a_v1_knock, strings))
    for name, (sign, share) in SIGNS.items():
        assert sum(map(sign, strings)) / len(strings) == pytest.approx(share, rel=0.2, abs=0.01), name


def test_the_same_classifier_tells_version_1_with_certainty(v1_packets: list[bytes]) -> None:
    """It learns the thirteen bits that never change; one random string in 8,192 has them all and deceives it."""
    half = len(v1_packets) // 2
    classifier = noise.Classifier(v1_packets[:half], noise.random_strings(half))
    assert classifier.accuracy(v1_packets[half:], noise.random_strings(5 * FEW)) > 0.999


@pytest.mark.parametrize("look", ["bits", "pairs", "byte values"])
def test_the_same_looks_tell_version_1(v1_packets: list[bytes], look: str) -> None:
    assert noise.LOOKS[look](v1_packets).tells


def test_the_length_alone_gives_it_away(path: Recorder, v1_path: Recorder) -> None:
    """In both versions every knock has the same length; that is the price of having no length to read from it."""
    for made in (path, v1_path):
        assert {len(made.knock("alice")), len(made.knock("bob", "--ip", "2001:db8::7"))} == {SIZE}


def test_the_recorder_writes_to_its_own_folder(path: Recorder) -> None:
    assert Path(path.config.state_dir).is_relative_to(path.folder)
