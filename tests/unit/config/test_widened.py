"""Which rights a client has gained from one config to the next."""

from pathlib import Path

import pytest

from openme.config.model import ServerConfig
from openme.config.server import parse_server_config
from openme.config.widened import MOST_NAMED, widened
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

HEAD = f"server:\n  private_key: {ServerPrivateKey(bytes(range(32))).to_base64()}\n"


def public(number: int) -> str:
    return str(ClientPrivateKey(number.to_bytes(32, "big")).public)


def config(*lines: str, name: str = "alice", key: int = 1) -> ServerConfig:
    entry = "".join(f"    {line}\n" for line in lines)
    text = f"{HEAD}clients:\n  {name}:\n    ed25519_pubkey: {public(key)}\n{entry}"
    made = parse_server_config(text, Path("config.yaml"))
    assert not made.client_faults
    return made


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("allowed_from: [192.0.2.0/24]", "", "allowed_from is gone (it was 192.0.2.0/24)"),
        (
            "allowed_from: [192.0.2.0/24]",
            "allowed_from: [192.0.0.0/16, 2001:db8::/32]",
            "allowed_from has 192.0.0.0/16, 2001:db8::/32 more",
        ),
        ("require_target_ip: true", "", "require_target_ip is gone"),
        ("single_use: true", "single_use: false", "single_use is gone"),
        ("max_timeout: 5s", "", "max_timeout is gone (it was 5s)"),
        ("max_timeout: 5s", "max_timeout: 1m0s", "max_timeout is longer, 1m"),
        ("protocols: [v2]", "", "protocols has v1 more"),
        ("expires: 2031-01-01", "", "expires is gone (it was 2031-01-01T00:00:00Z)"),
        ("expires: 2031-01-01", "expires: 2031-01-02", "expires is later, 2031-01-02T00:00:00Z"),
        ("allowed_ports: [22/tcp]", "allowed_ports: [22/tcp, 80-81/tcp]", "allowed_ports has 80-81/tcp more"),
        ("allowed_ports: [80/tcp]", "", "allowed_ports has 22/tcp more"),
        ("disable_health_port: true", "", "disable_health_port is gone"),
        ("prefix_v4: 24", "prefix_v4: 20", "prefix_v4 is shorter, 20 (it was 24)"),
        ("", "prefix_v4: 24", "prefix_v4 is shorter, 24 (it was 32)"),
        (
            "prefix_v6: 64",
            "prefix_v4: 31\n    prefix_v6: 63",
            "prefix_v4 is shorter, 31 (it was 32); prefix_v6 is shorter, 63 (it was 64)",
        ),
    ],
)
def test_each_key_that_widens_is_named_and_its_reverse_is_not(old: str, new: str, expected: str) -> None:
    before, after = config(old), config(new)
    assert widened(before, after) == [f"config.yaml: client alice may do more than before: {expected}"]
    if "allowed_ports: [80" not in old:
        assert widened(after, before) == []


def test_networks_that_lie_in_those_before_together_are_no_more() -> None:
    before = config("allowed_from: [192.0.2.0/25, 192.0.2.128/25]")
    assert widened(before, config("allowed_from: [192.0.2.0/24]")) == []


def test_a_client_is_known_by_its_key_and_else_by_its_name() -> None:
    before = config("single_use: true")
    assert "client kim may do more than before: single_use is gone" in widened(before, config(name="kim"))[0]
    assert "client alice may do more than before: single_use is gone" in widened(before, config(key=2))[0]
    assert widened(before, config(name="kim", key=2)) == []


def test_a_change_for_all_clients_does_not_fill_the_log() -> None:
    def all_of(ports: str) -> ServerConfig:
        entries = "".join(f"  c{n}: {{ed25519_pubkey: {public(n)}}}\n" for n in range(1, MOST_NAMED + 4))
        return parse_server_config(f"{HEAD}ports: {{default: {ports}}}\nclients:\n{entries}", Path("config.yaml"))

    lines = widened(all_of("[22/tcp]"), all_of("[22/tcp, 80/tcp]"))
    assert len(lines) == MOST_NAMED + 1
    assert lines[-1] == "config.yaml: 3 more clients may do more than before"


def test_a_shorter_prefix_of_the_server_widens_whoever_has_none_of_its_own() -> None:
    def with_prefix(length: int) -> ServerConfig:
        text = f"{HEAD}  prefix_v6: {length}\nclients:\n  alice: {{ed25519_pubkey: {public(1)}}}\n"
        text += f"  bob: {{ed25519_pubkey: {public(2)}, prefix_v6: 128}}\n"
        return parse_server_config(text, Path("config.yaml"))

    expected = "config.yaml: client alice may do more than before: prefix_v6 is shorter, 56 (it was 64)"
    assert widened(with_prefix(64), with_prefix(56)) == [expected]
    assert widened(with_prefix(56), with_prefix(64)) == []
