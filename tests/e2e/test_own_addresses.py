"""The kernel's answers about own addresses are kept, and forgotten when a change could make them untrue."""

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from openme.server.addresses import OwnAddresses
from support.netns import Namespace, namespace

OURS = ip_address("192.0.2.7")


@pytest.fixture
def host() -> Iterator[Namespace]:
    with ExitStack() as stack:
        made = namespace(stack)
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "link", "add", "card0", "type", "veth", "peer", "name", "card1")
        made.run("ip", "link", "set", "card1", "up")
        made.run("ip", "link", "set", "card0", "up")
        yield made


def test_the_kernel_is_asked_once(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with host.entered():
        own = OwnAddresses()
        asked: list[bytes] = []
        ask = own._questions.stays

        def counted(address: bytes, interface: int | None) -> bool | None:
            asked.append(address)
            return ask(address, interface)

        monkeypatch.setattr(own._questions, "stays", counted)
        assert [own(OURS) for _ in range(100)] == [False] * 100
        assert len(asked) == 1
        own.close()


@pytest.mark.parametrize(
    ("make", "undo"),
    [
        ("address add 192.0.2.7/32 dev card0", "address del 192.0.2.7/32 dev card0"),
        ("route add local 192.0.2.7/32 dev lo", "route del local 192.0.2.7/32 dev lo"),
        ("address add 192.0.2.1/29 dev card0", "address del 192.0.2.1/29 dev card0"),  # the broadcast address
    ],
)
def test_a_change_of_the_host_is_seen_at_the_next_question(host: Namespace, make: str, undo: str) -> None:
    with host.entered():
        own = OwnAddresses()
        for _ in range(3):
            assert own(OURS) is False
            host.run("ip", *make.split())
            assert own(OURS) is True
            host.run("ip", *undo.split())
        assert own(OURS) is False
        own.close()


def test_a_rule_that_leads_elsewhere_is_seen_as_well(host: Namespace) -> None:
    with host.entered():
        own = OwnAddresses()
        host.run("ip", "route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "77")
        assert own(OURS) is False
        host.run("ip", "rule", "add", "to", "192.0.2.0/24", "lookup", "77")
        assert own(OURS) is True
        own.close()


def test_more_changes_than_the_socket_holds_are_a_change(host: Namespace) -> None:
    with host.entered():
        own = OwnAddresses()
        assert own(OURS) is False
        batch = "".join(
            f"address {word} 10.{number // 250}.{number % 250}.1/32 dev card0\n"
            for number in range(2500)
            for word in ("add", "del")
        )
        host.run("ip", "address", "add", "192.0.2.7/32", "dev", "card0")
        host.run("ip", "-batch", "-", stdin=batch)
        assert own(OURS) is True
        own.close()
