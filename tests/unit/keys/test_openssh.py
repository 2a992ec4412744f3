"""OpenSSH's private key files: what ssh-keygen has made is read, what is made here reads back, all else is told why."""

import base64
import re
import sys
from pathlib import Path

import pytest

from openme.keys.ed25519 import ClientPrivateKey, parse_public_key
from openme.keys.openssh import MOST_ROUNDS, ROUNDS, key_file, key_file_untrusted, private_key_untrusted
from openme.keys.ssh_data import BadSshDataError, number, string

FILES = Path(__file__).parents[2] / "fuzz/corpus/key_files"
PLAIN = (FILES / "plain").read_bytes()
SEALED = (FILES / "sealed").read_bytes()
KEY = ClientPrivateKey(b"\x05" * 32)
HEAD, TAIL = b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\n-----END OPENSSH PRIVATE KEY-----\n"


def made(
    cipher: bytes = b"none",
    derivation: bytes = b"none",
    options: bytes = b"",
    keys: int = 1,
    blob: bytes = KEY.public.ssh_blob,
) -> bytes:
    """A file whose clear part says this."""
    body = b"openssh-key-v1\0" + string(cipher) + string(derivation) + string(options) + number(keys) + string(blob)
    return HEAD + base64.b64encode(body + string(b"secret")) + TAIL


def test_a_file_of_ssh_keygens_is_its_public_half_and_its_private_key() -> None:
    head = key_file_untrusted(PLAIN)
    assert head == (parse_public_key((FILES / "public").read_text()), False)
    key = private_key_untrusted(PLAIN, None)
    assert key is not None
    assert key.public == head.public


@pytest.mark.parametrize("name", ["sealed", "sealed-cbc", "sealed-gcm"])
def test_a_sealed_file_opens_by_its_passphrase_alone(name: str) -> None:
    raw = (FILES / name).read_bytes()
    head = key_file_untrusted(raw)
    assert head.is_sealed
    key = private_key_untrusted(raw, b"geheim")
    assert key is not None
    assert key.public == head.public
    assert private_key_untrusted(raw, b"Geheim") is None
    assert private_key_untrusted(raw, b"") is None
    assert private_key_untrusted(bytearray(raw), b"geheim") == key


def test_a_cipher_that_is_not_known_says_how_to_change_it() -> None:
    raw = (FILES / "sealed-chacha").read_bytes()
    with pytest.raises(BadSshDataError, match="ssh-keygen -p -Z aes256-ctr"):
        private_key_untrusted(raw, b"geheim")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rsa", "an RSA key"),
        ("ecdsa", "an ECDSA key"),
        ("pkcs8", "found another kind of private key"),
        ("public", "found a public key: name the file without .pub"),
    ],
)
def test_other_kinds_are_told_by_name(name: str, words: str) -> None:
    with pytest.raises(BadSshDataError, match=words):
        key_file_untrusted((FILES / name).read_bytes())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "expected an OpenSSH private key"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "puttygen"),
        (HEAD, "cut off"),
        (TAIL + HEAD, "cut off"),
        (HEAD + b"!!!" + TAIL, "no base64"),
        (HEAD + TAIL, "too early"),
        (HEAD + base64.b64encode(b"openssh-key-v2\0" + bytes(60)) + TAIL, "does not begin"),
        (made(keys=2), "one key"),
        (made(keys=0), "one key"),
        (made(blob=string(b"ssh-ed25519") + string(bytes(32))), "not a usable Ed25519 public key"),
        (made(blob=KEY.public.ssh_blob + b"x"), "something follows"),
        (made(b"aes256-ctr", b"scrypt"), "sealed in a way"),
        (made(b"aes256-ctr", b"bcrypt", string(bytes(16)) + number(MOST_ROUNDS + 1)), "more than 10000 rounds"),
        (made(b"aes256-ctr", b"bcrypt", string(bytes(16)) + number(2**32 - 1)), "more than 10000 rounds"),
        (made(b"aes256-ctr", b"bcrypt", string(bytes(16)) + number(0)), "rounds"),
        (made(b"aes256-ctr", b"bcrypt"), "too early"),
    ],
)
def test_what_is_no_such_file_is_told_before_anybody_is_asked(raw: bytes, words: str) -> None:
    with pytest.raises(BadSshDataError, match=words):
        key_file_untrusted(raw)


def test_halves_that_do_not_belong_together_are_no_key() -> None:
    body = base64.b64decode(b"".join(PLAIN.splitlines()[1:-1]))
    mine = key_file_untrusted(PLAIN).public.raw
    swapped = HEAD + base64.b64encode(body.replace(mine, KEY.public.raw, 1)) + TAIL
    assert key_file_untrusted(swapped).public == KEY.public
    with pytest.raises(BadSshDataError, match="damaged"):
        private_key_untrusted(swapped, None)


def test_no_key_is_repeated_in_an_error() -> None:
    seed = re.sub(rb"[^A-Za-z0-9+/=]", b"", PLAIN.splitlines()[3]).decode()
    with pytest.raises(BadSshDataError) as caught:
        private_key_untrusted(PLAIN.replace(b"\n", b"\n!", 3), None)
    assert seed not in str(caught.value)


@pytest.mark.parametrize("passphrase", [b"", b"geheim", "pässword".encode(), b"x" * 100])
def test_a_file_that_is_made_here_reads_back(passphrase: bytes) -> None:
    raw = key_file(KEY, passphrase)
    head = key_file_untrusted(raw)
    assert head == (KEY.public, bool(passphrase))
    assert private_key_untrusted(raw, passphrase or None) == KEY
    if passphrase:
        assert KEY.seed not in base64.b64decode(b"".join(raw.splitlines()[1:-1]))
        assert number(ROUNDS) in base64.b64decode(b"".join(raw.splitlines()[1:-1]))[:100]


@pytest.mark.parametrize("missing", ["cryptography", "bcrypt"])
def test_without_the_extra_it_is_an_import_error(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for action in (lambda: private_key_untrusted(PLAIN, None), lambda: key_file(KEY, b"")):
        with pytest.raises(ImportError) as caught:
            action()
        assert caught.value.name == missing
    assert key_file_untrusted(PLAIN).public.raw  # for which it takes none
