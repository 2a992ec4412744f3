"""Where a knock goes and which address it names."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from openme.client.addresses import Endpoint, local_address, parse_page, parse_target, parse_wanted, resolve
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


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("https://page.example", ("page.example", 443, "page.example", "/")),
        ("https://page.example/ip?who=me", ("page.example", 443, "page.example", "/ip?who=me")),
        ("https://page.example:8443?x", ("page.example", 8443, "page.example:8443", "/?x")),
        ("https://[2001:db8::1]:8443/", ("2001:db8::1", 8443, "[2001:db8::1]:8443", "/")),
    ],
)
def test_a_page_has_a_host_a_port_and_a_path(text: str, page: tuple[str, int, str, str]) -> None:
    assert parse_page(text) == page
    assert parse_wanted(text) == text


def test_what_is_wanted_is_a_word_an_address_or_a_page() -> None:
    wanted = ["auto", "source", "::ffff:203.0.113.5", "2001:DB8::7"]
    assert [parse_wanted(text) for text in wanted] == ["auto", "source", "203.0.113.5", "2001:db8::7"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://page.example/", "is not https: whoever sits on the way would choose whose address opens"),
        ("HTTP://page.example/", "is not https"),
        ("https://user@page.example/", "is no page"),
        ("https://page.example:65536/", "is no page"),
        ("https://page.example/\r\nHost: other.example", "is no page"),
        ("here", "is no IP address"),
    ],
)
def test_what_else_is_wanted_is_refused(text: str, says: str) -> None:
    with pytest.raises(OpenmeError, match=says):
        parse_wanted(text)
