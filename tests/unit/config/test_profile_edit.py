"""Edits of the client's file: a profile more, or a key moved out; every other byte as it was, or nothing at all."""

import os
import random
from functools import partial
from pathlib import Path

import pytest

from openme.config.faults import ConfigError
from openme.config.profile import load_client_config, parse_client_config
from openme.config.profile_edit import add_profile, move_key, with_identity, with_profile
from openme.config.profile_model import KeyPair
from openme.keys.ed25519 import ClientPrivateKey
from support.fuzzing import SEED, rounds

FILES = Path(__file__).parent / "files"
PATH = Path("c.yaml")
KEY, OTHER = ClientPrivateKey(b"\x05" * 32), ClientPrivateKey(b"\x06" * 32)
FIELDS = {"public_key": str(KEY.public), "identity": "file:/home/me/key with: signs # and all"}
NEW = KeyPair("new", None, KEY.public, FIELDS["identity"], 0)
BASE = f"profiles:\n  home:  # mine\n    private_key: {KEY.to_base64()}  # keep\n    public_key: {KEY.public}\n"


def added(text: str) -> KeyPair:
    """The new profile, of which it is seen that everything before it is as it was."""
    edited = with_profile(text, PATH, "new", FIELDS)
    found = parse_client_config(edited, PATH).waiting["new"]
    assert found.line == edited[: edited.index("new:")].count("\n") + 1
    return KeyPair(found.name, found.private_key, found.public_key, found.identity, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "# mine\n", "\n\n", "profiles:\n", "profiles: {}\n", "profiles: null # none\n", "profiles:", "\ufeff"),
        *(BASE, BASE.rstrip("\n"), f"\ufeff{BASE}", BASE.replace("\n", "\r\n"), f"{BASE}# the end\n"),
        *(BASE.replace("\n  ", "\n      ").replace("      home", "   home"), f"{BASE}    post_knock: |\n      a\n\n"),
        (FILES / "client.yaml").read_text(),
    ],
)
def test_a_profile_more_stands_behind_the_others(text: str) -> None:
    assert added(text) == NEW
    edited = with_profile(text, PATH, "new", FIELDS)
    if parse_if(text):
        assert edited.startswith(text.rstrip("\r\n"))
    assert ("\r" in edited) == ("\r" in text)
    assert "\n" not in edited.replace("\r\n", "") or "\r" not in edited
    assert edited.startswith("\ufeff") == text.startswith("\ufeff")


def parse_if(text: str) -> bool:
    """Whether there is a profile already."""
    try:
        config = parse_client_config(text, PATH)
    except ConfigError:
        return False
    return bool(config.profiles or config.waiting)


@pytest.mark.parametrize(
    "text",
    [
        f"profiles: {{home: {{private_key: {KEY.to_base64()}}}}}\n",
        f"{{profiles: {{home: {{private_key: {KEY.to_base64()}}}}}}}\n",
        f"{BASE}...\n",
        f"---\n{BASE}---\n",
        f"a: &a\n  home: {{private_key: {KEY.to_base64()}}}\nprofiles: *a\n",
    ],
)
def test_an_unusual_notation_is_refused_and_not_damaged(text: str) -> None:
    with pytest.raises(ConfigError):
        with_profile(text, PATH, "new", FIELDS)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:2: profiles\.home: this name is taken"):
        with_profile(BASE, PATH, "home", FIELDS)


@pytest.mark.parametrize("name", ["4", "null", "a: b", "müller", "#x"])
def test_any_printable_name_is_that_name(name: str) -> None:
    assert list(parse_client_config(with_profile(BASE, PATH, name, FIELDS), PATH).waiting) == ["home", name]


def test_a_key_that_moves_leaves_everything_else() -> None:
    edited = with_identity(BASE, PATH, "home", "file:/k")
    assert edited == BASE.replace(f"private_key: {KEY.to_base64()}", 'identity: "file:/k"')
    without = BASE.replace(f"    public_key: {KEY.public}\n", "").replace("\n", "\r\n")
    edited = with_identity(without, PATH, "home", "file:/k")
    moved = f'identity: "file:/k"\r\n    public_key: {KEY.public}'
    assert edited == without.replace(f"private_key: {KEY.to_base64()}", moved)
    assert KEY.to_base64() not in edited


def test_of_several_profiles_the_one_that_is_meant_changes() -> None:
    text = f"{BASE}  other:\n    private_key: {OTHER.to_base64()}\n"
    config = parse_client_config(with_identity(text, PATH, "other", "file:/k"), PATH)
    assert config.waiting["home"].private_key == KEY
    assert (config.waiting["other"].private_key, config.waiting["other"].public_key) == (None, OTHER.public)


@pytest.mark.parametrize(
    "text",
    [
        f"profiles:\n  home: {{private_key: {KEY.to_base64()}}}\n",
        f"profiles:\n  a: &a\n    private_key: {KEY.to_base64()}\n  home:\n    <<: *a\n    public_key: {KEY.public}\n",
        f"profiles:\n  home:\n    private_key:\n      {KEY.to_base64()}\n",
        f'profiles:\n  home:\n    private_key: "{KEY.to_base64()[:40]}\\\n      {KEY.to_base64()[40:]}"\n',
        f"profiles:\n  home: &a\n    private_key: &k {KEY.to_base64()}\n  b:\n    private_key: *k\n",
    ],
)
def test_a_key_in_an_unusual_notation_does_not_move(text: str) -> None:
    assert parse_client_config(text, PATH).waiting["home"].private_key == KEY
    with pytest.raises(ConfigError, match="cannot be edited safely"):
        with_identity(text, PATH, "home", "file:/k")


def test_what_has_no_key_has_none_to_move() -> None:
    for name in ("away", "new"):
        with pytest.raises(ConfigError, match="has no private_key"):
            with_identity(with_profile(BASE, PATH, "new", FIELDS), PATH, name, "file:/k")


def test_edits_of_any_file_are_what_was_wanted_or_one_error() -> None:
    chance = random.Random(f"{SEED}-profile-edit")
    pieces = ["\n", "  ", "#", ":", "{", "}", "&a ", "*a", "- ", "'", '"', "|", "home", "\r\n", "profiles:", "<<: "]
    done = 0
    for _ in range(rounds(400)):
        text = BASE
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(pieces) + text[at + chance.choice([0, 0, 0, 1]) :]
        for change in (partial(with_profile, fields=FIELDS), partial(with_identity, identity="file:/k")):
            try:
                parse_client_config(change(text, PATH, "new" if "fields" in change.keywords else "home"), PATH)
            except ConfigError as error:
                assert "\n" not in error.message  # noqa: PT017  # any other error is the finding
            else:
                done += 1
    assert done > rounds(400) // 20


# -- the file itself


def test_a_first_profile_makes_the_file_and_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".openme" / "config.yaml"
    add_profile(path, "new", FIELDS)
    assert list(load_client_config(path).waiting) == ["new"]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_an_edit_goes_through_a_link_and_leaves_mode_0600(tmp_path: Path) -> None:
    real, path = tmp_path / "real", tmp_path / "link"
    real.write_text(BASE)
    real.chmod(0o400)
    path.symlink_to(real)
    add_profile(path, "new", FIELDS)
    assert path.is_symlink()
    move_key(path, "home", "file:/k")
    assert set(load_client_config(path).waiting) == {"home", "new"}
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "real"]


def test_a_file_that_others_can_read_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(BASE)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="expected mode 0600"):
        add_profile(path, "new", FIELDS)
    assert path.read_text() == BASE


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    path.write_text(BASE)
    path.chmod(0o600)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigError, match="no space left"):
        add_profile(path, "new", FIELDS)
    with pytest.raises(ConfigError, match="no space left"):
        move_key(path, "home", "file:/k")
    with pytest.raises(ConfigError, match="no space left"):
        add_profile(tmp_path / "new", "new", FIELDS)
    assert (path.read_text(), [item.name for item in tmp_path.iterdir()]) == (BASE, ["c"])
