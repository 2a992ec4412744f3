"""Client keys: which public keys are refused, both text forms, and secrets that never show."""

import base64
import hashlib

import pytest
from nacl.bindings import crypto_core_ed25519_add

from openme.keys.ed25519 import (
    ClientPrivateKey,
    ClientPublicKey,
    KeyTextError,
    WeakKeyError,
    decode_base64_key,
    parse_private_key,
    parse_public_key,
)
from openme.keys.x25519 import ServerPrivateKey, parse_server_private_key, parse_server_public_key

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
KEY = ClientPrivateKey(hashlib.sha256(b"a client").digest())
SSH_HEAD = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def point_exists(y: int) -> bool:
    """Whether x² = (y² - 1) / (d·y² + 1) has a root."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    return square == 0 or pow(square, (P - 1) // 2, P) == 1


# The points whose order divides 8: y is 1, -1, 0 and the two roots of order 8, each with both signs.
Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
TORSION = {
    "neutral point": encoded(1),
    "order 2": encoded(P - 1),
    "order 4": encoded(0),
    "order 4, other": encoded(0, 1),
    "order 8": encoded(Y8),
    "order 8, other": encoded(Y8, 1),
    "order 8, third": encoded(P - Y8),
    "order 8, fourth": encoded(P - Y8, 1),
}
REFUSED = {
    **TORSION,
    "zero bytes": bytes(32),
    "all ones": b"\xff" * 32,
    "neutral point with a sign, x is 0": encoded(1, 1),
    "order 2 with a sign, x is 0": encoded(P - 1, 1),
    "not on the curve": encoded(next(y for y in range(2, 50) if not point_exists(y))),
    **{f"y = p + {n}": encoded(P + n) for n in range(19)},
    **{f"y = p + {n}, signed": encoded(P + n, 1) for n in range(19)},
    **{
        f"mixed with {name}": crypto_core_ed25519_add(KEY.public.raw, point)
        for name, point in TORSION.items()
        if name != "neutral point"
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_weak_public_key_is_refused(name: str) -> None:
    raw = REFUSED[name]
    with pytest.raises(WeakKeyError):
        ClientPublicKey(raw)
    with pytest.raises(WeakKeyError) as caught:
        parse_public_key(base64.b64encode(raw).decode())
    assert base64.b64encode(raw).decode() not in str(caught.value)
    with pytest.raises(WeakKeyError):
        parse_public_key("ssh-ed25519 " + base64.b64encode(SSH_HEAD + raw).decode())


def test_the_list_has_every_small_point_once() -> None:
    assert len(set(TORSION.values())) == 8
    assert all(point_exists(int.from_bytes(raw, "little") & (1 << 255) - 1) for raw in TORSION.values())


def test_an_ordinary_key_in_either_form_is_the_same_key() -> None:
    line = "ssh-ed25519 " + base64.b64encode(SSH_HEAD + KEY.public.raw).decode()
    for text in (str(KEY.public), f"  {KEY.public}\n", line, f"{line} alice@laptop", f" {line}\talice at home \n"):
        assert parse_public_key(text) == KEY.public


def test_a_line_made_by_openssh_loads() -> None:
    # ssh-keygen -t ed25519, then the 32 bytes at the end of the blob
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + base64.b64encode(SSH_HEAD + KEY.public.raw).decode()[25:]
    assert parse_public_key(line + " c").raw == KEY.public.raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 " + base64.b64encode(KEY.public.raw).decode(),
        "ssh-ed25519 " + base64.b64encode(SSH_HEAD + KEY.public.raw + b"x").decode(),
        "ssh-ed25519 " + base64.b64encode(SSH_HEAD + KEY.public.raw[:-1]).decode(),
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB",
        "ecdsa-sha2-nistp256 AAAA",
        "sk-ssh-ed25519 AAAA",
        "not base64 at all",
        base64.b64encode(KEY.public.raw[:31]).decode(),
        base64.b64encode(KEY.public.raw + b"x").decode(),
        str(KEY.public)[:-1],
        KEY.public.raw.hex(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "kéy",
    ],
)
def test_what_is_no_ed25519_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(KeyTextError) as caught:
        parse_public_key(text)
    for word in text.split():
        assert len(word) < 20 or word not in str(caught.value)


def test_another_type_of_key_is_named() -> None:
    with pytest.raises(KeyTextError, match="ssh-rsa"):
        parse_public_key("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB")


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_a_private_key_of_another_size_is_refused_without_repeating_it(size: int) -> None:
    text = base64.b64encode((b"s3cr3t" * 20)[:size]).decode()
    with pytest.raises(KeyTextError) as caught:
        parse_private_key(text)
    assert not text or text not in str(caught.value)


def test_halves_that_do_not_belong_together_are_refused() -> None:
    other = ClientPrivateKey(b"\x01" * 32)
    text = base64.b64encode(KEY.seed + other.public.raw).decode()
    with pytest.raises(KeyTextError, match="halves") as caught:
        parse_private_key(text)
    assert text not in str(caught.value)


def test_the_cause_of_an_error_is_not_kept() -> None:
    for parse in (parse_private_key, parse_public_key, parse_server_private_key):
        with pytest.raises(KeyTextError) as caught:
            parse("c2VjcmV0 c2VjcmV0!")
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_no_repr_shows_a_private_key() -> None:
    for secret, held in ((KEY.seed, KEY), (b"\x33" * 32, ServerPrivateKey(b"\x33" * 32))):
        shown = repr(held) + str(held)
        for form in (secret.hex(), base64.b64encode(secret).decode()[:20], repr(secret)[2:20]):
            assert form not in shown


@pytest.mark.parametrize(
    ("raw", "fingerprint"),
    [
        ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "21fe31dfa154a261"),
        ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", None),
    ],
)
def test_the_fingerprint_is_eight_bytes_of_sha256(raw: str, fingerprint: str | None) -> None:
    key = ClientPublicKey(bytes.fromhex(raw))
    assert key.fingerprint == hashlib.sha256(bytes.fromhex(raw)).digest()[:8].hex()
    assert fingerprint is None or key.fingerprint == fingerprint


def test_server_keys_have_32_bytes() -> None:
    raw = bytes(range(32))
    text = base64.b64encode(raw).decode()
    assert parse_server_private_key(text).raw == parse_server_public_key(text) == decode_base64_key(text) == raw
    assert parse_server_private_key(text).to_base64() == text
    for wrong in (text[4:], text + "AAAA", "x"):
        with pytest.raises(KeyTextError):
            parse_server_private_key(wrong)
        with pytest.raises(KeyTextError):
            parse_server_public_key(wrong)
