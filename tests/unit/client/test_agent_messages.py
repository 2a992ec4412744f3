"""What is said to an agent is what its protocol has; what it answers is what it should be, or one error."""

from pathlib import Path

import pytest

from openme.client.agent_messages import (
    IDENTITIES,
    bind_request,
    identities_untrusted,
    is_success,
    sign_request,
    signature_untrusted,
)
from openme.keys.ed25519 import parse_public_key
from openme.keys.ssh_data import BadSshDataError, number, string
from support.knocks import ALICE, BOB
from support.ssh_agents import FAILURE, SUCCESS, listing, signature

ANSWERS = Path(__file__).parents[2] / "fuzz/corpus/agent"
KEYS = (ANSWERS / "keys.bin").read_bytes()


def test_the_requests_to_the_byte() -> None:
    """draft-ietf-sshm-ssh-agent, sections 4.4 and 4.6."""
    assert bytes.fromhex("00000001 0b") == IDENTITIES
    blob = bytes.fromhex("0000000b") + b"ssh-ed25519" + bytes.fromhex("00000020") + ALICE.public.raw
    body = b"\x0d" + bytes.fromhex("00000033") + blob + bytes.fromhex("00000003") + b"abc" + bytes(4)
    assert sign_request(ALICE.public, b"abc") == len(body).to_bytes(4, "big") + body
    bound = bind_request(BOB, b"s" * 32)
    assert bound.startswith(len(bound[4:]).to_bytes(4, "big") + b"\x1b" + string(b"session-bind@openssh.com"))
    assert bound.endswith(string(string(b"ssh-ed25519") + string(BOB.sign(b"s" * 32))) + b"\0")


def test_a_real_agents_keys_are_told_by_type_and_by_the_fingerprints_that_ssh_add_shows() -> None:
    mine = parse_public_key((ANSWERS.parent / "key_files/public").read_text())
    found = identities_untrusted(KEYS)
    assert [key.kind for key in found] == [
        *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"),
        "sk-ssh-ed25519@openssh.com",
    ]
    assert (found[0].public, found[0].fingerprint, found[0].comment) == (
        mine,
        mine.ssh_fingerprint,
        "someone@example.org",
    )
    assert found[3].fingerprint == found[4].fingerprint  # a certificate's is its key's
    assert [key.public is None for key in found] == [False, True, True, False, True, True]


def test_an_agent_without_keys_has_none() -> None:
    assert identities_untrusted(listing()) == ()


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", FAILURE, SUCCESS, KEYS[:-1], KEYS + b"x", b"\x0c", b"\x0c" + number(2**32 - 1)),
        listing((b"", "")),
        listing((string(b"ssh-ed25519") + string(b"short"), "")),
        listing((string(b"ssh-ed25519") + string(bytes(32)), "")),  # no point of prime order
        listing((ALICE.public.ssh_blob + b"x", "")),
    ],
)
def test_any_other_answer_names_no_key(answer: bytes) -> None:
    with pytest.raises(BadSshDataError):
        identities_untrusted(answer)


def test_a_comment_that_is_no_text_is_a_comment() -> None:
    answer = b"\x0c" + number(1) + string(ALICE.public.ssh_blob) + string(b"\xff\x1b[2J")
    assert identities_untrusted(answer)[0].comment == "\ufffd\x1b[2J"


def test_a_signature_is_64_bytes_of_an_ed25519_key_or_refused() -> None:
    assert signature_untrusted(signature(b"s" * 64)) == b"s" * 64
    assert signature_untrusted(FAILURE) is None
    assert len(signature_untrusted((ANSWERS / "signature.bin").read_bytes()) or b"") == 64


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", SUCCESS, b"\x1c", FAILURE + b"x", KEYS, signature(b"s" * 63), signature(b"s" * 65)),
        signature(b"s" * 64) + b"x",
        b"\x0e" + string(string(b"ssh-rsa") + string(b"s" * 64)),
        b"\x0e" + string(string(b"ssh-ed25519") + string(b"s" * 64) + b"\0\0\0\0\1"),
    ],
)
def test_any_other_answer_is_no_signature(answer: bytes) -> None:
    with pytest.raises(BadSshDataError):
        signature_untrusted(answer)


def test_success_is_one_byte() -> None:
    assert [is_success(answer) for answer in (SUCCESS, FAILURE, SUCCESS * 2, b"")] == [True, False, False, False]
