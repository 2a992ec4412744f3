"""`port_scan`: a hidden port and the knock port look exactly like the host's other unused ports.

A stranger scans used and unused ports before, during and after alice's grant. What nmap concludes must be the same, and
so must every reply header by header: what a scanner other than nmap could look at.

    host        its own firewall             hidden_as   an unused TCP port   an unused UDP port
    dropping    policy drop on input         drop        silent               silent
    plain       none                         reject      reset                silent (hide_udp_errors)
    rejecting   reject at the end of input   reject      reset                silent (hide_udp_errors)
"""

import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from support.claims import ClaimsWorld
from support.handmade import PHANTOM, wire
from support.netns import until
from support.odd_probes import ERROR, drawn_answers, error_after, prepare_for_errors
from support.replies import TCP, UDP, Port, Replies, Watch, watch
from support.server import KNOCK_PORT, SERVER

pytestmark = pytest.mark.root

DROPPING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
        icmp type echo-request accept
        meta l4proto 253 accept
    }
}
"""
REJECTING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ct state established accept
        meta l4proto tcp reject with tcp reset
        reject with icmpx type port-unreachable
    }
}
"""
USED = (Port(TCP, 22), Port(TCP, KNOCK_PORT))  # a service behind a managed port, and the health port
UNUSED = Port(TCP, 4000)
USED_UDP = (Port(UDP, 5300), Port(UDP, KNOCK_PORT))  # a service behind a managed port, and the knock port
UNUSED_UDP = Port(UDP, 4001)
TCP_SCANS = ("-sS", "-sT", "-sA", "-sN")
FURTHER_SCANS = ("-sF", "-sX")
HURRY = (
    "--max-retries",
    "0",
    "--min-rtt-timeout",
    "50ms",
    "--initial-rtt-timeout",
    "100ms",
    "--max-rtt-timeout",
    "200ms",
)
SYN, TCP_CHECKSUM = 2, 16  # a flag, and the checksum's place in a TCP header
PROBE_CLASS = 0xBB  # of traffic: a DSCP and both ECN bits

versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., ClaimsWorld]]:
    with ExitStack() as stack:

        def make(host: str = "", **settings: object) -> ClaimsWorld:
            world = ClaimsWorld(stack, tmp_path, knock_timeout="5m", **settings)
            world.set_ports(default="[22/tcp, 5300/udp]")
            world.populate(2)
            world.serve(udp=[5300])
            world.server.nft(host)
            world.start()
            return world

        yield make


def nmap(world: ClaimsWorld, version: int, *words: str) -> dict[str, tuple[str, str]]:
    """nmap's state and reason of each port, such as `{"22/tcp": ("closed", "reset")}`."""
    family = ["-6"] if version == 6 else []
    report = world.stranger.run("nmap", *family, "-Pn", "-n", "-vv", "--reason", *HURRY, *words, SERVER[version])
    found = re.findall(r"^(\d+/(?:tcp|udp))\s+(\S+)\s+\S+\s+(\S+)", report, re.MULTILINE)
    return {port: (state, reason) for port, state, reason in found}


def connected_with_a_class(world: ClaimsWorld, version: int) -> None:
    """Probes whose traffic class a reply may or may not repeat."""
    for port in (*USED, UNUSED):
        with closing(world.socket_on(world.stranger, socket.SOCK_STREAM, version)) as probe:
            if version == 4:
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, PROBE_CLASS)
            else:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, PROBE_CLASS)
            assert probe.connect_ex((SERVER[version], port.number)) != 0


def compare(replies: Replies, used: tuple[Port, ...], unused: Port, doing: str) -> list[tuple[object, ...]]:
    """Every used port has been answered like the unused one, whose replies these are."""
    assert set(replies) == {*used, unused}, f"{doing}: the watch saw other probes"
    for port in used:
        assert replies[port].character == replies[unused].character, f"{doing}: {port} differs from {unused}"
    return replies[unused].replies


def scan(world: ClaimsWorld, version: int, seen: Watch, *, silent: bool, further: tuple[str, ...] = ()) -> None:
    """Every scan, each compared by verdict and reply by reply. `silent`: unused TCP ports are."""
    ports = ",".join(str(port.number) for port in (*USED, UNUSED))
    seen.replies()
    for kind in TCP_SCANS + further:
        verdicts = nmap(world, version, kind, "-p", ports)
        assert set(verdicts) == {str(port) for port in (*USED, UNUSED)}, verdicts
        assert len(set(verdicts.values())) == 1, f"nmap {kind} tells them apart: {verdicts}"
        answers = compare(seen.replies(), USED, UNUSED, f"nmap {kind}")
        assert (not answers) == silent, f"nmap {kind}: {answers}"
    ports = ",".join(str(port.number) for port in (*USED_UDP, UNUSED_UDP))
    verdicts = nmap(world, version, "-sU", "-p", ports)
    assert verdicts == {str(port): ("open|filtered", "no-response") for port in (*USED_UDP, UNUSED_UDP)}
    assert compare(seen.replies(), USED_UDP, UNUSED_UDP, "nmap -sU") == []
    connected_with_a_class(world, version)
    answers = compare(seen.replies(), USED, UNUSED, "a probe with a traffic class")
    assert (not answers) == silent


@versions
@pytest.mark.parametrize(
    ("host", "hidden_as"),
    [(DROPPING_HOST, "drop"), ("", "reject"), (REJECTING_HOST, "reject")],
    ids=["dropping", "plain", "rejecting"],
)
def test_used_ports_look_like_unused_ones_also_during_a_grant(
    make_world: Callable[..., ClaimsWorld], version: int, host: str, hidden_as: str
) -> None:
    world = make_world(host, hidden_as=hidden_as)
    with watch(world.stranger, SERVER[version]) as seen:
        silent = hidden_as == "drop"
        scan(world, version, seen, silent=silent)
        world.opens(world.alice, version=version, port=22)
        scan(world, version, seen, silent=silent, further=FURTHER_SCANS)
        assert world.is_in("alice")
        assert world.tcp(world.client, 22, version) == "open", "the service was there all the time"
        world.close("alice")
        assert world.tcp(world.client, 22, version) != "open"
        scan(world, version, seen, silent=silent)


PLAIN_AND_DROPPING = pytest.mark.parametrize(
    ("host", "hidden_as"), [(DROPPING_HOST, "drop"), ("", "reject")], ids=["dropping", "plain"]
)


@versions
@PLAIN_AND_DROPPING
def test_odd_probes_are_answered_alike_byte_for_byte(
    make_world: Callable[..., ClaimsWorld], version: int, host: str, hidden_as: str
) -> None:
    """Every combination of flags, TCP and IP options, extension headers, fragments, wrong lengths and checksums."""
    world = make_world(host, hidden_as=hidden_as)
    world.server.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    world.opens(world.alice, version=version, port=22)
    with wire(world.stranger, world.server, version) as cable:
        for used, unused in ((USED, UNUSED), (USED_UDP, UNUSED_UDP)):
            told = drawn_answers(cable, unused.proto, [port.number for port in (*used, unused)])
            for port in used:
                assert told[port.number] == told[unused.number], f"{port} differs from {unused}"
            assert ("plain" in told[unused.number]) == (unused.proto == TCP and hidden_as == "reject")
    assert world.is_in("alice")


@versions
@PLAIN_AND_DROPPING
def test_probes_of_used_ports_cost_what_those_of_unused_ones_do(
    make_world: Callable[..., ClaimsWorld], version: int, host: str, hidden_as: str
) -> None:
    """The kernel limits the errors for one address; another error tells whether a probe has cost one."""
    world = make_world(host, hidden_as=hidden_as)
    prepare_for_errors(world.server, version)
    ports = (*USED, UNUSED, *USED_UDP, UNUSED_UDP)
    for number, port in enumerate(ports, PHANTOM):  # each from an address with a limit of its own
        with wire(world.stranger, world.server, version, number=number) as cable:
            probe = cable.udp if port.proto == UDP else lambda near, far: cable.tcp(near, far, SYN)
            assert error_after(cable, *(probe(40000 + n, port.number) for n in range(12))) == [ERROR[version]], port


def syn_to_every_port(world: ClaimsWorld) -> None:
    """What `nmap -6 -sS -p-` sends, without the minute that nmap takes for it."""
    with world.stranger.entered():
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with closing(raw):
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, TCP_CHECKSUM)
        for number in range(1, 65536):
            segment = struct.pack("!HHIIBBHHH", 40000, number, 20261123, 0, 5 << 4, SYN, 1024, 0, 0)
            raw.sendto(segment, (SERVER[6], 0))


@versions
def test_no_tcp_port_of_all_stands_out(make_world: Callable[..., ClaimsWorld], version: int) -> None:
    world = make_world(hidden_as="reject")
    world.opens(world.alice, version=version, port=22)
    answered: dict[Port, set[tuple[object, ...]]] = {}

    def complete(seen: Watch) -> bool:
        for port, answers in seen.replies().items():
            answered.setdefault(port, set()).update(answers.replies)
        return len(answered) == 65535 and all(answered.values())

    with watch(world.stranger, SERVER[version]) as seen:
        if version == 4:
            nmap(world, version, "-sS", "-p-", "--max-retries", "1")
        else:
            syn_to_every_port(world)
        until(lambda: complete(seen))
    assert world.is_in("alice")
    assert len({frozenset(kinds) for kinds in answered.values()}) == 1, {p: answered[p] for p in (*USED, UNUSED)}


@versions
def test_without_hide_udp_errors_the_knock_port_can_be_told(
    make_world: Callable[..., ClaimsWorld], version: int
) -> None:
    world = make_world(hidden_as="reject", hide_udp_errors=False)
    ports = ",".join(str(port.number) for port in (*USED_UDP, UNUSED_UDP))
    closed, silent = ("closed", "port-unreach"), ("open|filtered", "no-response")
    verdicts = nmap(world, version, "-sU", "-p", ports)
    hidden, knock = map(str, USED_UDP)
    assert verdicts == {hidden: closed, knock: silent, str(UNUSED_UDP): closed}


@versions
def test_the_comparison_sees_a_port_that_is_hidden_otherwise(
    make_world: Callable[..., ClaimsWorld], version: int
) -> None:
    world = make_world(hidden_as="drop")  # on a host that answers: docs/operating.md says that this shows
    with watch(world.stranger, SERVER[version]) as seen:
        nmap(world, version, "-sS", "-p", "22,4000")
        replies = seen.replies()
        assert replies[Port(TCP, 22)].replies == []
        assert len(replies[UNUSED].replies) == 1
        with pytest.raises(AssertionError, match="22/tcp differs from 4000/tcp"):
            compare(replies, (Port(TCP, 22),), UNUSED, "this scan")
        # A header that nmap does not look at.
        world.server.nft(
            "add table inet host; add chain inet host out { type filter hook output priority 0; };"
            "add rule inet host out tcp sport 4000 ip ttl set 63;"
            "add rule inet host out tcp sport 4000 ip6 hoplimit set 63"
        )
        verdicts = nmap(world, version, "-sS", "-p", "4000,4002")
        assert verdicts["4000/tcp"] == verdicts["4002/tcp"] == ("closed", "reset")
        replies = seen.replies()
        with pytest.raises(AssertionError, match="4002/tcp differs from 4000/tcp"):
            compare(replies, (Port(TCP, 4002),), UNUSED, "this scan")
