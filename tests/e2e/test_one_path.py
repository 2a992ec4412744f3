"""Hidden ports and unused ones take one path through the kernel; what is in use is left alone, whatever uses it.

+--------------------------------+            +------------------------+
| server                         |   eth0     | stranger               |
| firewall, services             +------------+ 192.0.2.2              |
| 192.0.2.1  2001:db8::1         |            | 2001:db8::2            |
+--------------------------------+            +------------------------+
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from openme.firewall import nft
from openme.firewall.base import PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.firewall.virtual_services import VirtualServices, has_services
from openme.netlink.families import NETLINK_GENERIC
from openme.ports import parse_port_spec
from support.handmade import ACK, PHANTOM, RST, SYN, TCP, UDP, Cable, wire
from support.netns import Namespace, connect, namespace, until, v4, v6
from support.odd_probes import ERROR, UNKNOWN_PROTOCOL, drawn_answers, error_after, prepare_for_errors, probes

pytestmark = pytest.mark.root

KNOCK, WITH_SERVICE, WITHOUT, UNUSED, OTHER = 54154, 22, 5300, 4000, 61000
"""The knock port, a hidden port with a service (TCP and UDP) and one without, and two that nobody uses."""
PUBLIC = 8080
RULES = Rules(
    knock_port=KNOCK,
    open_knock_port=True,
    hidden=parse_port_spec(f"{WITH_SERVICE}") + parse_port_spec(f"{WITHOUT}") + parse_port_spec(f"{KNOCK}/tcp"),
    hidden_as="reject",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({PortList(parse_port_spec(f"{WITH_SERVICE}"))}),
)
DROPPING = replace(RULES, hidden_as="drop")
DROPPING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
        icmp type echo-request accept
    }
}
"""
PLAIN_HOST = ""
ALL_NODES = {4: "224.0.0.1", 6: "ff02::1"}
BROADCAST = {4: "192.0.2.255", 6: "2001:db8::"}  # of IPv6 the anycast address of the subnet's routers
BEFORE_ANY_RULE = {
    *(f"headers hop by hop with option {kind:#04x}" for kind in (0x9E, 0xDE)),
    *("headers authentication", "headers unknown header"),  # protocols to it, which the host does not know
}
WAIT = 0.3  # seconds without an answer that mean silence: between namespaces a packet needs microseconds

both_versions = pytest.mark.parametrize("version", [4, 6])
both_hosts = pytest.mark.parametrize(
    ("host", "rules"), [(PLAIN_HOST, RULES), (DROPPING_HOST, DROPPING)], ids=["reject", "drop"]
)


@dataclass
class Hosts:
    stack: ExitStack
    server: Namespace
    stranger: Namespace
    firewall: NftFirewall

    def cable(self, version: int) -> Cable:
        return self.stack.enter_context(wire(self.stranger, self.server, version))

    def bound(
        self, kind: socket.SocketKind, port: int, at: str = "::", *, host: Namespace | None = None
    ) -> socket.socket:
        """A socket of the server that waits on a port; a listening one if it is TCP's."""
        with (host or self.server).entered():
            made = socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, kind)
        self.stack.enter_context(closing(made))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((at, port))
        if kind == socket.SOCK_STREAM:
            made.listen()
        made.settimeout(5)
        return made

    def serve(self) -> None:
        """The services behind the ports."""
        for port in (WITH_SERVICE, PUBLIC):
            self.bound(socket.SOCK_STREAM, port)
            self.bound(socket.SOCK_DGRAM, port)
        self.bound(socket.SOCK_DGRAM, KNOCK)

    def set(self, **values: object) -> None:
        """Kernel settings of the server, such as `net__ipv4__ip_forward=1`."""
        for name, value in values.items():
            self.server.run("sysctl", "-qw", f"{name.replace('__', '.')}={value}")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        server, stranger = namespace(stack), namespace(stack)
        connect(server, stranger)
        with server.entered():
            firewall = NftFirewall()
        yield Hosts(stack, server, stranger, firewall)


# -- alike


def unlimited(hosts: Hosts) -> None:
    """Errors by ICMP are counted elsewhere; here each probe gets the answer that it draws."""
    hosts.set(net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0)
    hosts.set(net__ipv6__conf__all__forwarding=1, net__ipv4__conf__all__accept_source_route=1)


@both_versions
@both_hosts
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_every_odd_probe_is_answered_alike(hosts: Hosts, version: int, host: str, rules: Rules, proto: int) -> None:
    unlimited(hosts)
    hosts.server.nft(host)
    hosts.serve()
    hosts.firewall.start(rules)
    cable = hosts.cable(version)
    assert len(probes(cable, proto, UNUSED)) > 47
    for to in (None, ALL_NODES[version], BROADCAST[version]):
        told = drawn_answers(cable, proto, [WITH_SERVICE, WITHOUT, KNOCK, UNUSED, OTHER], to=to)
        assert told[UNUSED] == told[OTHER], "the comparison itself"
        for port in (WITH_SERVICE, WITHOUT, KNOCK):
            odd = {
                name
                for name in told[port].keys() | told[UNUSED].keys()
                if told[port].get(name) != told[UNUSED].get(name)
            }
            assert not odd, f"{port} to {to}: {[(name, told[port].get(name), told[UNUSED].get(name)) for name in odd]}"
        if to is None and proto == TCP:
            assert ("plain" in told[UNUSED]) == (rules is RULES)
            assert "to everybody on the wire" not in told[UNUSED], "which TCP answers at no port"
        if to is None and proto == UDP:
            # What the kernel answers before anybody is asked.
            assert told[UNUSED].keys() <= BEFORE_ANY_RULE, told[UNUSED].keys()


@both_versions
def test_the_comparison_sees_what_differs(hosts: Hosts, version: int) -> None:
    unlimited(hosts)
    hosts.serve()
    hosts.firewall.start(replace(RULES, hide_udp_errors=False))
    cable = hosts.cable(version)
    told = drawn_answers(cable, UDP, [KNOCK, UNUSED])
    assert "plain" in told[UNUSED]
    assert "plain" not in told[KNOCK]
    told = drawn_answers(cable, TCP, [PUBLIC, UNUSED])
    assert told[PUBLIC]["plain"] != told[UNUSED]["plain"]


@both_versions
@both_hosts
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_no_port_costs_the_stranger_an_error(hosts: Hosts, version: int, host: str, rules: Rules, proto: int) -> None:
    """The kernel limits the errors that it sends to one address: what a probe has cost, any other error tells."""
    hosts.server.nft(host)
    hosts.serve()
    hosts.firewall.start(rules)
    prepare_for_errors(hosts.server, version)
    if host:
        hosts.server.nft(f"add rule inet host in meta l4proto {UNKNOWN_PROTOCOL} accept")
    told = {}
    for number, port in enumerate((WITH_SERVICE, WITHOUT, KNOCK, UNUSED, OTHER, 0), PHANTOM):  # 0: none at all
        with wire(hosts.stranger, hosts.server, version, number=number) as cable:
            packets = [
                cable.tcp(20000 + n, port, SYN) if proto == TCP else cable.udp(20000 + n, port, bytes(165))
                for n in range(12 if port else 0)
            ]
            told[port] = error_after(cable, *packets)
    assert all(found == [ERROR[version]] for found in told.values()), told


@both_versions
def test_the_cost_of_an_error_shows_where_the_kernel_answers(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(replace(RULES, hide_udp_errors=False))
    prepare_for_errors(hosts.server, version)
    cable = hosts.cable(version)
    told = error_after(cable, *(cable.udp(20000 + n, UNUSED, bytes(165)) for n in range(12)))
    assert ERROR[version] not in told


@both_versions
@both_hosts
def test_the_knock_port_is_silent_while_no_server_is_behind_it(
    hosts: Hosts, version: int, host: str, rules: Rules
) -> None:
    unlimited(hosts)
    hosts.server.nft(host)
    hosts.firewall.start(rules)
    told = drawn_answers(hosts.cable(version), UDP, [KNOCK, UNUSED])
    assert told[KNOCK] == told[UNUSED]
    assert "plain" not in told[KNOCK]


# -- left alone


def exchanged(client: socket.socket, service: socket.socket) -> bool:
    """Bytes go there and back over a new connection."""
    with closing(service.accept()[0]) as peer:
        peer.settimeout(5)
        client.sendall(b"ping")
        return peer.recv(4) == b"ping"


@both_versions
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
def test_an_unmanaged_port_serves_again_over_the_same_numbers(hosts: Hosts, version: int, tracked: bool) -> None:  # noqa: FBT001
    """While the server's own end of the first connection waits in TIME_WAIT."""
    if not tracked:
        hosts.server.nft(
            "table inet raw { chain pre { type filter hook prerouting priority -300; notrack; };"
            " chain out { type filter hook output priority -300; notrack; }; }"
        )
    hosts.firewall.start(RULES)
    service = hosts.bound(socket.SOCK_STREAM, PUBLIC)
    source, destination = ((v4(2), v4(1)), (v6(2), v6(1)))[version == 6]
    for round_ in range(3):
        with hosts.stranger.entered():
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
        with closing(client):
            client.settimeout(5)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((source, 40000))
            client.connect((destination, PUBLIC))
            peer = service.accept()[0]
            peer.settimeout(5)
            client.sendall(b"ping")
            assert peer.recv(4) == b"ping"
            peer.close()  # the server closes first, and so it is the one that waits
            assert client.recv(1) == b""
        until(lambda: f":{PUBLIC}" in hosts.server.run("ss", "-Htan", "state", "time-wait"))
        assert round_ < 3


@both_versions
def test_half_open_connections_of_an_unmanaged_port_complete(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(RULES)
    service = hosts.bound(socket.SOCK_STREAM, PUBLIC)
    cable = hosts.cable(version)
    for source in range(40000, 40005):
        cable.send(cable.tcp(source, PUBLIC, SYN, seq=7))
        answer = cable.tcp_answer(source, PUBLIC)
        assert answer is not None
        assert not answer.flags & RST
        cable.send(cable.tcp(source, PUBLIC, SYN, seq=7))  # again, while it is half open
        cable.send(cable.tcp(source, PUBLIC, ACK, seq=8, ack=answer.seq + 1))
        service.accept()[0].close()


def receives(service: socket.socket) -> bool:
    """Whether the datagram arrives."""
    service.settimeout(5)
    try:
        return service.recv(2000) == b"datagram"
    except TimeoutError:
        return False


@both_versions
def test_groups_and_broadcasts_arrive(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(RULES)
    index = int(hosts.server.run("cat", "/sys/class/net/eth0/ifindex"))
    there = int(hosts.stranger.run("cat", "/sys/class/net/eth0/ifindex"))
    service = hosts.bound(socket.SOCK_DGRAM, 5353, "::" if version == 6 else "0.0.0.0")
    with hosts.stranger.entered():
        sender = hosts.stack.enter_context(closing(socket.socket(service.family, socket.SOCK_DGRAM)))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if version == 4:
        joined = struct.pack("=4s4si", socket.inet_aton("224.0.0.251"), bytes(4), index)
        service.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        sender.bind((v4(2), 5353))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(v4(2)))
        targets = [("224.0.0.251", 5353), ("192.0.2.255", 5353), ("255.255.255.255", 5353)]
    else:
        joined = struct.pack("=16si", socket.inet_pton(socket.AF_INET6, "ff02::fb"), index)
        service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
        sender.bind((v6(2), 5353))
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, there)
        targets = [("ff02::fb", 5353, 0, there), ("ff02::1", 5353, 0, there)]  # type: ignore[list-item]
    for target in targets:
        sender.sendto(b"datagram", target)
        assert receives(service), target


def test_a_dhcp_answer_arrives_before_there_is_an_address(hosts: Hosts) -> None:
    """To everybody and to the address that is offered, on an interface that has none yet."""
    connect(hosts.server, hosts.stranger, "eth1", subnet=1)
    hosts.server.run("ip", "address", "flush", "dev", "eth1")
    hosts.firewall.start(replace(RULES, interface="eth1"))
    client = hosts.bound(socket.SOCK_DGRAM, 68, "0.0.0.0")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
    with hosts.stranger.entered():
        server = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
    server.bind(("198.51.100.2", 67))
    server.sendto(b"datagram", ("255.255.255.255", 68))
    assert receives(client)


@both_versions
def test_a_tunnel_of_the_kernels_own_works(hosts: Hosts, version: int) -> None:
    """VXLAN, whose socket no process has."""
    hosts.firewall.start(RULES)
    addresses = {4: (v4(1), v4(2)), 6: (v6(1), v6(2))}[version]
    for host, local, remote, number in ((hosts.server, *addresses, 1), (hosts.stranger, *addresses[::-1], 2)):
        words = f"link add vx0 type vxlan id 7 dstport 4789 local {local} remote {remote} dev eth0"
        host.run("ip", *words.split())
        host.run("ip", "address", "add", f"203.0.113.{number}/24", "dev", "vx0")
        host.run("ip", "link", "set", "vx0", "up")
    # The stranger begins, so that no entry of the connection table lets its packets in.
    until(lambda: "1 received" in hosts.stranger.run("ping", "-c1", "-W1", "203.0.113.1", check=False))
    hosts.server.run("ip", "link", "delete", "vx0")
    assert "1 received" not in hosts.stranger.run("ping", "-c1", "-W1", "203.0.113.1", check=False)


def test_a_transparent_proxy_gets_what_is_meant_for_others(hosts: Hosts) -> None:
    """TPROXY: a listening socket takes connections to addresses that this host has not."""
    hosts.server.nft(
        "table ip proxy { chain pre { type filter hook prerouting priority mangle;"
        f" ip daddr 203.0.113.9 meta l4proto {{ tcp, udp }} tproxy to :{PUBLIC} meta mark set 1 accept; }}; }}"
    )
    hosts.server.run("ip", "rule", "add", "fwmark", "1", "lookup", "100")
    hosts.server.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "100")
    hosts.stranger.run("ip", "route", "add", "203.0.113.0/24", "via", v4(1))
    hosts.firewall.start(RULES)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with hosts.server.entered():
            proxy = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))
        proxy.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
        proxy.bind(("0.0.0.0", PUBLIC))
        proxy.settimeout(5)
        with hosts.stranger.entered():
            client = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))
        client.settimeout(5)
        if kind == socket.SOCK_STREAM:
            proxy.listen()
            client.connect(("203.0.113.9", 80))
            assert exchanged(client, proxy)
        else:
            client.sendto(b"datagram", ("203.0.113.9", 80))
            assert receives(proxy)


def test_a_transparent_socket_on_an_address_of_the_host_is_one(hosts: Hosts) -> None:
    hosts.firewall.start(RULES)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        service = hosts.bound(kind, PUBLIC, "0.0.0.0")
        service.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
        with hosts.stranger.entered():
            client = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))
        client.settimeout(5)
        client.connect((v4(1), PUBLIC))
        if kind == socket.SOCK_STREAM:
            assert exchanged(client, service)
        else:
            client.send(b"datagram")
            assert receives(service)


@pytest.mark.parametrize("rule", ["redirect to :8080", "dnat to 192.0.2.1:8080"])
def test_a_redirect_to_a_port_of_the_host_works(hosts: Hosts, rule: str) -> None:
    hosts.server.nft(
        "table ip nat { chain pre { type nat hook prerouting priority dstnat;"
        f" tcp dport 80 {rule}; udp dport 80 {rule}; }}; }}"
    )
    hosts.firewall.start(RULES)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        service = hosts.bound(kind, PUBLIC, "0.0.0.0")
        with hosts.stranger.entered():
            client = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))
        client.settimeout(5)
        client.connect((v4(1), 80))
        if kind == socket.SOCK_STREAM:
            assert exchanged(client, service)
        else:
            client.send(b"datagram")
            assert receives(service)


def test_answers_to_what_the_host_asked_from_behind_a_nat_arrive(hosts: Hosts) -> None:
    """The host's own exchanges, whose source the host itself rewrites."""
    hosts.server.run("ip", "address", "add", "192.0.2.50/24", "dev", "eth0")
    hosts.server.nft(
        "table ip nat { chain post { type nat hook postrouting priority srcnat;"
        " meta l4proto udp snat to 192.0.2.50:7000-7999; }; }"
    )
    hosts.firewall.start(RULES)
    service = hosts.bound(socket.SOCK_DGRAM, 53, v4(2), host=hosts.stranger)
    with hosts.server.entered():
        client = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    client.sendto(b"question", (v4(2), 53))
    question, source = service.recvfrom(100)
    assert (question, source[0]) == (b"question", "192.0.2.50")
    service.sendto(b"datagram", source)
    assert receives(client)
    # Once nobody waits any more the same is silent, whatever conntrack remembers.
    client.close()
    service.sendto(b"datagram", source)
    service.connect(source)
    service.send(b"datagram")
    service.settimeout(WAIT)
    with pytest.raises(TimeoutError):
        service.recv(100)


@both_versions
def test_large_datagrams_arrive_in_pieces(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(RULES)
    service = hosts.bound(socket.SOCK_DGRAM, PUBLIC)
    with hosts.stranger.entered():
        client = hosts.stack.enter_context(
            closing(socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM))
        )
    client.sendto(bytes(5000), (v4(1) if version == 4 else v6(1), PUBLIC))
    service.settimeout(5)
    assert len(service.recv(9000)) == 5000


def test_other_interfaces_and_loopback_are_as_the_host_has_them(hosts: Hosts) -> None:
    connect(hosts.server, hosts.stranger, "eth1", subnet=1)
    hosts.firewall.start(replace(RULES, interface="eth1"))
    for host, address, seen in (
        (hosts.stranger, v4(1), ConnectionRefusedError),
        (hosts.stranger, v4(1, 1), TimeoutError),
        (hosts.server, "127.0.0.1", ConnectionRefusedError),
        (hosts.server, v4(1, 1), ConnectionRefusedError),
    ):
        with host.entered():
            client = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        client.settimeout(WAIT)
        client.connect((address, UNUSED))
        client.send(b"?")
        with pytest.raises(seen):
            client.recv(10)


def test_nothing_on_its_way_out_is_filtered(hosts: Hosts) -> None:
    """Errors that have nothing to do with a port are the host's own affair, whatever is set."""
    for rules in (RULES, DROPPING, replace(RULES, hide_udp_errors=False)):
        hosts.firewall.apply(rules)
        listed = hosts.server.run("nft", "list", "table", "inet", "openme")
        assert listed.count("hook output") == 1
        assert "icmp" not in listed.replace("icmpx port-unreachable", "")


# -- where ports are in use without a socket


IP_VS_EMPTY = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""


@pytest.mark.parametrize(
    "line", ["TCP  C0000201:0050 rr", "UDP  [2001:0db8::0001]:0035 wlc", "FWM  00000001 rr persistent 300"]
)
def test_services_of_ipvs_are_read(line: str) -> None:
    assert not has_services(IP_VS_EMPTY.encode())
    assert has_services(f"{IP_VS_EMPTY}{line}\n  -> C0000202:0050      Masq    1      0          0\n".encode())


def silent(hosts: Hosts, port: int) -> bool:
    with hosts.stranger.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(client):
        client.settimeout(WAIT)
        client.connect((v4(1), port))
        client.send(b"?")
        try:
            client.recv(10)
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True
    raise AssertionError("answered")


def test_unused_ports_are_left_alone_while_ipvs_has_services(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listing = tmp_path / "ip_vs"
    listing.write_text(IP_VS_EMPTY)
    monkeypatch.setattr(nft, "VirtualServices", lambda: VirtualServices(listing))
    with hosts.server.entered():
        firewall = NftFirewall()
    firewall.start(RULES)
    assert silent(hosts, UNUSED)
    before = hosts.server.ruleset()
    firewall.adapt()
    assert hosts.server.ruleset() == before, "nothing is done while nothing changes"
    listing.write_text(f"{IP_VS_EMPTY}TCP  C0000201:0050 rr\n")
    firewall.adapt()
    assert not silent(hosts, UNUSED)
    assert silent(hosts, WITHOUT), "what is hidden stays hidden"
    assert "this host has virtual services (IPVS)" in caplog.text
    assert firewall.intact()
    warnings = len(caplog.records)
    firewall.adapt()
    assert len(caplog.records) == warnings
    listing.write_text(IP_VS_EMPTY)
    firewall.adapt()
    assert silent(hosts, UNUSED)
    assert firewall.intact()


def test_a_module_that_comes_later_counts_as_in_use(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list cannot be opened from the sandbox by then; the kernel tells that its family of messages is there."""
    with hosts.server.entered():
        services = VirtualServices(tmp_path / "not there")
        assert services._news is not None  # the kernel of this machine may not have the module
        told = hosts.stack.enter_context(closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)))
        told.bind((0, 0))
        told.sendto(b"IPVS\0", services._news.socket.getsockname())
    assert not services.exist(), "a neighbour process has no say in this"
    monkeypatch.setattr(services, "_news", _KernelSays([b"other family", b"..IPVS\0.."]))
    assert services.exist()
    assert services.exist(), "and it stays so"


class _KernelSays:
    """A netlink socket from which the kernel's news are read."""

    def __init__(self, news: list[bytes]) -> None:
        self._news = news

    def news(self) -> Iterator[bytes]:
        told, self._news = self._news, []
        yield from told

    def close(self) -> None:
        pass


def test_a_kernel_without_socket_lookup_hides_what_is_hidden(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nft, "_SOCKET_PROBE", "add rule inet not-there chain accept\n")
    hosts.serve()
    hosts.firewall.start(RULES)
    hosts.firewall.apply(RULES)
    assert caplog.text.count("the kernel cannot look for sockets") == 1
    assert "socket transparent" not in hosts.server.ruleset()
    assert silent(hosts, WITHOUT)
    assert not silent(hosts, UNUSED)
