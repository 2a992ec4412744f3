import os
import secrets
import stat
from pathlib import Path

import pytest

from openme.config.locked import replace_file
from openme.config.server import parse_server_config
from openme.config.template import render_server_config
from openme.errors import OpenmeError
from openme.keeper import revoked_keys
from openme.keeper.revoked_keys import (
    COPY_NAME,
    FILE_NAME,
    Revocation,
    lift_key,
    read_revoked,
    revoke_keys,
    without_revoked,
)
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

ALICE, BOB, CAROL = (bytes([n]) * 32 for n in (1, 2, 3))
NOON = 1_800_000_000


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Alice and bob are revoked; the file and its copy."""
    revoke_keys(tmp_path, [ALICE], "alice", NOON)
    revoke_keys(tmp_path, [BOB], "bob", NOON)
    return tmp_path / FILE_NAME, tmp_path / COPY_NAME


def test_no_file_revokes_nobody(tmp_path: Path) -> None:
    known = read_revoked(tmp_path)
    assert (known.keys, known.is_there, known.damage) == ({}, False, None)
    assert read_revoked(tmp_path / "no such directory").keys == {}


def test_the_file_is_as_documented_and_for_its_owner_alone(both: tuple[Path, Path]) -> None:
    file, copy = both
    head, alice, bob, check = file.read_text().splitlines()
    assert head == "openme revoked keys 1"
    assert alice == f"{'AQEB' * 10}AQE= 2027-01-15T08:00:00Z alice"
    assert bob.endswith(" bob")
    assert check.startswith("sha256 ")
    assert copy.read_bytes() == file.read_bytes()
    assert {stat.S_IMODE(path.stat().st_mode) for path in both} == {0o600}


def test_a_key_keeps_the_line_of_its_first_revocation(both: tuple[Path, Path]) -> None:
    file, _ = both
    before = file.stat().st_ino, file.stat().st_mtime_ns
    revoke_keys(file.parent, [ALICE], "eve", NOON + 60)
    assert read_revoked(file.parent).keys[ALICE] == Revocation("alice", "2027-01-15T08:00:00Z")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before


@pytest.mark.parametrize("name", ["two words", " ", "a\nb", "sha256 x", "é\u2028"])
def test_any_name_is_read_again(tmp_path: Path, name: str) -> None:
    revoke_keys(tmp_path, [ALICE, BOB], name, NOON)
    known = read_revoked(tmp_path)
    assert set(known.keys) == {ALICE, BOB}
    assert known.keys[ALICE].name == name.replace("\n", "?").replace("\u2028", "?")


def test_a_file_cut_at_any_byte_is_never_a_shorter_list(both: tuple[Path, Path]) -> None:
    file, copy = both
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        known = read_revoked(file.parent)
        assert set(known.keys) == {ALICE, BOB}
        assert known.damage is not None
    copy.unlink()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(OpenmeError, match="who was revoked is not known"):
            read_revoked(file.parent)


def test_a_bit_flipped_anywhere_is_seen(both: tuple[Path, Path]) -> None:
    file, copy = both
    copy.unlink()
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(OpenmeError, match="who was revoked is not known"):
            read_revoked(file.parent)


@pytest.mark.parametrize("lost", [0, 1])
def test_either_file_alone_is_enough(both: tuple[Path, Path], lost: int) -> None:
    both[lost].unlink()
    known = read_revoked(both[0].parent)
    assert set(known.keys) == {ALICE, BOB}
    assert (known.damage is None) == (lost == 1)


def test_an_older_file_put_back_lets_nobody_in(both: tuple[Path, Path]) -> None:
    for path in both:
        older = path.read_bytes()
        revoke_keys(path.parent, [CAROL], "carol", NOON)
        path.write_bytes(older)
        assert CAROL in read_revoked(path.parent).keys
        lift_key(path.parent, CAROL)


def test_what_cannot_be_read_is_not_written_over(both: tuple[Path, Path]) -> None:
    for path in both:
        path.write_bytes(b"nonsense")
    with pytest.raises(OpenmeError, match="who was revoked is not known"):
        revoke_keys(both[0].parent, [CAROL], "carol", NOON)
    assert [path.read_bytes() for path in both] == [b"nonsense"] * 2


def test_the_next_revocation_mends_a_damaged_file(both: tuple[Path, Path]) -> None:
    both[0].write_bytes(b"nonsense")
    revoke_keys(both[0].parent, [ALICE], "alice", NOON)
    known = read_revoked(both[0].parent)
    assert (set(known.keys), known.damage) == ({ALICE, BOB}, None)


def test_a_link_or_a_pipe_is_not_followed(both: tuple[Path, Path]) -> None:
    file, copy = both
    whole = file.with_name("whole")
    file.rename(whole)
    copy.unlink()
    file.symlink_to(whole)
    with pytest.raises(OpenmeError, match="cannot be read"):
        read_revoked(file.parent)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OpenmeError, match="expected a regular file"):
        read_revoked(file.parent)


def test_a_lifted_key_is_revoked_until_both_files_are_without_it(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between: still out, and the same command again lifts it."""

    class Killed(BaseException):
        pass

    real = replace_file

    def once(target: Path, *rest: object) -> None:
        if target.name == COPY_NAME:
            raise Killed
        real(target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(revoked_keys, "replace_file", once)
    with pytest.raises(Killed):
        lift_key(both[0].parent, ALICE)
    monkeypatch.undo()
    assert ALICE in read_revoked(both[0].parent).keys
    assert lift_key(both[0].parent, ALICE)
    assert set(read_revoked(both[0].parent).keys) == {BOB}
    assert not lift_key(both[0].parent, ALICE)


def test_the_file_is_on_the_disk_before_it_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the content before it takes the name, and of the directory after it."""
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(target.name)
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    revoke_keys(tmp_path, [ALICE], "alice", NOON)
    assert events[:3] == ["content", FILE_NAME, "directory"]


def test_an_entry_with_a_revoked_key_is_disabled_and_its_ports_stay_hidden(tmp_path: Path) -> None:
    keys = {name: ClientPrivateKey(secrets.token_bytes(32)).public for name in ("alice", "bob")}
    text = render_server_config(
        ServerPrivateKey(secrets.token_bytes(32)),
        host="192.0.2.1",
        udp_port=54154,
        firewall="memory",
        interface=None,
        state_dir=tmp_path,
    )
    entries = (
        f"  alice: {{ed25519_pubkey: {keys['alice']}, allowed_ports: [23/tcp]}}\n"
        f"  bob: {{ed25519_pubkey: {keys['bob']}}}\n"
    )
    config = parse_server_config(text.replace("clients: {}\n", f"clients:\n{entries}"), tmp_path / "config.yaml")
    assert without_revoked(config, {}) is config
    assert without_revoked(config, {CAROL: Revocation("carol", "then")}) is config
    less = without_revoked(config, {keys["alice"].raw: Revocation("old name", "then")})
    assert set(less.clients) == {"bob"}
    assert less.managed_ports == config.managed_ports
    (fault,) = less.client_faults
    assert f"openme add alice --pubkey {keys['alice']}" in str(fault)
