"""What follows from a row of the config's keys, for every row."""

from pathlib import Path

import pytest

from openme.config.keys import Key, names
from openme.config.model import ClientEntry, ServerConfig
from openme.config.profile import parse_client_config
from openme.config.profile_keys import PROFILE_KEYS
from openme.config.profile_model import Profile
from openme.config.server import parse_server_config
from openme.config.server_keys import CLIENT_KEYS, NEED_RESTART, SERVER_KEYS
from openme.config.template import render_server_config
from openme.keys.ed25519 import ClientPrivateKey, encode_base64
from openme.keys.x25519 import ServerPrivateKey

PATH = Path("config.yaml")
SERVER = ServerPrivateKey(b"\x03" * 32)
CLIENT = ClientPrivateKey(b"a" * 32)


def server_file(line: str = "") -> ServerConfig:
    return parse_server_config(f"server:\n  private_key: {SERVER.to_base64()}\n  {line}\n", PATH)


def entry(line: str = "") -> ServerConfig:
    head = f"server:\n  private_key: {SERVER.to_base64()}\nclients:\n  alice:\n    ed25519_pubkey: {CLIENT.public}\n"
    return parse_server_config(f"{head}    {line}\n", PATH)


def profile(line: str = "") -> Profile:
    head = f"server_host: a.example\n    server_pubkey: {encode_base64(SERVER.public)}"
    return parse_client_config(f"profiles:\n  a:\n    {head}\n    {line}\n", PATH).profiles["a"]


@pytest.mark.parametrize("key", [key for key in SERVER_KEYS if key.default is not None], ids=lambda key: key.name)
def test_a_key_of_the_server_that_is_written_as_its_default_is_one_that_is_absent(key: Key) -> None:
    assert server_file(f"{key.name}: {key.default}") == server_file()


@pytest.mark.parametrize("key", [key for key in CLIENT_KEYS if key.default is not None], ids=lambda key: key.name)
def test_a_key_of_a_client_that_is_written_as_its_default_is_one_that_is_absent(key: Key) -> None:
    assert entry(f"{key.name}: {key.default}") == entry()


@pytest.mark.parametrize("key", [key for key in PROFILE_KEYS if key.default is not None], ids=lambda key: key.name)
def test_a_key_of_a_profile_that_is_written_as_its_default_is_one_that_is_absent(key: Key) -> None:
    assert profile(f"{key.name}: {key.default}") == profile()


@pytest.mark.parametrize(
    ("read", "made"),
    [
        (server_file(), ServerConfig(PATH, SERVER, SERVER.public)),
        (entry().clients["alice"], ClientEntry("alice", CLIENT.public)),
        (profile(), Profile("a", "a.example", SERVER.public)),
    ],
    ids=["server", "client", "profile"],
)
def test_what_a_file_leaves_out_is_what_a_value_made_without_it_has(read: object, made: object) -> None:
    keys = {*names(SERVER_KEYS), *names(CLIENT_KEYS), *names(PROFILE_KEYS)} - {"ed25519_pubkey"}
    shared = [name for name in type(made).__annotations__ if name in keys]
    assert len(shared) > 8
    assert {n: getattr(read, n) for n in shared} == {n: getattr(made, n) for n in shared}


@pytest.mark.parametrize("keys", [SERVER_KEYS, CLIENT_KEYS, PROFILE_KEYS], ids=["server", "client", "profile"])
def test_no_key_has_two_rows(keys: tuple[Key, ...]) -> None:
    assert len(set(names(keys))) == len(keys)


def test_every_key_of_a_client_is_a_right_but_the_one_by_which_it_is_known() -> None:
    assert [key.name for key in CLIENT_KEYS if key.wider is None] == ["ed25519_pubkey"]


@pytest.mark.parametrize("key", [key for key in CLIENT_KEYS if key.narrows], ids=lambda key: key.name)
def test_an_empty_restriction_is_a_fault(key: Key) -> None:
    (fault,) = entry(f"{key.name}:").client_faults
    assert (fault.key, fault.message) == (
        f"clients.alice.{key.name}",
        "expected a value; to lift the restriction remove the line",
    )


def test_what_opens_processes_ports_and_files_is_what_needs_a_restart() -> None:
    assert set(NEED_RESTART) == {"udp_port", "health_port", "firewall", "epoch_length", "state_dir", "run_as"}


def test_what_init_writes_is_worded_by_the_rows() -> None:
    text = render_server_config(SERVER)
    for key in SERVER_KEYS:
        stands = f"\n  {key.name}: " in text or f"\n  # {key.name}: " in text
        assert stands == (key.comment is not None), key.name
        assert key.default is None or key.comment is None or f"  {key.name}: {key.initial or key.default}\n" in text
