"""The copy of what stands below `clients:`: believed for its own file alone, and without a secret in it."""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from openme import files
from openme.config import parsed_copy
from openme.config.client_table import with_table
from openme.config.clients_block import without_clients
from openme.config.parsed_copy import (
    FILE_NAME,
    BadCopy,
    Original,
    content_of_copy,
    front_of_copy,
    parse_by_copy,
    program,
    read_copy,
    remove_copy,
    write_copy,
)
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

PATH = Path("config.yaml")
PROGRAM = b"p" * 32
NOTHING: Mapping[str, Any] = {}
KEYS = [ServerPrivateKey(b"k" * 32), ServerPrivateKey(b"q" * 32)]
ALICE, BOB, CAROL = (ClientPrivateKey(bytes([n]) * 32).public for n in range(3))


def text(state_dir: Path, alice: str = str(ALICE)) -> str:
    return (
        f"server:\n  private_key: {KEYS[0].to_base64()}\n  previous_private_key: {KEYS[1].to_base64()}\n"
        f"  state_dir: {state_dir}\nports: {{default: [22/tcp], web: [443/tcp]}}\n"
        f"clients:\n  alice:\n    ed25519_pubkey: {alice}\n    allowed_ports: [web]\n    expires: 2031-01-01\n"
        f"  bob: {{ed25519_pubkey: {BOB}, allowed_ports: []}}\n"
        f"  carol: {{ed25519_pubkey: {CAROL}, allowed_ports: [nope, 8/tcp]}}\n"
    )


def keep(
    state_dir: Path, said: str, path: Path = PATH, made_by: bytes = PROGRAM, overrides: Mapping[str, Any] = NOTHING
) -> None:
    """Keep a copy of a file."""
    original = Original(said, path, made_by, overrides)
    config = with_table(original.parsed())
    front = front_of_copy(config, original)
    assert front is not None
    write_copy(state_dir, content_of_copy(front, config))


def believed(said: str, path: Path = PATH, made_by: bytes = PROGRAM, overrides: Mapping[str, Any] = NOTHING) -> bool:
    try:
        parse_by_copy(Original(said, path, made_by, overrides))
    except BadCopy:
        return False
    return True


def test_it_says_what_the_file_says_faults_and_notes_and_all(tmp_path: Path) -> None:
    said = text(tmp_path)
    keep(tmp_path, said)
    config = parse_by_copy(Original(said, PATH, PROGRAM))
    assert config == parse_server_config(said, PATH)
    assert [fault.key for fault in config.client_faults] == ["clients.carol.allowed_ports"]
    assert [(item.name, item.public_key) for item in config.disabled] == [("carol", CAROL)]
    assert "an empty list counts as absent" in config.warnings[0]
    assert config.named_ports == parse_server_config(said, PATH).named_ports


def test_no_key_of_the_server_is_in_it(tmp_path: Path) -> None:
    keep(tmp_path, text(tmp_path))
    content = read_copy(tmp_path)
    assert ALICE.raw in content
    for key in KEYS:
        for form in (key.raw, key.to_base64().encode(), key.raw.hex().encode(), key.public):
            assert form not in content


def test_it_is_roots_alone(tmp_path: Path) -> None:
    keep(tmp_path, text(tmp_path))
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_of_any_other_text_none_is_believed(tmp_path: Path) -> None:
    """Also of one that differs in a character that means nothing, above or below `clients:`."""
    said = text(tmp_path)
    keep(tmp_path, said)
    assert believed(said)
    for other in (
        text(tmp_path, str(ClientPrivateKey(b"x" * 32).public)),
        said.replace("alice", "alicf"),
        said.replace("ports: {", "ports:  {"),
        said + "\n",
        "\ufeff" + said,
        said.replace(KEYS[0].to_base64(), KEYS[1].to_base64()).replace(
            "previous_private_key: " + KEYS[1].to_base64(), ""
        ),
    ):
        assert not believed(other)
    assert believed(said), "looking changes nothing"


def test_of_another_command_line_none_is_believed(tmp_path: Path) -> None:
    """It stands above the file: an entry may mean something else by it."""
    said = text(tmp_path)
    keep(tmp_path, said, overrides={"interface": "eth7"})
    assert not believed(said)
    assert not believed(said, overrides={"interface": "eth8"})
    assert not believed(said, overrides={"interface": "eth7", "drop_ports": True})
    assert believed(said, overrides={"interface": "eth7"})
    assert parse_by_copy(Original(said, PATH, PROGRAM, {"interface": "eth7"})).interface == "eth7"


def test_of_another_name_or_by_another_program_none_is_believed(tmp_path: Path) -> None:
    said = text(tmp_path)
    keep(tmp_path, said)
    assert not believed(said, path=Path("other.yaml"))
    assert not believed(said, made_by=b"q" * 32)
    keep(tmp_path, said, path=Path("a" + "b"), made_by=PROGRAM)
    assert not believed(said, path=Path("a"), made_by=PROGRAM)


def test_whoever_cannot_read_the_file_cannot_make_one(tmp_path: Path) -> None:
    """All but the server's key is known to him, and he may write in `state_dir`."""
    said = text(tmp_path)
    guess = said.replace(KEYS[0].to_base64(), ServerPrivateKey(b"g" * 32).to_base64())
    keep(tmp_path, guess)
    forged = read_copy(tmp_path)
    keep(tmp_path, said)
    true = read_copy(tmp_path)
    assert len(forged) == len(true)
    start = len(parsed_copy._HEAD)
    assert forged[start + 32 :] == true[start + 32 :]
    assert forged[start : start + 32] != true[start : start + 32]
    (tmp_path / FILE_NAME).write_bytes(forged)
    assert not believed(said)


def test_any_text_of_the_package_makes_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "config").mkdir(parents=True)
    (package / "config" / "parsed_copy.py").write_text("# a")
    (package / "ports.py").write_text("# b")
    monkeypatch.setattr(parsed_copy, "__file__", str(package / "config" / "parsed_copy.py"))
    made = {program()}
    (package / "ports.py").write_text("# c")
    made.add(program())
    (package / "ports.py").rename(package / "config" / "ports.py")
    made.add(program())
    assert len(made) == 3
    (package / "config" / "ports.py").unlink()
    (package / "config" / "parsed_copy.py").unlink()
    assert program() != program(), "what cannot be read may be anything"


def test_a_program_that_is_run_twice_is_the_same() -> None:
    assert program() == program()


# -- what may lie in its place


@pytest.mark.parametrize(
    "what", ["nothing", "a directory", "a pipe", "a link", "readable by others", "somebody else's"]
)
def test_what_is_no_file_of_ours_is_not_read(tmp_path: Path, what: str) -> None:
    said = text(tmp_path)
    keep(tmp_path, said)
    place = tmp_path / FILE_NAME
    if what == "readable by others":
        place.chmod(0o640)
    elif what == "somebody else's":
        if os.geteuid() != 0:
            pytest.skip("gives a file away")
        os.chown(place, 65534, 65534)
    else:
        aside = place.rename(tmp_path / "aside")
        if what == "a directory":
            place.mkdir()
        elif what == "a pipe":
            os.mkfifo(place, 0o600)
        elif what == "a link":
            place.symlink_to(aside)
    with pytest.raises(BadCopy):
        read_copy(tmp_path)
    assert not believed(said)


def test_one_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = text(tmp_path)
    keep(tmp_path, said)
    monkeypatch.setattr(parsed_copy, "MAX_BYTES", 100)
    with pytest.raises(BadCopy):
        read_copy(tmp_path)


def test_half_of_one_is_none_and_the_next_takes_its_place(tmp_path: Path) -> None:
    said = text(tmp_path)
    keep(tmp_path, said)
    content = read_copy(tmp_path)
    for size in (0, 10, 40, 60, len(content) // 2, len(content) - 1):
        (tmp_path / FILE_NAME).write_bytes(content[:size])
        assert not believed(said), size
    (tmp_path / f".{FILE_NAME}.new").write_bytes(b"what a killed server has left")
    keep(tmp_path, said)
    assert believed(said)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_disk_that_refuses_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is of another file, and names who may have gone since."""
    keep(tmp_path, text(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_new", full)
    with pytest.raises(OSError, match="No space left"):
        write_copy(tmp_path, b"more")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f".{FILE_NAME}.new").touch()
    remove_copy(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove_copy(tmp_path / "nowhere")


# -- what may be cut out of a file


def test_the_rest_of_a_file_has_its_lines_where_they_were() -> None:
    said = "server:\n  a: 1\nclients: # all\n  x:\n    y\n# margin\n\n  z: 1\nports: {}\nhide:\n"
    rest = without_clients(said)
    assert rest == "server:\n  a: 1\nclients: {}\n\n\n\n\n\nports: {}\nhide:\n"
    assert without_clients("clients:\n  a: 1\n") == "clients: {}\n\n"
    assert without_clients("clients:\r\n  a: 1\r\nb:\r\n") == "clients: {}\n\nb:\r\n"


@pytest.mark.parametrize("said", ["", "client:\n", " clients:\n", "clients: {}\n", "x: clients:\n", "clients:x\n"])
def test_where_no_block_stands_nothing_is_cut_out(said: str) -> None:
    assert without_clients(said) is None
    assert not believed(said)


@pytest.mark.parametrize("before", ["", "hide: &a [1/tcp]\n"], ids=["an anchor", "an anchor that is set anew"])
def test_where_one_part_reaches_into_the_other_there_is_no_copy(before: str) -> None:
    said = (
        f"server: {{private_key: {KEYS[0].to_base64()}}}\n{before}clients:\n"
        f"  alice: {{ed25519_pubkey: {ALICE}, allowed_ports: &a [2/tcp]}}\nports: {{default: *a}}\n"
    )
    config = with_table(parse_server_config(said, PATH))
    assert [str(item) for item in config.groups["default"]] == ["2/tcp"]
    assert without_clients(said) is not None
    assert front_of_copy(config, Original(said, PATH, PROGRAM)) is None
