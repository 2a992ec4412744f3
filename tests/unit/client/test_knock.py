"""Sending: a fresh packet per family, and one line when none can leave."""

import socket
from collections.abc import Iterator

import pytest

from openme.client import knock as knock_module
from openme.client.addresses import Endpoint
from openme.client.knock import build, knock
from openme.client.plan import V1_PAUSE
from openme.config.model import Profile
from openme.errors import OpenmeError
from openme.wire import v1
from support.knocks import ALICE, SERVER, START
from support.ports import free_port

PORT = free_port()
PROFILE = Profile("home", "host.example", SERVER.public, PORT, PORT, ALICE, ALICE.public)
V4, V6 = Endpoint(socket.AF_INET, "127.0.0.1"), Endpoint(socket.AF_INET6, "::1")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", PORT))
        sock.settimeout(5)
        yield sock


def endpoints(monkeypatch: pytest.MonkeyPatch, *found: Endpoint) -> None:
    monkeypatch.setattr(knock_module, "resolve", lambda *_: list(found))


def opened(packet: bytes) -> tuple[int, bytes, object]:
    knocked = v1.open_untrusted(packet, v1.aead_key_untrusted(packet, SERVER.raw))
    assert v1.signed_by(packet, ALICE.public)
    return knocked.timestamp_ns, knocked.random_nonce, knocked.target


def test_a_host_with_both_families_gets_a_fresh_knock_over_each(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints(monkeypatch, V6, V4)
    attempt = knock(PROFILE, None, lambda: START)
    assert [sent.endpoint for sent in attempt.sent] == [V6, V4]
    first, second = (server.recv(1000) for _ in range(2))
    assert len(first) == len(second) == 165
    assert opened(first)[0] == opened(second)[0] == START
    assert opened(first)[1] != opened(second)[1]
    assert first[1:45] != second[1:45]
    assert opened(first)[2] is None


def test_a_family_that_cannot_be_sent_over_is_told_and_no_failure(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints(monkeypatch, Endpoint(socket.AF_INET, "255.255.255.255"), V6)
    attempt = knock(PROFILE, "203.0.113.5")
    assert [sent.endpoint for sent in attempt.sent] == [V6]
    assert [endpoint.host for endpoint, _ in attempt.failed] == ["255.255.255.255"]
    assert str(opened(server.recv(1000))[2]) == "203.0.113.5"


def test_when_nothing_can_be_sent_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints(monkeypatch, Endpoint(socket.AF_INET, "255.255.255.255"))
    with pytest.raises(OpenmeError, match=r"no knock could be sent: 255\.255\.255\.255: \w+"):
        knock(PROFILE, None)


def test_every_packet_is_fresh() -> None:
    packets = {build(PROFILE, None, START).datagram for _ in range(50)}
    assert len({p[1:33] for p in packets}) == len({p[33:45] for p in packets}) == 50


def test_a_profile_without_a_private_key_says_what_to_do() -> None:
    with pytest.raises(OpenmeError, match="no private_key") as caught:
        build(Profile("home", "h", SERVER.public), None, START)
    assert "openme add" in str(caught.value.hint)


def test_a_low_order_server_key_is_refused_without_repeating_it() -> None:
    with pytest.raises(OpenmeError, match="low-order"):
        build(Profile("home", "h", bytes(32), private_key=ALICE), None, START)


def test_all_addresses_of_a_family_get_the_same_packet(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fresh one would be an unused knock in the hands of whoever holds a stale address."""
    others = [Endpoint(socket.AF_INET, f"127.0.0.{number}") for number in range(2, 5)]
    endpoints(monkeypatch, V4, V6, *others)
    pauses: list[float] = []
    attempt = knock(PROFILE, None, lambda: START, pause=pauses.append)
    assert [sent.endpoint for sent in attempt.sent] == [V4, *others, V6]
    packets = [server.recv(1000) for _ in range(5)]
    assert len(set(packets[:4])) == 1
    assert packets[4] != packets[0]
    assert pauses == [V1_PAUSE] * 4, "an existing server loses one of two that come back to back"


def test_of_too_many_addresses_the_rest_is_counted(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints(monkeypatch, *(Endpoint(socket.AF_INET, f"127.0.0.{number}") for number in range(1, 20)))
    attempt = knock(PROFILE, None, pause=lambda _: None)
    assert (len(attempt.sent), attempt.left_out) == (16, 3)
    assert len({server.recv(1000) for _ in range(16)}) == 1
