"""Who hides ports that nobody can open is told, whatever the reason."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from openme.config.faults import ConfigFault
from openme.config.model import ClientEntry, ServerConfig
from openme.config.who_can_knock import hides_without_clients, nobody_can_knock
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import parse_port_spec

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SSH = parse_port_spec("22/tcp")
ALICE = ClientEntry("alice", ClientPrivateKey(secrets.token_bytes(32)).public, ports=SSH)


def config(*clients: ClientEntry, **more: object) -> ServerConfig:
    key = ServerPrivateKey(secrets.token_bytes(32))
    by_name = {client.name: client for client in clients}
    made = ServerConfig(Path("config.yaml"), key, key.public, drop_ports=True, groups={"default": SSH}, clients=by_name)
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clients", "more", "why"),
    [
        ((), {}, "no client is registered"),
        ((), {"client_faults": (ConfigFault(Path("c"), 1, "x", "y"),)}, "every client is disabled (1)"),
        ((replace(ALICE, expires=NOW),), {}, "the right of every client has expired"),
        (
            (replace(ALICE, protocols=frozenset({"v1"})),),
            {"protocols": frozenset({"v2"})},
            "no client may speak a wire version that the server accepts",
        ),
        ((replace(ALICE, ports=()),), {}, "no client may open a port"),
    ],
)
def test_each_way_to_shut_everybody_out_is_named(
    clients: tuple[ClientEntry, ...], more: dict[str, object], why: str
) -> None:
    made = config(*clients, **more)
    assert nobody_can_knock(made, NOW) == why
    assert why in (hides_without_clients(made, NOW) or "")
    assert hides_without_clients(replace(made, drop_ports=False), NOW) is None


def test_one_client_who_can_is_enough() -> None:
    expired = replace(ALICE, name="bob", expires=NOW - timedelta(days=1))
    assert nobody_can_knock(config(expired, replace(ALICE, expires=NOW + timedelta(seconds=1))), NOW) is None
