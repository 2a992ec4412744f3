"""A profile whose key is in a file: whose it is, who may read it, who is asked, and what is forgotten afterwards."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openme.client import key_file
from openme.client.errors import ClientError, ProfileError, SigningError
from openme.client.identity import open_identity, public_key_of
from openme.client.key_file import load_key, place_of
from openme.keys.ed25519 import ClientPublicKey, parse_public_key
from openme.keys.openssh import MOST_BYTES
from support.driven import never
from support.knocks import ALICE

FILES = Path(__file__).parents[2] / "fuzz/corpus/key_files"
PLAIN = parse_public_key((FILES / "public").read_text())


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], Path]:
    """Copies of key files as ssh-keygen leaves them, 0600."""

    def copy(name: str) -> Path:
        made = tmp_path / name
        made.write_bytes((FILES / name).read_bytes())
        made.chmod(0o600)
        return made

    return copy


class Asked:
    """Says one passphrase after the other."""

    def __init__(self, *said: bytes) -> None:
        self._said = list(said)
        self.paths: list[Path] = []
        self.given: list[bytearray] = []

    def __call__(self, path: Path) -> bytearray:
        self.paths.append(path)
        self.given.append(bytearray(self._said.pop(0)))
        return self.given[-1]


def test_a_file_without_a_passphrase_asks_nobody(files: Callable[[str], Path]) -> None:
    path = files("plain")
    identity = open_identity(f"file:{path}", PLAIN, path.parent, never)
    assert identity.public == PLAIN
    assert len(identity.sign(b"message")) == 64
    assert open_identity(f"file:{path}", None, path.parent, None).public == PLAIN


def test_a_sealed_file_asks_until_it_opens_and_forgets_what_was_said(files: Callable[[str], Path]) -> None:
    path, asked = files("sealed"), Asked(b"", b"wrong", b"geheim")
    key = load_key(path, None, asked)
    assert key.public == public_key_of(f"file:{path}", path.parent)
    assert asked.paths == [path] * 3
    assert [set(said) <= {0} for said in asked.given] == [True] * 3


def test_three_wrong_passphrases_are_enough(files: Callable[[str], Path]) -> None:
    path, asked = files("sealed"), Asked(*[b"wrong"] * 4)
    with pytest.raises(SigningError, match="stays sealed: wrong passphrase"):
        load_key(path, None, asked)
    assert len(asked.given) == 3


def test_a_passphrase_in_bytes_is_the_callers_and_stays(files: Callable[[str], Path]) -> None:
    said = b"geheim"
    assert load_key(files("sealed"), None, lambda _: said).seed
    assert said == bytes.fromhex("67656865696d")


def test_whoever_is_asked_may_end_it(files: Callable[[str], Path]) -> None:
    def declines(_: Path) -> bytes:
        raise SigningError("declined")

    with pytest.raises(SigningError, match="declined"):
        load_key(files("sealed"), None, declines)
    with pytest.raises(SigningError, match="nobody to ask") as caught:
        load_key(files("sealed"), None, None)
    assert "ssh-agent:SHA256" in str(caught.value.hint)


def test_the_public_half_is_told_without_a_passphrase(files: Callable[[str], Path]) -> None:
    assert isinstance(public_key_of(f"file:{files('sealed')}", Path("/")), ClientPublicKey)


def test_a_file_with_another_key_is_told_before_anybody_is_asked(files: Callable[[str], Path]) -> None:
    for name in ("plain", "sealed"):
        with pytest.raises(ProfileError, match="holds another key than the profile's public_key"):
            load_key(files(name), ALICE.public, never)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_may_read_is_refused_with_its_cure(files: Callable[[str], Path], mode: int) -> None:
    for name in ("plain", "sealed"):
        path = files(name)
        path.chmod(mode)
        with pytest.raises(ProfileError, match="expected mode 0600") as caught:
            load_key(path, None, never)
        assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("name", "words"), [("public", "without .pub"), ("rsa", "an RSA key"), ("pkcs8", "another kind")]
)
def test_what_is_no_key_for_knocks_is_told_by_what_it_is(files: Callable[[str], Path], name: str, words: str) -> None:
    path = files(name)
    path.chmod(0o644)  # as a public key is, rightly
    with pytest.raises(ProfileError, match=words) as caught:
        load_key(path, None, never)
    assert caught.value.message.startswith(f"{path}: ")


def test_what_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"-" * (MOST_BYTES + 1))
    for name in ("missing", "", "large"):
        with pytest.raises(ProfileError) as caught:
            load_key(tmp_path / name, None, never)
        assert "\n" not in caught.value.message


def test_without_the_extra_the_cure_is_a_command(files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ProfileError, match="need the Python library cryptography") as caught:
        load_key(files("plain"), None, never)
    assert str(caught.value.hint).startswith(f"{sys.executable} -m pip install 'cryptography[ssh]'")


def test_a_place_is_absolute_at_home_or_beside_the_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    here = Path("/somewhere")
    assert place_of("/k", here) == Path("/k")
    assert place_of("~/.ssh/id", here) == Path("/home/me/.ssh/id")
    assert place_of("keys/id", here) == Path("/somewhere/keys/id")
    with pytest.raises(ProfileError, match="no such home directory"):
        place_of("~nobody-of-that-name/id", here)


def test_what_was_read_of_a_file_is_wiped(files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[bytes] = []

    def wipe(*secrets: bytes | bytearray) -> None:
        wiped.extend(bytes(secret) for secret in secrets)

    monkeypatch.setattr(key_file, "wipe", wipe)
    path = files("plain")
    load_key(path, None, None)
    public_key_of(f"file:{path}", path.parent)
    with pytest.raises(ClientError):
        load_key(path, ALICE.public, None)
    path.chmod(0o644)
    with pytest.raises(ClientError):
        load_key(path, None, None)
    assert wiped == [path.read_bytes()] * 4
