"""What `init` writes is what the specification calls the defaults, and loads."""

import dataclasses
import re
from pathlib import Path

from openme.config.edit import delete_client, insert_client
from openme.config.keys import names
from openme.config.server import parse_server_config
from openme.config.server_keys import SERVER_KEYS
from openme.config.template import render_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

PATH = Path("config.yaml")
KEY = ServerPrivateKey(b"\x03" * 32)


def test_a_new_file_has_the_defaults_and_hides_its_ports() -> None:
    written = parse_server_config(render_server_config(KEY), PATH)
    bare = parse_server_config(
        f"server:\n  private_key: {KEY.to_base64()}\n  drop_ports: true\nports: {{default: [22/tcp]}}\n", PATH
    )
    assert written == bare
    assert {f.name for f in dataclasses.fields(written)} >= set(names(SERVER_KEYS)) | {"groups", "clients"}


def test_every_key_stands_in_the_file_once_and_those_with_a_default_live() -> None:
    text = render_server_config(KEY)
    live = re.findall(r"^  ([a-z0-9_]+):", text.partition("\nports:")[0], re.MULTILINE)
    off = re.findall(r"^  # ([a-z0-9_]+): ", text.partition("\nports:")[0], re.MULTILINE)
    without_default = {"host", "interface", "always_open_from", "run_as"}
    assert sorted([*live, *without_default, "previous_private_key"]) == sorted(names(SERVER_KEYS))
    assert set(off) >= without_default


def test_what_init_was_told_stands_in_the_file() -> None:
    text = render_server_config(
        KEY, host="2001:db8::1", udp_port=7, firewall="memory", interface="123", state_dir=Path("/srv/a b")
    )
    config = parse_server_config(text, PATH)
    assert (config.host, config.udp_port, config.health_port) == ("2001:db8::1", 7, 7)
    assert (config.firewall, config.interface, config.state_dir) == ("memory", "123", Path("/srv/a b"))


def test_the_first_client_comes_and_goes() -> None:
    text = render_server_config(KEY)
    added = insert_client(text, PATH, "alice", {"ed25519_pubkey": str(ClientPrivateKey(b"a" * 32).public)})
    assert list(parse_server_config(added, PATH).clients) == ["alice"]
    assert delete_client(added, PATH, "alice") == text
