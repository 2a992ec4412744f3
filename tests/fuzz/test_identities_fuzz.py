"""What an agent says, and what stands in a key file: whatever the bytes are, a result or the one error, and soon."""

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from openme.client.agent_messages import identities_untrusted, signature_untrusted
from openme.keys import openssh
from openme.keys.ed25519 import ClientPublicKey
from openme.keys.openssh import key_file_untrusted, private_key_untrusted
from openme.keys.ssh_data import BadSshDataError
from support.fuzzing import SEED, mutated, rounds

HERE = Path(__file__).parent / "corpus"
ANSWERS = sorted((HERE / "agent").glob("*.bin"))
KEY_FILES = sorted(path for path in (HERE / "key_files").iterdir())
HEAD, TAIL = b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\n-----END OPENSSH PRIVATE KEY-----\n"


def survives(path: Path, act: Callable[[bytes], object], times: int, spoil: Callable[[bytes], bytes]) -> int:
    """How many of the mutated contents were taken."""
    chance = random.Random(f"{SEED}-identities-{path.name}")
    taken = 0
    for round_number in range(times):
        raw = mutated(spoil(path.read_bytes()), chance)
        try:
            act(raw)
            taken += 1
        except BadSshDataError as error:
            assert "\n" not in str(error)  # noqa: PT017  # any other error is the finding
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
            pytest.fail(f"OPENME_FUZZ_SEED={SEED}, {path.name}, round {round_number}: {error!r}\n{raw.hex()}")
    return taken


def test_the_corpus_is_there_and_holds_what_is_good() -> None:
    assert len(ANSWERS) >= 5
    assert len(identities_untrusted((HERE / "agent/keys.bin").read_bytes())) == 6
    assert signature_untrusted((HERE / "agent/signature.bin").read_bytes())
    assert len(KEY_FILES) >= 8
    assert private_key_untrusted((HERE / "key_files/plain").read_bytes(), None)
    assert private_key_untrusted((HERE / "key_files/sealed").read_bytes(), b"geheim")


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.name)
def test_an_agents_answer_is_keys_or_one_error(path: Path) -> None:
    def act(raw: bytes) -> None:
        for key in identities_untrusted(raw):
            assert key.public is None or isinstance(key.public, ClientPublicKey)
            assert key.fingerprint.startswith("SHA256:")

    survives(path, act, rounds(400), bytes)


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.name)
def test_an_agents_answer_is_a_signature_a_refusal_or_one_error(path: Path) -> None:
    def act(raw: bytes) -> None:
        assert len(signature_untrusted(raw) or bytes(64)) == 64

    survives(path, act, rounds(400), bytes)


@pytest.mark.parametrize("path", KEY_FILES, ids=lambda path: path.name)
def test_any_text_is_a_key_file_or_one_error(path: Path) -> None:
    survives(path, key_file_untrusted, rounds(400), bytes)


@pytest.mark.parametrize("path", KEY_FILES, ids=lambda path: path.name)
def test_any_content_in_the_right_frame_is_a_key_or_one_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mutated is what the lines hold, so that it is looked at; the passphrase is right, or there is none."""
    monkeypatch.setattr(openssh, "MOST_ROUNDS", 16)  # ten thousand of them take as long as they should

    def content(raw: bytes) -> bytes:
        return base64.b64decode(b"".join(raw.splitlines()[1:-1])) if raw.startswith(HEAD) else raw

    def act(raw: bytes) -> None:
        framed = HEAD + base64.b64encode(raw) + TAIL
        key = private_key_untrusted(framed, b"geheim")
        assert key is None or key.public == key_file_untrusted(framed).public

    survives(path, act, rounds(150), content)
