"""Receipts, the ratchet file and what a client keeps: whatever the bytes are, read as they were meant or not at all."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from openme.client.errors import KeysRefusedError
from openme.client.known import HORIZON, Known
from openme.config.profile_model import ClientConfig, EpochKeys, Profile
from openme.errors import OpenmeError
from openme.keeper.ratchet_file import FILE_NAME, read_ratchet
from openme.wire.base import ReceiptKeys
from openme.wire.knock import BadPacket
from openme.wire.receipt import EpochKeyList, Receipt, open_receipt_untrusted
from support.fuzzing import SEED, mutated, rounds
from support.knocks import ALICE, EPOCH, SERVER, WEEK, ratchet

CORPUS = Path(__file__).parent / "corpus"
RECEIPTS = sorted((CORPUS / "receipts").glob("*.json"))
RATCHETS = sorted((CORPUS / "ratchets").glob("*.bin"))
KNOWN = sorted((CORPUS / "known").glob("*.json"))
KEYS = ReceiptKeys(b"i" * 16, b"k" * 32, b"n" * 12)
EPOCH_KEYS = ratchet().public_keys(EPOCH, 60)
HOME = Profile(
    *("home", "host.example", SERVER.public),
    private_key=ALICE,
    public_key=ALICE.public,
    epoch_keys=EpochKeys(WEEK, EPOCH, EPOCH_KEYS[:2]),
)


def survives(files: list[Path], short: int, act: Callable[[bytes], None]) -> None:
    for path in files:
        chance = random.Random(f"{SEED}-{path.parent.name}-{path.name}")
        for round_number in range(rounds(short)):
            raw = mutated(path.read_bytes(), chance)
            try:
                act(raw)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
                pytest.fail(f"OPENME_FUZZ_SEED={SEED}, {path.name}, round {round_number}: {error!r}\n{raw!r}")


def opened(text: bytes) -> Receipt:
    sealed = crypto_aead_chacha20poly1305_ietf_encrypt(text, KEYS.id, KEYS.nonce, KEYS.key)
    return open_receipt_untrusted(sealed, KEYS)


def test_the_corpora_are_there_and_hold_what_is_good(tmp_path: Path) -> None:
    assert len(RECEIPTS) >= 4
    assert len(RATCHETS) >= 3
    assert len(KNOWN) >= 3
    full = opened((CORPUS / "receipts" / "epoch-keys.json").read_bytes())
    assert full.epoch_keys == EpochKeyList(EPOCH, EPOCH_KEYS[:5])
    (tmp_path / FILE_NAME).touch(0o600)
    (tmp_path / FILE_NAME).write_bytes((CORPUS / "ratchets" / "whole.bin").read_bytes())
    made = read_ratchet(tmp_path)
    assert made is not None
    assert made.public_keys(EPOCH, 60) == EPOCH_KEYS
    mine, keys, knock = beside(tmp_path)
    keys.write_bytes((CORPUS / "known" / "keys.json").read_bytes())
    knock.write_bytes((CORPUS / "known" / "knock.json").read_bytes())
    assert len(mine.keys(HOME)) == 5
    assert len(mine.last(HOME)) == 2


def beside(tmp_path: Path) -> tuple[Known, Path, Path]:
    """What is known of HOME, and the paths of its keys and of its last knock."""
    mine = Known(ClientConfig(tmp_path / "config.yaml", {"home": HOME}))
    mine.remember(HOME, [])
    mine.add(HOME, EPOCH, EpochKeyList(EPOCH, EPOCH_KEYS[:3]))
    directory = tmp_path / "config.yaml.known"
    (keys,), (knock,) = directory.glob("*.keys.json"), directory.glob("*.knock.json")
    return mine, keys, knock


def test_an_answer_is_a_receipt_or_none() -> None:
    def sealed(raw: bytes) -> None:
        try:
            receipt = opened(raw)
        except BadPacket as bad:
            assert bad.reason == "receipt"  # noqa: PT017  # any other error is the finding
            return
        assert all(text.isprintable() for text in (receipt.client, str(receipt.ip), *receipt.ports))
        assert 0 <= receipt.expires_at < 2**37

    def bare(raw: bytes) -> None:
        with pytest.raises(BadPacket):
            open_receipt_untrusted(raw, KEYS)

    survives(RECEIPTS, 1500, sealed)
    survives(RECEIPTS, 100, bare)


def test_a_ratchet_file_is_a_ratchet_or_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.touch(0o600)
    whole = (CORPUS / "ratchets" / "whole.bin").read_bytes()

    def act(raw: bytes) -> None:
        path.write_bytes(raw)
        try:
            made = read_ratchet(tmp_path)
        except OpenmeError:
            return
        assert made is not None
        assert raw == whole

    survives(RATCHETS, 250, act)


def test_what_a_client_keeps_is_read_or_passed_over(tmp_path: Path) -> None:
    mine, keys, knock = beside(tmp_path)

    def act(raw: bytes) -> None:
        keys.write_bytes(raw)
        knock.write_bytes(raw)
        found = mine.keys(HOME)
        assert all(len(key) == 32 for key in found.values())
        assert [found[EPOCH + n] for n in (0, 1)] == list(EPOCH_KEYS[:2])
        assert sorted(found) == list(range(EPOCH, EPOCH + len(found)))
        for past in mine.last(HOME):
            assert (len(past.receipt.id), len(past.receipt.key), len(past.receipt.nonce)) == (16, 32, 12)

    survives(KNOWN, 150, act)


def test_keys_that_a_receipt_offers_replace_none(tmp_path: Path) -> None:
    mine, _, _ = beside(tmp_path)
    before = dict(mine.keys(HOME))
    chance = random.Random(f"{SEED}-offers")
    for _ in range(rounds(200)):
        first = EPOCH + chance.randrange(-70, 70)
        pool = [*EPOCH_KEYS, chance.randbytes(32), bytes(32)]
        offered = tuple(chance.choice(pool) for _ in range(chance.randrange(80)))
        with suppress(KeysRefusedError):
            mine.add(HOME, EPOCH + chance.randrange(-3, 10), EpochKeyList(first, offered))
        after = dict(mine.keys(HOME))
        assert before.items() <= after.items()
        assert sorted(after) == list(range(EPOCH, EPOCH + len(after)))
        assert max(after) < EPOCH + 10 + HORIZON
        before = after
