"""A stranger's bytes, and a hostile listener's: whatever they are, the outcome is a reason or a judgement."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from openme.seam.messages import FRAME_SIZE, unpack_frame_untrusted
from openme.wire.knock import BadPacket
from support import independent_v2
from support.fuzzing import SEED, mutated, rounds
from support.knocks import EPOCH, HOME, NOW, Judgement, frame, keeper, listener, packet, packet_v2, ratchet

HERE = Path(__file__).parent / "corpus"
DATAGRAMS = sorted((HERE / "datagrams").glob("*.bin"))
FRAMES = sorted((HERE / "frames").glob("*.bin"))
ROUNDS = rounds(400)
REASONS = {"length", "filter", "version", "low_order", "decrypt"}


def test_the_corpus_is_there_and_holds_what_is_good() -> None:
    assert len(DATAGRAMS) >= 5
    assert len(FRAMES) >= 3
    good = [path for path in DATAGRAMS if outcome_of_datagram(path.read_bytes()) == "framed"]
    assert good, "no datagram of the corpus is a knock"
    assert any(judged(path.read_bytes()).reason == "accepted" for path in FRAMES)
    assert (HERE / "datagrams" / "knock.bin").read_bytes() == packet()
    assert (HERE / "frames" / "knock.bin").read_bytes() == frame(packet())
    assert (HERE / "datagrams" / "v2-knock.bin").read_bytes() == packet_v2()
    assert (HERE / "frames" / "v2-knock.bin").read_bytes() == frame(packet_v2())
    assert sum(path.name.startswith("v2-") for path in DATAGRAMS) >= 5
    assert outcome_of_datagram((HERE / "datagrams" / "v2-mac-right-garbage.bin").read_bytes()) == "decrypt"
    assert outcome_of_datagram((HERE / "datagrams" / "v2-mac-right-low-order.bin").read_bytes()) == "low_order"


def outcome_of_datagram(raw: bytes) -> str:
    try:
        made, _ = listener().frame_untrusted(raw, HOME)
    except BadPacket as bad:
        return bad.reason
    assert made.packet == raw
    return "framed"


def judged(raw: bytes) -> Judgement:
    return keeper().judge_untrusted(raw, NOW)


def without_filter(raw: bytes) -> bytes:
    return raw[:32] + raw[40:]


def survives(files: list[Path], act: Callable[[bytes], None], name: str) -> None:
    for path in files:
        chance = random.Random(f"{SEED}-{name}-{path.name}")
        for round_number in range(ROUNDS):
            raw = mutated(path.read_bytes(), chance)
            try:
                act(raw)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
                pytest.fail(f"OPENME_FUZZ_SEED={SEED}, {path.name}, round {round_number}: {error!r}\n{raw.hex()}")


def test_a_datagram_is_framed_or_refused_by_name() -> None:
    ears = listener()

    def act(raw: bytes) -> None:
        try:
            assert len(ears.frame_untrusted(raw, HOME)[0].pack()) == FRAME_SIZE
        except BadPacket as bad:
            assert bad.reason in REASONS  # noqa: PT017  # any other error is the finding

    survives(DATAGRAMS, act, "datagram")


def test_a_datagram_with_a_right_filter_is_framed_or_refused_by_name() -> None:
    """What somebody can send who holds E_i: only with a right M does the rest of a mutated packet get a look."""
    ears, public = listener(), ratchet().public_keys(EPOCH, 1)[0]
    known = {path.read_bytes() for path in DATAGRAMS}

    def act(raw: bytes) -> None:
        raw = raw.ljust(165, b"\0")[:165]
        raw = raw[:32] + independent_v2.filter_mac(public, raw) + raw[40:]
        try:
            assert ears.frame_untrusted(raw, HOME)[0].version == 2
            assert raw in known
        except BadPacket as bad:
            assert bad.reason in {"low_order", "decrypt", "version"}  # noqa: PT017  # any other error is the finding

    survives([path for path in DATAGRAMS if path.name.startswith("v2-")], act, "right filter")


def test_a_frame_is_read_or_refused_by_name() -> None:
    def act(raw: bytes) -> None:
        try:
            assert len(unpack_frame_untrusted(raw).packet) == 165
        except BadPacket as bad:
            assert bad.reason == "frame"  # noqa: PT017  # any other error is the finding

    survives(FRAMES, act, "frame")


def test_a_judge_raises_nothing_and_grants_only_what_was_signed() -> None:
    judge = keeper()
    targets = (None, "2001:db8::7", "127.0.0.1")
    known = {packet(target=target) for target in targets}
    known_v2 = {without_filter(packet_v2(target=target)) for target in targets}

    def act(raw: bytes) -> None:
        outcome = judge.judge_untrusted(raw, NOW)
        assert outcome.reason
        if outcome.client is not None:
            # The keeper does not look at M, which proves nothing.
            assert raw[69:] in known or without_filter(raw[69:]) in known_v2
        assert (outcome.grant is not None) == (outcome.reason == "accepted")

    survives(FRAMES, act, "judge")


@pytest.mark.parametrize("size", [0, 1, 164, 165, 166, 233, 234, 235, 65535])
def test_noise_of_any_size_is_refused(size: int) -> None:
    chance = random.Random(f"{SEED}-{size}")
    judge, ears = keeper(), listener()
    for _ in range(40):
        raw = chance.randbytes(size)
        assert judge.judge_untrusted(raw, NOW).grant is None
        with pytest.raises(BadPacket):
            ears.frame_untrusted(raw, HOME)
