"""knock and status under version 2: what is proven by the server itself, and what is not confirmed."""

import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openme.config.profile import load_client_config
from support.command import Done, Place, Server, until

TARGET = "203.0.113.5"


@pytest.fixture
def alice(here: Place) -> Path:
    return here.client("alice")


@pytest.fixture
def server(here: Place, alice: Path) -> Iterator[Server]:
    assert alice.exists()
    with here.serving() as running:
        yield running


def client(here: Place, file: Path, *words: str) -> Done:
    return here.run("--client-config", str(file), *words)


def keys_of(path: Path) -> tuple[bytes, ...]:
    epoch_keys = load_client_config(path).profiles["default"].epoch_keys
    assert epoch_keys is not None
    return epoch_keys.keys


@pytest.mark.usefixtures("server")
def test_a_door_is_proven_by_the_servers_word(here: Place, alice: Path) -> None:
    done = client(here, alice, "knock", "--check", "--ip", TARGET)
    assert done.code == 0, done.err
    assert re.fullmatch(rf"open\n22/tcp for {TARGET} until \S+Z, proven by the server\n", done.out)
    again = client(here, alice, "status")
    assert (again.code, again.out) == (0, done.out)
    value = client(here, alice, "status", "--json").json()
    assert value["open"] is True
    assert value["answer"] == "proven"
    (receipt,) = value["receipts"]
    assert receipt.items() >= {"proven": True, "as_asked": True, "client": "alice", "ip": TARGET}.items()
    assert receipt["ip_checked"] is True


@pytest.mark.usefixtures("server")
def test_a_knock_that_opened_nothing_is_not_confirmed_though_something_listens(here: Place, alice: Path) -> None:
    """The memory firewall hides nothing: TCP alone would say that the door is open."""
    done = client(here, alice, "knock", "--check", "--ip", "source")
    assert done.code == 3
    assert done.out == "not confirmed\n"
    assert "the server gave no receipt" in done.err
    value = client(here, alice, "status", "--json").json()
    assert (value["receipts"], value["answer"]) == ([], "unproven")


def test_another_server_at_that_address_proves_nothing(here: Place, alice: Path) -> None:
    here.ok("rotate", "ratchet")
    with here.serving():
        done = client(here, alice, "knock", "--check", "--ip", TARGET)
    assert (done.code, done.out) == (3, "not confirmed\n")


def test_what_is_kept_beside_the_file_is_the_owners_alone(here: Place, alice: Path, server: Server) -> None:
    client(here, alice, "knock", "--check", "--ip", TARGET)
    directory = alice.with_name("alice.yaml.known")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert "accepted" in server.log or "opened 22/tcp" in server.log


def bob_in_epochs(here: Place) -> dict[str, Any]:
    value: dict[str, Any] = next(c for c in here.ok("epochs", "--json").json()["clients"] if c["name"] == "bob")
    return value


def test_use_renews_the_keys_and_epochs_tells(here: Place) -> None:
    here.set("epoch_horizon", "2")
    file = here.client("bob")
    here.set("epoch_horizon", "53")
    with here.serving():
        assert client(here, file, "knock", "--ip", TARGET).code == 0
        assert bob_in_epochs(here)["renewed_until"] is None, "what was only offered is not counted"
        assert client(here, file, "knock", "--check", "--ip", TARGET).code == 0
        until(lambda: bob_in_epochs(here)["renewed_until"] is not None, "what was fetched is counted")
        bob = bob_in_epochs(here)
        assert bob["renewed_until"] > bob["file_until"]
    (kept,) = file.with_name("bob.yaml.known").glob("*.keys.json")
    assert kept.stat().st_size > 53 * 32
    assert len(keys_of(file)) == 2


def test_a_file_of_another_host_with_the_same_keys_is_refused_until_told(here: Place, alice: Path) -> None:
    text = alice.read_text()
    copy = text.removeprefix("profiles:\n").replace('"default"', "office").replace("default:", "office:")
    copy = copy.replace("127.0.0.1", "office.example")
    alice.write_text(text + copy)
    done = client(here, alice, "knock", "default")
    assert done.code == 1
    assert "office.example" in done.error
    assert "same_server_as" in done.err
    alice.write_text(text + "    same_server_as: [office.example]\n" + copy)
    assert client(here, alice, "knock", "default").code == 0


def test_without_a_key_for_this_date_nothing_is_sent(here: Place, alice: Path) -> None:
    alice.write_text(re.sub(r"first: \d+", "first: 100", alice.read_text()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", here.port))
        done = client(here, alice, "knock")
        assert (done.code, done.out) == (1, "")
        assert "has keys from 1971-12-02 to" in done.error
        udp.setblocking(False)  # noqa: FBT003  # the standard library's signature
        with pytest.raises(BlockingIOError):
            udp.recv(1000)


def test_no_secret_is_in_what_is_said(here: Place, alice: Path, server: Server) -> None:
    profile = load_client_config(alice).profiles["default"]
    assert profile.private_key is not None
    outcomes = [client(here, alice, *words) for words in (["knock", "--check", "--ip", TARGET], ["status", "--json"])]
    said = "".join(done.out + done.err for done in outcomes) + server.log
    assert profile.private_key.to_base64()[:40] not in said
    assert profile.private_key.seed.hex() not in said
