"""Ports that a host sends elsewhere before openme sees them: found in real rules, and said."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.firewall.redirects import HostRule, redirects, untracked
from openme.netlink.nftables import NfNetlink
from openme.ports import PortRange, parse_port_spec
from support.netns import Namespace, namespace
from support.server import ServerWorld

pytestmark = pytest.mark.root

MANAGED = (*parse_port_spec("22/tcp"), *parse_port_spec("8080-8090"))


@pytest.fixture
def host() -> Iterator[Namespace]:
    with ExitStack() as stack:
        yield namespace(stack)


def found(host: Namespace, look: Callable[[NfNetlink, Iterable[PortRange]], Sequence[HostRule]]) -> list[str]:
    with host.entered():
        netlink = NfNetlink()
    try:
        return [f"{item.ports} {item.place}" for item in look(netlink, MANAGED)]
    finally:
        netlink.close()


def rules(*lines: str, family: str = "ip", chain: str = "type nat hook prerouting priority -100;") -> str:
    return f"table {family} t {{ chain c {{ {chain}\n" + "\n".join(lines) + "\n}\n}\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (rules("tcp dport 22 dnat to 10.0.0.2"), ["22/tcp ip t c"]),
        (rules("iifname eth9 tcp dport 22 dnat to 10.0.0.2:2222"), ["22/tcp ip t c"]),
        (rules("tcp dport 22 redirect to :2222", family="inet"), ["22/tcp inet t c"]),
        (rules("tcp dport 22 dnat to 2001:db8::9", family="ip6"), ["22/tcp ip6 t c"]),
        (rules("tcp sport 5 tcp dport 22 dnat to 10.0.0.2"), ["22/tcp ip t c"]),
        (rules("udp dport 8085-9000 dnat to 10.0.0.2"), ["8085-8090/udp ip t c"]),
        (rules("tcp dport >= 8090 dnat to 10.0.0.2"), ["8090/tcp ip t c"]),
        (rules("tcp dport { 21, 22, 8081 } dnat to 10.0.0.2"), ["22/tcp ip t c", "8081/tcp ip t c"]),
        (rules("tcp dport { 20-22, 8088-8089 } dnat to 10.0.0.2"), ["22/tcp ip t c", "8088-8089/tcp ip t c"]),
        (rules("dnat to tcp dport map { 22 : 10.0.0.2, 23 : 10.0.0.3 }"), ["22/tcp ip t c"]),
        (rules("meta l4proto tcp dnat to 10.0.0.2"), ["22/tcp ip t c", "8080-8090/tcp ip t c"]),
        ("table ip t { chain pub { tcp dport 22 dnat to 10.0.0.2; }; }\n" + rules("jump pub"), ["22/tcp ip t pub"]),
        # And what takes no managed port away.
        (rules("tcp dport 80 dnat to 10.0.0.2"), []),
        (rules("udp dport 22 dnat to 10.0.0.2"), []),
        (rules("tcp dport 22 accept"), []),
        (rules("tcp dport 22 dnat to 10.0.0.2", chain="type nat hook output priority -100;"), []),
        (rules("tcp dport 22 snat to 10.0.0.2", chain="type nat hook postrouting priority 100;"), []),
        (rules("tcp dport 22 drop", chain="type filter hook prerouting priority 0;"), []),
        ("", []),
    ],
)
def test_rules_of_nft(host: Namespace, script: str, expected: list[str]) -> None:
    host.nft(script)
    assert found(host, redirects) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("! -i docker0 -p tcp -m tcp --dport 22 -j DNAT --to-destination 172.17.0.2:22", ["22/tcp ip nat DOCKER"]),
        ("-p udp --dport 8080:8081 -j REDIRECT --to-ports 53", ["8080-8081/udp ip nat DOCKER"]),
        (
            "-p tcp -m multiport --dports 21,22,8089:9000 -j DNAT --to-destination 172.17.0.2",
            ["22/tcp ip nat DOCKER", "8089-8090/tcp ip nat DOCKER"],
        ),
        ("-p tcp -m multiport --sports 22 -j DNAT --to-destination 172.17.0.2", []),
        ("-p tcp --dport 80 -j DNAT --to-destination 172.17.0.2", []),
        ("-p tcp --dport 22 -j RETURN", []),
    ],
)
def test_rules_of_iptables(host: Namespace, words: str, expected: list[str]) -> None:
    """As a container engine writes them: a chain of its own, to which prerouting jumps."""
    for line in ("-N DOCKER", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", f"-A DOCKER {words}"):
        host.run("iptables-nft", "-t", "nat", *line.split())
    assert found(host, redirects) == expected


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., ServerWorld]]:
    with ExitStack() as stack:
        yield lambda **settings: ServerWorld(stack, tmp_path, **settings)


def test_serve_and_check_config_say_it(make_world: Callable[..., ServerWorld]) -> None:
    world = make_world()
    world.add("alice")
    world.server.nft(rules("tcp dport { 22, 443 } dnat to 10.0.0.2"))
    said = "22/tcp is sent elsewhere by a rule in ip t c before openme sees it"
    checked = world.openme(world.server, "--config", world.config, "check-config", code=0)
    assert said in checked.stderr
    world.start()
    world.says(f"warning: {said}")
    assert "443/tcp" not in world.log()
    world.set_ports(default="[22/tcp, 443/tcp]")
    world.says("warning: 443/tcp is sent elsewhere")
    assert world.log().count(said) == 1, "once is enough"
    world.stop()
    world.server.nft("flush ruleset")
    world.start()
    assert "sent elsewhere" not in world.log()


# -- ports that are not tracked

RAW = "type filter hook prerouting priority raw;"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (rules("tcp dport 22 notrack", chain=RAW), ["22/tcp ip t c"]),
        (rules("iifname eth9 tcp dport { 22, 80 } notrack", chain=RAW, family="inet"), ["22/tcp inet t c"]),
        (
            rules("notrack", chain=RAW, family="ip6"),
            ["22/tcp ip6 t c", "8080-8090/tcp ip6 t c", "8080-8090/udp ip6 t c"],
        ),
        # What does not concern our ports, or not those that come in.
        (rules("iif lo notrack", chain=RAW), []),
        (rules("udp dport 53 notrack", chain=RAW), []),
        (rules("tcp dport 22 accept", chain=RAW), []),
        (rules("tcp sport 22 notrack", chain="type filter hook output priority raw;"), []),
    ],
)
def test_rules_that_keep_a_port_untracked(host: Namespace, script: str, expected: list[str]) -> None:
    host.nft(script)
    assert sorted(found(host, untracked)) == sorted(expected)


@pytest.mark.parametrize("target", ["NOTRACK", "CT --notrack"])
def test_rules_of_iptables_that_keep_a_port_untracked(host: Namespace, target: str) -> None:
    host.run("iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "22", "-j", *target.split())
    host.run("iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "CT", "--zone", "7")
    assert found(host, untracked) == ["22/tcp ip raw PREROUTING"]


def test_the_server_and_check_config_say_that_a_port_is_not_tracked(world: ServerWorld) -> None:
    world.server.nft(f"table inet raw {{ chain early {{ {RAW} tcp dport 22 notrack; }}; }}")
    world.add("alice")
    world.start()
    world.says("warning: 22/tcp is not tracked, by a rule in inet raw early")
    checked = world.openme(world.server, "--config", world.config, "check-config")
    assert "22/tcp is not tracked, by a rule in inet raw early" in checked.stderr
