"""A client more or less, and every other byte as it was."""

import errno
import os
import stat
from pathlib import Path

import pytest

from openme.config.edit import add_client, delete_client, insert_client, remove_client
from openme.config.faults import ConfigError
from openme.config.locked import locked_directory
from openme.config.server import load_server_config, parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

FILES = Path(__file__).parent / "files"
PATH = Path("config.yaml")
HEAD = f"server:\n  private_key: {ServerPrivateKey(bytes(32)).to_base64()}\n"
DAVE = {"ed25519_pubkey": str(ClientPrivateKey(b"d" * 32).public)}
SERVER_FILES = ["written-by-go.yaml", "by-hand.yaml", "crlf.yaml", "flow.yaml", "anchors.yaml", "no-clients.yaml"]


def key(number: int) -> str:
    return str(ClientPrivateKey(number.to_bytes(32, "big")).public)


def left_in(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir() if file.is_file()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_bytes((FILES / "by-hand.yaml").read_bytes())
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("name", SERVER_FILES)
def test_adding_and_removing_leaves_every_byte(name: str) -> None:
    before = (FILES / name).read_bytes().decode()
    fields = {**DAVE, "allowed_ports": ["22/tcp", "80"], "expires": "2030-01-01T00:00:00Z", "single_use": "true"}
    added = insert_client(before, PATH, "dave", fields)
    entry = parse_server_config(added, PATH).clients["dave"]
    assert entry.allowed_ports == ("22/tcp", "80")
    assert entry.single_use
    after = delete_client(added, PATH, "dave")
    assert after == (before if name != "no-clients.yaml" else before.replace("clients:", "clients: {}"))


@pytest.mark.parametrize("name", ["written-by-go.yaml", "by-hand.yaml", "crlf.yaml"])
def test_an_addition_only_adds_lines_in_the_files_own_style(name: str) -> None:
    before = (FILES / name).read_bytes().splitlines(keepends=True)
    after = insert_client(b"".join(before).decode(), PATH, "dave", DAVE).encode().splitlines(keepends=True)
    new = [line for line in after if b"dave" in line or DAVE["ed25519_pubkey"].encode() in line]
    assert len(new) == 2
    assert [line.rstrip(b"\r\n") for line in after if line not in new] == [line.rstrip(b"\r\n") for line in before]
    width = 4 if name == "written-by-go.yaml" else 2
    assert new[0].startswith(b" " * width + b"dave:")
    assert new[1].startswith(b" " * 2 * width + b"ed25519_pubkey:")
    assert all(line.endswith(b"\r\n") for line in new) == (name == "crlf.yaml")


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        ("clients: {}\n", "clients:\n  dave:\n    ed25519_pubkey: KEY\n"),
        ("clients: {} # none\nports: {}\n", "clients: # none\n  dave:\n    ed25519_pubkey: KEY\nports: {}\n"),
        ("clients:\n", "clients:\n  dave:\n    ed25519_pubkey: KEY\n"),
        ("clients: null", "clients:\n  dave:\n    ed25519_pubkey: KEY"),
        ("clients: ~ # x\n# y\n", "clients: # x\n  dave:\n    ed25519_pubkey: KEY\n# y\n"),
        ("", "clients:\n  dave:\n    ed25519_pubkey: KEY\n"),
        ("# end\n...\n", "clients:\n  dave:\n    ed25519_pubkey: KEY\n# end\n...\n"),
        ("clients: {\n  # none\n}\n", "clients: {dave: {ed25519_pubkey: KEY}\n  # none\n}\n"),
        (
            "clients: {a: {ed25519_pubkey: A}, } # x\n",
            "clients: {a: {ed25519_pubkey: A}, dave: {ed25519_pubkey: KEY}, } # x\n",
        ),
    ],
)
def test_every_way_to_have_no_block_of_clients(clients: str, expected: str) -> None:
    text = HEAD + clients.replace("A}", f"{key(1)}}}")
    edited = insert_client(text, PATH, "dave", DAVE)
    assert edited == HEAD + expected.replace("KEY", DAVE["ed25519_pubkey"]).replace("A}", f"{key(1)}}}")
    assert "dave" in parse_server_config(edited, PATH).clients


def test_comments_above_stay_and_comments_inside_go() -> None:
    entry = f"    ed25519_pubkey: {key(1)}\n"
    rest = f"  # about bob\n  bob:\n    ed25519_pubkey: {key(2)}\n"
    text = f"{HEAD}clients:\n  # all staff\n  alice:\n{entry}    # inside\n{rest}"
    left = f"{HEAD}clients:\n  # all staff\n{rest}"
    assert delete_client(text, PATH, "alice") == left


@pytest.mark.parametrize("name", ["on", "123", "null", "1e5", "0x1f", "2026-01-01", "a@b", "_", "1.5", "no"])
def test_names_that_yaml_reads_as_something_else(name: str) -> None:
    added = insert_client(HEAD, PATH, name, DAVE)
    assert list(parse_server_config(added, PATH).clients) == [name]
    assert "clients: {}" in delete_client(added, PATH, name)


def test_quoted_names_are_found() -> None:
    text = (FILES / "by-hand.yaml").read_text()
    assert "bob laptop" not in delete_client(text, PATH, "bob laptop")


def test_what_is_refused_on_add() -> None:
    text = (FILES / "by-hand.yaml").read_text()
    for name, fields, expected in (
        ("alice", DAVE, "config.yaml:16: clients.alice: this name is taken"),
        ("dave", {"ed25519_pubkey": str(ClientPrivateKey(b"\x01" * 32).public)}, "client alice has the same"),
        ("dave", {**DAVE, "allowed_ports": ["bd"]}, "clients.dave.allowed_ports: expected a port"),
        ("dave", {**DAVE, "expires": "2030"}, "clients.dave.expires: expected a time"),
        ("dave", {}, "nothing changed"),
        ("dave", {**DAVE, "nonsense": "1"}, "clients.dave.nonsense: unknown key"),
    ):
        with pytest.raises(ConfigError) as caught:
            insert_client(text, PATH, name, fields)
        assert expected in caught.value.message


def test_an_unknown_name_is_refused_with_the_nearest(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        remove_client(path, "alcie")
    assert caught.value.message == f"{path}: clients: no client alcie"
    assert caught.value.hint == "did you mean alice?"
    assert path.read_bytes() == before


def test_a_right_can_be_taken_from_a_file_with_faults_elsewhere() -> None:
    text = (FILES / "written-by-go.yaml").read_text().replace("udp_port: 54154", "udp_prt: x")
    assert "alice" not in delete_client(text, PATH, "alice")


def test_what_others_refer_to_is_not_removed() -> None:
    with pytest.raises(ConfigError, match="nothing changed"):
        delete_client((FILES / "anchors.yaml").read_text(), PATH, "alice")


def test_the_file_is_replaced_in_one_step_and_private(path: Path) -> None:
    path.chmod(0o640)
    old = path.stat()
    add_client(path, "dave", DAVE)
    new = path.stat()
    assert new.st_ino != old.st_ino
    assert stat.S_IMODE(new.st_mode) == 0o600
    assert (new.st_uid, new.st_gid) == (old.st_uid, old.st_gid)
    assert "dave" in load_server_config(path).clients
    assert left_in(path.parent) == ["config.yaml"]


def test_a_link_is_followed_and_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    add_client(link, "dave", DAVE)
    assert link.is_symlink()
    assert "dave" in load_server_config(path).clients
    assert left_in(link.parent) == ["link.yaml"]


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ConfigError, match="cannot be written: no space left on device"):
        add_client(path, "dave", DAVE)
    assert path.read_bytes() == before
    assert left_in(path.parent) == ["config.yaml"]


def test_a_loose_file_is_not_edited(path: Path) -> None:
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="expected mode 0600"):
        add_client(path, "dave", DAVE)


def test_a_lock_that_is_never_given_back_is_an_error(path: Path) -> None:
    with (
        locked_directory(path.parent, path),
        pytest.raises(ConfigError, match="another program"),
        locked_directory(path.parent, path, wait=0),
    ):
        pytest.fail("held twice")


def test_the_new_file_is_never_readable_by_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(os, "fsync", note)
    before = os.umask(0)
    try:
        add_client(path, "dave", DAVE)
    finally:
        os.umask(before)
    assert seen[0] == 0o600
