"""`prefix_v4` and `prefix_v6`: where they may stand, and with what else."""

import re
from pathlib import Path

import pytest

from openme.config.edit import add_client
from openme.config.faults import ConfigError
from openme.config.model import ServerConfig
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

HEAD = f"server:\n  private_key: {ServerPrivateKey(bytes(range(32))).to_base64()}\n"
KEY = str(ClientPrivateKey(b"a" * 32).public)


def parse(server: str = "", client: str = "") -> ServerConfig:
    settings = "".join(f"  {line}\n" for line in server.split("; ") if line)
    entry = "".join(f"    {line}\n" for line in client.split("; ") if line)
    text = f"{HEAD}{settings}clients:\n  alice:\n    ed25519_pubkey: {KEY}\n{entry}"
    return parse_server_config(text, Path("config.yaml"))


def lengths(server: str = "", client: str = "") -> tuple[int, int]:
    made = parse(server, client)
    assert not made.client_faults
    return made.clients["alice"].prefix_v4, made.clients["alice"].prefix_v6


def fault(server: str = "", client: str = "") -> tuple[str, str | None]:
    (found,) = parse(server, client).client_faults
    return str(found), found.hint


def test_a_door_is_for_one_address_unless_a_prefix_says_otherwise() -> None:
    assert lengths() == (32, 128)
    assert (parse().prefix_v4, parse().prefix_v6) == (32, 128)


def test_a_client_has_the_servers_prefixes_or_its_own() -> None:
    assert lengths("prefix_v4: 24; prefix_v6: 64") == (24, 64)
    assert lengths("prefix_v4: 24; prefix_v6: 64", "prefix_v4: 32") == (32, 64)
    assert lengths("prefix_v4: 24", "prefix_v4: 16; prefix_v6: 48") == (16, 48)


@pytest.mark.parametrize(
    "line", ["prefix_v4: 15", "prefix_v4: 33", "prefix_v6: 47", "prefix_v6: 129", "prefix_v4: /24"]
)
def test_a_length_out_of_range_is_refused_wherever_it_stands(line: str) -> None:
    expected = "expected a number from 16 to 32" if "v4" in line else "expected a number from 48 to 128"
    key = line.partition(":")[0]
    with pytest.raises(ConfigError, match=f"config.yaml:3: server.{key}: {expected}"):
        parse(line)
    assert fault("", line)[0] == f"config.yaml:6: clients.alice.{key}: {expected}"


@pytest.mark.parametrize("key", ["prefix_v4", "prefix_v6"])
def test_an_empty_prefix_in_an_entry_does_not_widen_it(key: str) -> None:
    said, _ = fault("prefix_v4: 16; prefix_v6: 48", f"{key}:")
    assert said.startswith(f"config.yaml:8: clients.alice.{key}: ")


def test_a_single_use_is_not_for_a_network() -> None:
    said, cure = fault("", "single_use: true; prefix_v4: 24")
    reason = "serves one connection, but prefix_v4 is 24: its doors would be for a network"
    assert said == f"config.yaml:6: clients.alice.single_use: {reason}"
    assert cure == "write prefix_v4: 32 into this client's entry"
    said, cure = fault("prefix_v6: 64", "single_use: true")
    assert "prefix_v6 of server is 64" in said
    assert cure == "write prefix_v6: 128 into this client's entry"
    assert lengths("prefix_v4: 24; prefix_v6: 64", "single_use: true; prefix_v4: 32; prefix_v6: 128") == (32, 128)
    assert lengths("prefix_v4: 24", "single_use: false") == (24, 128)


def test_allowed_from_has_to_hold_the_network_of_a_door() -> None:
    said, cure = fault("", "allowed_from: [198.51.0.0/16, 192.0.2.0/25]; prefix_v4: 24")
    reason = "192.0.2.0/25 is smaller than a door's network, whose length prefix_v4 is 24"
    assert said == f"config.yaml:6: clients.alice.allowed_from: {reason}"
    assert cure == "write prefix_v4: 25 into this client's entry, or a larger network here"
    said, cure = fault("prefix_v6: 56", "allowed_from: ['2001:db8::/64']")
    assert "prefix_v6 of server is 56" in said
    assert cure == "write prefix_v6: 64 into this client's entry, or a larger network here"
    assert lengths("prefix_v4: 24", "allowed_from: [192.0.2.0/24, '2001:db8::7/128']") == (24, 128)
    assert lengths("prefix_v4: 24", "allowed_from: [192.0.2.0/25, 192.0.2.128/25]") == (24, 128)


def test_what_the_documentation_shows_means_what_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs/configuration.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"### Doors for a network\n.*?```yaml\n(.*?)```", page, re.DOTALL)
    text = shown.replace("SERVER KEY", ServerPrivateKey(bytes(range(32))).to_base64())
    for letter in (b"a", b"b"):
        text = text.replace("PUBLIC KEY", str(ClientPrivateKey(letter * 32).public), 1)
    made = parse_server_config(text, Path("config.yaml"))
    assert made.client_faults == ()
    found = {name: (client.prefix_v4, client.prefix_v6) for name, client in made.clients.items()}
    assert found == {"alice": (24, 64), "robot": (32, 128)}


def test_a_client_that_would_not_load_beside_the_servers_prefixes_is_not_added(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = f"{HEAD}  prefix_v4: 24\nclients: {{}}\n"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="single_use: serves one connection, but prefix_v4 of server is 24"):
        add_client(path, "alice", {"ed25519_pubkey": KEY, "single_use": "true"})
    assert path.read_text(encoding="utf-8") == text
