"""Sending: a fresh packet per family, and one line when none can leave."""

import socket
from collections.abc import Iterator
from ipaddress import IPv6Network, ip_address
from typing import Any

import pytest

from openme.client.addresses import BadPageError, Endpoint
from openme.client.blocking import finish
from openme.client.errors import NotSentError, ProfileError
from openme.client.knock import Attempt, build, send
from openme.config.profile_model import Profile
from openme.wire import v1
from openme.wire.knock import IPAddress
from support.driven import Driven
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


def knock(driver: Driven, profile: Profile, wanted: str | None, **options: Any) -> Attempt:
    return finish(send(driver, profile, wanted, **options))


def opened(packet: bytes) -> tuple[int, bytes, object]:
    knocked = v1.open_untrusted(packet, v1.aead_key_untrusted(packet, SERVER.raw))
    assert v1.signed_by(packet, ALICE.public)
    return knocked.timestamp_ns, knocked.random_nonce, knocked.target


def test_a_host_with_both_families_gets_a_fresh_knock_over_each(server: socket.socket) -> None:
    driver = Driven(V6, V4, now_ns=lambda: START)
    attempt = knock(driver, PROFILE, None)
    assert [sent.endpoint for sent in attempt.sent] == [V6, V4]
    first, second = (server.recv(1000) for _ in range(2))
    assert len(first) == len(second) == 165
    assert opened(first)[0] == opened(second)[0] == START
    assert opened(first)[1] != opened(second)[1]
    assert first[1:45] != second[1:45]
    assert opened(first)[2] is None


def test_a_family_that_cannot_be_sent_over_is_told_and_no_failure(server: socket.socket) -> None:
    driver = Driven(Endpoint(socket.AF_INET, "255.255.255.255"), V6)
    attempt = knock(driver, PROFILE, "203.0.113.5")
    assert [sent.endpoint for sent in attempt.sent] == [V6]
    assert [endpoint.host for endpoint, _ in attempt.failed] == ["255.255.255.255"]
    assert str(opened(server.recv(1000))[2]) == "203.0.113.5"


def test_when_nothing_can_be_sent_the_reason_is_one_line() -> None:
    driver = Driven(Endpoint(socket.AF_INET, "255.255.255.255"))
    with pytest.raises(NotSentError, match=r"no knock could be sent: 255\.255\.255\.255: \w+"):
        knock(driver, PROFILE, None)


def test_every_packet_is_fresh() -> None:
    packets = {build(PROFILE, None, START).datagram for _ in range(50)}
    assert len({p[1:33] for p in packets}) == len({p[33:45] for p in packets}) == 50


def test_a_profile_without_a_private_key_says_what_to_do() -> None:
    with pytest.raises(ProfileError, match="no private_key") as caught:
        build(Profile("home", "h", SERVER.public), None, START)
    assert "openme add" in str(caught.value.hint)


def test_a_low_order_server_key_is_refused_without_repeating_it() -> None:
    with pytest.raises(ProfileError, match="low-order"):
        build(Profile("home", "h", bytes(32), private_key=ALICE), None, START)


def test_all_addresses_of_a_family_get_the_same_packet(server: socket.socket) -> None:
    """A second fresh one would be an unused knock in the hands of whoever holds a stale address."""
    others = [Endpoint(socket.AF_INET, f"127.0.0.{number}") for number in range(2, 5)]
    driver = Driven(V4, V6, *others)
    attempt = knock(driver, PROFILE, None)
    assert [sent.endpoint for sent in attempt.sent] == [V4, *others, V6]
    packets = [server.recv(1000) for _ in range(5)]
    assert len(set(packets[:4])) == 1
    assert packets[4] != packets[0]
    assert driver.paused == [0.02] * 4, "an existing server loses one of two that come back to back"


def test_of_too_many_addresses_the_rest_is_counted(server: socket.socket) -> None:
    driver = Driven(*(Endpoint(socket.AF_INET, f"127.0.0.{number}") for number in range(1, 20)))
    attempt = knock(driver, PROFILE, None)
    assert (len(attempt.sent), attempt.left_out) == (16, 3)
    assert len({server.recv(1000) for _ in range(16)}) == 1


# -- a page that tells our address

PAGE = "https://page.example/ip"
ASKING = PROFILE._replace(ip=PAGE)


def test_what_a_page_says_over_each_family_is_named_in_its_knock(server: socket.socket) -> None:
    driver = Driven(V6, V4, Endpoint(socket.AF_INET, "127.0.0.2"))
    asked: list[object] = []

    def page(url: str, family: socket.AddressFamily, version: int) -> IPAddress:
        asked.append((url, family, version))
        return ip_address("8.8.4.4" if version == 4 else "2606:4700::1111")

    attempt = knock(driver, ASKING, PAGE, page=page)
    assert asked == [(PAGE, socket.AF_INET6, 6), (PAGE, socket.AF_INET, 4)], "once for each family"
    assert [(str(sent.target), sent.told_by) for sent in attempt.sent] == [
        ("2606:4700::1111", PAGE),
        ("8.8.4.4", PAGE),
        ("8.8.4.4", PAGE),
    ]
    assert [str(opened(server.recv(1000))[2]) for _ in range(2)] == ["2606:4700::1111", "8.8.4.4"]


def test_a_family_that_the_page_does_not_answer_over_is_left_out_and_the_other_goes(server: socket.socket) -> None:
    """Never by the source address instead: whoever keeps the page away would have a knock to steal."""
    driver = Driven(V6, V4)

    def page(_url: str, _family: socket.AddressFamily, version: int) -> IPAddress:
        if version == 6:
            raise BadPageError("it is away")
        return ip_address("8.8.4.4")

    attempt = knock(driver, ASKING, PAGE, page=page)
    assert [sent.endpoint for sent in attempt.sent] == [V4]
    assert attempt.unnamed == (("IPv6", f"profile home: ip: {PAGE}: it is away"),)
    assert str(opened(server.recv(1000))[2]) == "8.8.4.4"
    server.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with pytest.raises(BlockingIOError):
        server.recv(1000)


@pytest.mark.parametrize(("profile", "field"), [(ASKING, "ip"), (PROFILE, "--ip")])
def test_without_any_answer_nothing_leaves_and_the_error_names_profile_and_field(
    server: socket.socket, profile: Profile, field: str
) -> None:
    driver = Driven(V6, V4)

    def page(*_: object) -> IPAddress:
        raise BadPageError("it is away")

    with pytest.raises(NotSentError) as caught:
        knock(driver, profile, PAGE, page=page)
    assert caught.value.message == "no knock could be sent: " + "; ".join(
        f"{over}: profile home: {field}: {PAGE}: it is away" for over in ("IPv6", "IPv4")
    )
    assert "--ip" in (caught.value.hint or "")
    server.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with pytest.raises(BlockingIOError):
        server.recv(1000)


def test_a_family_that_leads_nowhere_asks_no_page(server: socket.socket) -> None:
    driver = Driven(Endpoint(socket.AF_INET, "255.255.255.255"), V6)
    asked: list[int] = []

    def page(_url: str, _family: socket.AddressFamily, version: int) -> IPAddress:
        asked.append(version)
        return ip_address("2606:4700::1111")

    knock(driver, ASKING, PAGE, page=page)
    assert asked == [6]
    assert len(server.recv(1000)) == 165


def test_the_clock_is_read_after_the_page_has_answered(server: socket.socket) -> None:
    """A page may take seconds, and a knock is as old as its timestamp."""
    times = [START]
    driver = Driven(V4, now_ns=lambda: times[-1])

    def page(*_: object) -> IPAddress:
        times.append(START + 7)
        return ip_address("8.8.4.4")

    knock(driver, ASKING, PAGE, page=page)
    assert opened(server.recv(1000))[0] == START + 7


def test_behind_nat64_the_page_has_to_say_what_the_server_sees(server: socket.socket) -> None:
    """An IPv4 address, although the knock leaves over IPv6."""
    driver = Driven(V6)
    asked: list[object] = []

    def page(_url: str, family: socket.AddressFamily, version: int) -> IPAddress:
        asked.append((family, version))
        return ip_address("8.8.4.4")

    knock(driver, ASKING, PAGE, page=page, prefixes=lambda own: [IPv6Network((own, 128))])
    assert asked == [(socket.AF_INET6, 4)]
    assert str(opened(server.recv(1000))[2]) == "8.8.4.4"
