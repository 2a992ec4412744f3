"""Where a knock goes and which address it names."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from openme.client.addresses import Endpoint, local_address, parse_target, resolve
from openme.errors import OpenmeError

V4, V6 = socket.AF_INET, socket.AF_INET6


def answers(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, tuple[Any, ...]]) -> None:
    rows = [(family, socket.SOCK_DGRAM, 17, "", sockaddr) for family, sockaddr in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)


def test_a_name_gets_every_address_once_in_the_resolvers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(
        monkeypatch,
        (V6, ("2001:db8::1", 1, 0, 0)),
        (V4, ("192.0.2.1", 1)),
        (V6, ("2001:db8::2", 1, 0, 0)),
        (V4, ("192.0.2.2", 1)),
        (V4, ("192.0.2.1", 1)),
    )
    found = [(V6, "2001:db8::1"), (V4, "192.0.2.1"), (V6, "2001:db8::2"), (V4, "192.0.2.2")]
    assert resolve("host.example", 1) == [Endpoint(*one) for one in found]


def test_families_that_carry_no_knock_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, (socket.AF_UNIX, ("/x",)), (V4, ("192.0.2.1", 1)))
    assert resolve("host.example", 1) == [Endpoint(V4, "192.0.2.1")]


def test_a_link_local_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, (V6, ("fe80::1", 1, 0, 3)))
    assert resolve("router.local", 1) == [Endpoint(V6, "fe80::1%3")]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_an_unknown_name_is_one_line_with_the_name(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(OpenmeError, match=r"host\.example") as caught:
        resolve("host.example", 1)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_its_own_endpoint(host: str) -> None:
    assert [endpoint.host for endpoint in resolve(host, 54154)] == [host]


@pytest.mark.parametrize("text", ["", "auto ", "here", "203.0.113", "203.0.113.5/32", "1.2.3.4\n", "::g"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OpenmeError) as caught:
        parse_target(text)
    assert "203.0.113.5" in str(caught.value.hint)


def test_the_local_address_is_the_one_that_is_sent_from() -> None:
    with socket.socket(V4, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        assert local_address(sock) == ip_address("127.0.0.1")
