"""Connections that a door has let in are cut, and no others; a door moves between port lists without a gap.

+-------------------------+            +----------------------------+
| server                  |   eth0     | client                     |
| firewall, services      +------------+ 192.0.2.2  2001:db8::2  alice
| 192.0.2.1  2001:db8::1  |            | 192.0.2.3  2001:db8::3  bob |
+-------------------------+            +----------------------------+
"""

import errno
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from openme.firewall import connections as connections_module
from openme.firewall import cutting as cutting_module
from openme.firewall.base import CutTarget, Door, FirewallError, IPAddress, PortList, Rules, Steps
from openme.firewall.nft import NftFirewall
from openme.netlink.sockets import Request
from openme.ports import PortRange, merged, parse_port_spec
from support.netns import Namespace, add_addresses, connect, namespace, until, v4, v6
from support.steps import done

pytestmark = pytest.mark.root

SSH = PortList(parse_port_spec("22/tcp"))
WEB = PortList(parse_port_spec("80/tcp"))
VPN = PortList(parse_port_spec("51820/udp"))
ONCE = PortList(parse_port_spec("2222"), single_use=True)
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + WEB.ports + VPN.ports + ONCE.ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH, WEB, VPN, ONCE}),
)
SERVER = {4: v4(1), 6: v6(1)}
ALICE = {4: ip_address(v4(2)), 6: ip_address(v6(2))}
BOB = {4: ip_address(v4(3)), 6: ip_address(v6(3))}
WAIT = 0.3  # a packet between namespaces needs microseconds
both_versions = pytest.mark.parametrize("version", [4, 6])

# Lets out what belongs to a connection and nothing else: a reset must leave before its connection is forgotten.
STRICT_OUTPUT = """
table inet host {
    chain out {
        type filter hook output priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ct state established,related accept
    }
}
"""

TRACKING_HOST = """
table inet tracking {
    chain in {
        type filter hook input priority 0
        ct state established accept
    }
}
"""


@dataclass
class Net:
    stack: ExitStack
    server: Namespace
    client: Namespace
    firewall: NftFirewall

    def _socket(self, where: Namespace, version: int, kind: socket.SocketKind) -> socket.socket:
        with where.entered():
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        made.settimeout(WAIT)
        return self.stack.enter_context(closing(made))

    def listen(self, port: int, version: int = 4, *, at: str | None = None) -> socket.socket:
        service = self._socket(self.server, version, socket.SOCK_STREAM)
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if at == "::":
            service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        service.bind((at or SERVER[version], port))
        service.listen(1000)
        return service

    def receive(self, port: int, version: int = 4) -> socket.socket:
        service = self._socket(self.server, version, socket.SOCK_DGRAM)
        service.bind((SERVER[version], port))
        return service

    def client_socket(self, source: IPAddress, kind: socket.SocketKind, port: int) -> socket.socket:
        made = self._socket(self.client, source.version, kind)
        made.bind((str(source), 0))
        made.connect((SERVER[source.version], port))
        return made

    def pair(self, service: socket.socket, source: IPAddress, port: int = 22) -> tuple[socket.socket, socket.socket]:
        """Both ends of a TCP connection, the client's first."""
        client = self.client_socket(source, socket.SOCK_STREAM, port)
        server = self.stack.enter_context(closing(service.accept()[0]))
        server.settimeout(WAIT)
        return client, server

    def flow(self, service: socket.socket, source: IPAddress, port: int) -> tuple[socket.socket, tuple[str, int]]:
        """A client and its address as the service sees it, after a datagram each way."""
        client = self.client_socket(source, socket.SOCK_DGRAM, port)
        client.send(b"datagram")
        peer: tuple[str, int] = service.recvfrom(100)[1]
        service.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        return client, peer

    def cut(self, address: IPAddress, ports: tuple[PortRange, ...], *, established: bool = True) -> int:
        """End what came from there by a door; how many that was."""
        return sum(done(self.firewall.cut([CutTarget(address, ports, established)])).values())

    def conntrack(self) -> int:
        """How many entries there are."""
        return int(self.server.run("sysctl", "-n", "net.netfilter.nf_conntrack_count"))


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        add_addresses(client, 3)
        with server.entered():
            firewall = NftFirewall()
        yield Net(stack, server, client, firewall)


def talks(client: socket.socket, server: socket.socket) -> bool:
    """Bytes go both ways over a connection."""
    try:
        client.sendall(b"ping")
        server.sendall(server.recv(4))
        return client.recv(4) == b"ping"
    except TimeoutError:
        return False


def fate(end: socket.socket) -> str:
    """`reset`, `aborted`, `ended`, or `silent` while nothing has happened."""
    try:
        return "ended" if end.recv(10) == b"" else "talked to"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return {errno.ECONNRESET: "reset", errno.ECONNABORTED: "aborted"}[error.errno or 0]


def refused(send: Callable[[], object]) -> bool:
    """Whether the host's own output rules take a packet away (the sender sees EPERM)."""
    try:
        send()
    except PermissionError:
        return True
    return False


def spoken_to(service: socket.socket, client: socket.socket) -> bool:
    """Whether a datagram of the service reaches the client."""
    service.sendto(b"keepalive", client.getsockname())
    with suppress(TimeoutError):
        return client.recv(100) == b"keepalive"
    return False


def sockets(net: Net) -> str:
    return net.server.run("ss", "-Htn", "state", "all", "exclude", "listening", "exclude", "time-wait")


@both_versions
@pytest.mark.parametrize("host", ["", STRICT_OUTPUT], ids=["open_host", "strict_output"])
def test_tcp_is_cut_at_both_ends(net: Net, version: int, host: str) -> None:
    net.server.nft(host)
    service = net.listen(22, version)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[version], 30)])
    pairs = [net.pair(service, ALICE[version]) for _ in range(3)]
    assert talks(*pairs[0])
    net.firewall.close([(SSH, ALICE[version])])
    assert net.cut(ALICE[version], SSH.ports) == 3
    assert [(fate(client), fate(server)) for client, server in pairs] == [("reset", "aborted")] * 3
    assert sockets(net) == ""
    assert net.cut(ALICE[version], SSH.ports) == 0
    # The service itself goes on.
    net.firewall.open([Door(SSH, ALICE[version], 30)])
    assert talks(*net.pair(service, ALICE[version]))


def test_the_peer_of_a_socket_for_both_versions(net: Net) -> None:
    service = net.listen(22, 6, at="::")
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30), Door(SSH, ALICE[6], 30)])
    four, six = net.pair(service, ALICE[4]), net.pair(service, ALICE[6])
    assert net.cut(ip_address("::ffff:192.0.2.2"), SSH.ports) == 1
    assert (fate(four[0]), fate(four[1])) == ("reset", "aborted")
    assert talks(*six)
    assert net.cut(ALICE[6], SSH.ports) == 1
    assert (fate(six[0]), fate(six[1])) == ("reset", "aborted")


@both_versions
def test_all_others_stay(net: Net, version: int) -> None:
    ssh, web = net.listen(22, version), net.listen(80, version)
    vpn = net.receive(51820, version)
    net.firewall.start(replace(RULES, hidden=(), port_lists=frozenset()))
    before = net.pair(ssh, ALICE[version])
    net.firewall.apply(RULES)
    net.firewall.open([Door(item, ALICE[version], 30) for item in (SSH, WEB, VPN)])
    net.firewall.open([Door(SSH, BOB[version], 30)])
    cut = net.pair(ssh, ALICE[version])
    of_bob = net.pair(ssh, BOB[version])
    other_port = net.pair(web, ALICE[version], 80)
    datagrams, _ = net.flow(vpn, ALICE[version], 51820)
    with net.client.entered():
        outwards = net.stack.enter_context(socket.create_server((str(ALICE[version]), 22), family=before[0].family))
    from_server = net._socket(net.server, version, socket.SOCK_STREAM)
    from_server.connect((str(ALICE[version]), 22))  # of the host itself, to a port of the same number
    outside = net.stack.enter_context(closing(outwards.accept()[0]))
    outside.settimeout(WAIT)
    net.firewall.close([(item, ALICE[version]) for item in (SSH, WEB, VPN)])
    assert net.cut(ALICE[version], parse_port_spec("22")) == 1
    assert (fate(cut[0]), fate(cut[1])) == ("reset", "aborted")
    assert talks(*before)
    assert talks(*of_bob)
    assert talks(*other_port)
    assert talks(from_server, outside)
    datagrams.send(b"datagram")
    assert vpn.recv(100) == b"datagram"


@both_versions
def test_udp_is_cut_and_the_service_cannot_revive_it(net: Net, version: int) -> None:
    vpn = net.receive(51820, version)
    net.firewall.start(RULES)
    for item in (ALICE, BOB):
        net.firewall.open([Door(VPN, item[version], 30)])
    client, peer = net.flow(vpn, ALICE[version], 51820)
    bob, of_bob = net.flow(vpn, BOB[version], 51820)
    net.firewall.close([(VPN, ALICE[version]), (VPN, BOB[version])])
    client.send(b"datagram")
    assert vpn.recv(100) == b"datagram"
    assert net.cut(ALICE[version], VPN.ports) == 1
    for _ in range(2):
        client.send(b"datagram")
        assert fate(vpn) == "silent"
        # Let out, this would begin a connection, and what the client sends would be its answer.
        assert refused(lambda: vpn.sendto(b"keepalive", peer))
        assert fate(client) == "silent"
    vpn.sendto(b"keepalive", of_bob)
    assert bob.recv(100) == b"keepalive"
    # A new knock, and all is as it was, over the same ports too.
    net.firewall.open([Door(VPN, ALICE[version], 30)])
    client.send(b"datagram")
    assert vpn.recv(100) == b"datagram"
    vpn.sendto(b"keepalive", peer)
    assert client.recv(100) == b"keepalive"
    net.firewall.close([(VPN, ALICE[version])])
    client.send(b"datagram")
    assert vpn.recv(100) == b"datagram"


@both_versions
@pytest.mark.parametrize("began", ["the service spoke first", "the rules were away"])
def test_an_exchange_without_a_label_is_cut_too(net: Net, version: int, began: str) -> None:
    """A VPN's, after a pause in which the table forgot it; or that somebody began while the rules were away."""
    vpn = net.receive(51820, version)
    client = net.client_socket(ALICE[version], socket.SOCK_DGRAM, 51820)
    peer = client.getsockname()
    net.firewall.start(RULES)
    if began == "the rules were away":
        # Of the host's own rules one looks at connections.
        net.server.nft(f"{TRACKING_HOST} delete table inet openme")
        client.send(b"datagram")
        assert vpn.recv(100) == b"datagram"
    until(lambda: spoken_to(vpn, client))
    net.firewall.apply(RULES)
    client.send(b"datagram")
    assert vpn.recv(100) == b"datagram"
    assert net.cut(ALICE[version], VPN.ports, established=False) == 1
    for _ in range(2):
        client.send(b"datagram")
        assert fate(vpn) == "silent"
        assert refused(lambda: vpn.sendto(b"keepalive", peer))
        assert fate(client) == "silent"
        # The service may speak at any time after somebody has flushed the ruleset.
        net.server.nft("flush ruleset")
        net.firewall.apply(RULES)


def test_what_comes_by_no_door_again_and_again_holds_up_no_cut(net: Net) -> None:
    """What the host forwards, say, which no rule of ours stops."""
    vpn = net.receive(51820)
    client = net.client_socket(ALICE[4], socket.SOCK_DGRAM, 51820)
    net.firewall.start(replace(RULES, hidden=()))
    client.send(b"datagram")
    vpn.sendto(b"answer", vpn.recvfrom(100)[1])
    cut = net.firewall.cut([CutTarget(ALICE[4], VPN.ports)])
    with suppress(StopIteration):
        while True:
            next(cut)
            client.send(b"datagram")
    client.send(b"datagram")
    assert net.conntrack() == 1


def test_an_exchange_of_a_network_that_needs_no_door_is_left_alone(net: Net) -> None:
    vpn = net.receive(51820)
    net.firewall.start(replace(RULES, always_open_from=(ip_network(f"{ALICE[4]}/32"),)))
    client, peer = net.flow(vpn, ALICE[4], 51820)
    assert net.cut(ALICE[4], VPN.ports) == 0
    vpn.sendto(b"keepalive", peer)
    assert client.recv(100) == b"keepalive"


def test_a_kernel_that_destroys_no_sockets(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    client, server = net.pair(service, ALICE[4])
    asked: list[Request] = []

    def refuse(requests: Sequence[Request]) -> list[int]:
        asked.extend(requests)
        return [errno.EOPNOTSUPP] * len(requests)

    monkeypatch.setattr(net.firewall._connections._sockets, "request", refuse)
    net.firewall.close([(SSH, ALICE[4])])
    assert net.cut(ALICE[4], SSH.ports) == 1
    assert [item.kind for item in asked] == [21, 21]
    server.sendall(b"the service speaks first")
    client.sendall(b"and the client answers")
    assert fate(client) == fate(server) == "silent"


def test_a_connection_whose_socket_is_gone_does_not_take_the_service_along(net: Net) -> None:
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    client, server = net.pair(service, ALICE[4])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    net.client.nft("add table ip t; add chain ip t i { type filter hook input priority 0; policy drop; }")
    server.close()  # and the reset gets lost
    closed_by_both = net.conntrack()
    assert closed_by_both == 1
    assert net.cut(ALICE[4], SSH.ports) == 0  # none that was alive
    assert net.conntrack() == 0
    net.client.nft("flush ruleset")
    client.close()
    assert talks(*net.pair(service, ALICE[4]))


def test_a_handshake_under_way(net: Net) -> None:
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    net.client.nft(
        "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        "add rule ip t o tcp flags & (syn | ack) == ack drop"
    )
    client = net.client_socket(ALICE[4], socket.SOCK_STREAM, 22)
    net.firewall.close([(SSH, ALICE[4])])
    assert net.cut(ALICE[4], SSH.ports) == 1
    assert sockets(net) == ""
    net.client.nft("flush ruleset")
    client.sendall(b"data")
    with pytest.raises(TimeoutError):
        service.accept()


@both_versions
def test_without_established_ones_udp_and_handshakes_end(net: Net, version: int) -> None:
    ssh, vpn = net.listen(22, version), net.receive(51820, version)
    net.firewall.start(RULES)
    net.firewall.open([Door(item, ALICE[version], 30) for item in (SSH, VPN)])
    session = net.pair(ssh, ALICE[version])
    client, peer = net.flow(vpn, ALICE[version], 51820)
    net.firewall.close([(item, ALICE[version]) for item in (SSH, VPN)])
    assert net.cut(ALICE[version], SSH.ports + VPN.ports, established=False) == 1
    assert talks(*session)
    client.send(b"datagram")
    assert fate(vpn) == "silent"
    assert refused(lambda: vpn.sendto(b"keepalive", peer))
    assert fate(client) == "silent"


def test_a_handshake_that_the_table_takes_for_established(net: Net) -> None:
    """The client has acknowledged, which the table knows; to TCP it is under way, here until the client has spoken."""
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    session = net.pair(service, ALICE[4])
    service.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    late = net.client_socket(ALICE[4], socket.SOCK_STREAM, 22)
    assert "SYN-RECV" in sockets(net)
    wanted = connections_module.Wanted([CutTarget(ALICE[4], SSH.ports)])
    # The table alone does not tell.
    until(lambda: done(net.firewall._connections.let_in(wanted, frozenset())) == ([], True))
    net.firewall.close([(SSH, ALICE[4])])
    assert net.cut(ALICE[4], SSH.ports, established=False) == 1
    assert "SYN-RECV" not in sockets(net)
    late.sendall(b"data")
    with pytest.raises(TimeoutError):
        service.accept()
    assert talks(*session)


def test_where_a_door_is_open_what_comes_in_meanwhile_is_left_alone(net: Net) -> None:
    vpn = net.receive(51820)
    net.firewall.start(RULES)
    net.firewall.open([Door(VPN, ALICE[4], 30)])
    old, _ = net.flow(vpn, ALICE[4], 51820)
    asked = []

    def is_open(address: IPAddress, service: PortRange) -> bool:
        asked.append((address, str(service)))
        return True

    steps = net.firewall.cut([CutTarget(ALICE[4], VPN.ports)], is_open)
    for _ in steps:
        # The client who is still allowed to goes on all the time.
        old.send(b"datagram")
    assert set(asked) == {(ALICE[4], "51820/udp")}
    assert net.conntrack() == 1
    assert vpn.recv(100) == b"datagram"


def test_all_addresses_in_one_look(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: two looks, the second of which finds nothing left."""
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, item, 30) for item in (ALICE[4], BOB[4])])
    pairs = [net.pair(service, item) for item in (ALICE[4], BOB[4])]
    net.firewall.close([(SSH, item) for item in (ALICE[4], BOB[4])])
    looks = []
    let_in = net.firewall._connections.let_in

    def look(*arguments: Any) -> Any:
        looks.append(arguments)
        return let_in(*arguments)

    monkeypatch.setattr(net.firewall._connections, "let_in", look)
    others = [ip_address(f"2001:db8:0:9::{number:x}") for number in range(1, 500)]
    targets = [CutTarget(item, SSH.ports, established=True) for item in (ALICE[4], *others, BOB[4])]
    assert done(net.firewall.cut(targets)) == {ALICE[4]: 1, BOB[4]: 1}
    assert len(looks) == 2
    assert [fate(end) for end in pairs[0] + pairs[1]] == ["reset", "aborted"] * 2


def test_a_large_table_is_read_in_small_parts(net: Net) -> None:
    net.listen(22)
    net.receive(51820)  # an unused port meets the rule that hides, a door or not
    net.firewall.start(RULES)
    net.firewall.open([Door(VPN, BOB[4], 30)])
    for _ in range(600):
        net.client_socket(BOB[4], socket.SOCK_DGRAM, 51820).send(b"datagram")
    assert net.conntrack() == 600
    assert len(list(net.firewall.cut([CutTarget(ALICE[4], SSH.ports)]))) > 4
    assert net.conntrack() == 600


@both_versions
def test_what_counts_is_the_port_before_nat(net: Net, version: int) -> None:
    family = "ip" if version == 4 else "ip6"
    net.server.nft(
        f"add table {family} nat; add chain {family} nat pre {{ type nat hook prerouting priority dstnat; }};"
        f"add rule {family} nat pre tcp dport 2200 redirect to :22"
    )
    service = net.listen(22, version)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[version], 30)])
    redirected, plain = net.pair(service, ALICE[version], 2200), net.pair(service, ALICE[version])
    assert net.cut(ALICE[version], parse_port_spec("2200/tcp")) == 1
    assert (fate(redirected[0]), fate(redirected[1])) == ("reset", "aborted")
    assert talks(*plain)


def test_a_single_use_door_stays_used(net: Net) -> None:
    service = net.receive(2222)
    net.firewall.start(RULES)
    for _ in range(5):  # the kernel often gives the next connection the cut one's id
        net.firewall.open([Door(ONCE, ALICE[4], 30)])
        client, _ = net.flow(service, ALICE[4], 2222)
        assert net.cut(ALICE[4], ONCE.ports) == 1
        client.send(b"datagram")
        assert fate(service) == "silent"


def test_more_connections_than_are_ended_at_once(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connections_module, cutting_module):
        monkeypatch.setattr(module, "MOST_AT_ONCE", 70)
    vpn = net.receive(51820)
    net.firewall.start(RULES)
    net.firewall.open([Door(VPN, ALICE[4], 30), Door(VPN, BOB[4], 30)])
    for _ in range(300):
        net.client_socket(ALICE[4], socket.SOCK_DGRAM, 51820).send(b"datagram")
    net.client_socket(BOB[4], socket.SOCK_DGRAM, 51820).send(b"datagram")
    net.firewall.close([(VPN, ALICE[4])])
    assert net.conntrack() == 301
    assert net.cut(ALICE[4], VPN.ports) == 300
    assert net.conntrack() == 1
    assert vpn.recv(100) == b"datagram"


def test_an_open_door_is_said_to_be_the_reason(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.receive(51820)
    net.firewall.start(RULES)
    net.firewall.open([Door(VPN, ALICE[4], 30)])
    end = net.firewall._connections.end

    def end_and_come_back(found: Sequence[connections_module.Connection]) -> Steps[None]:
        yield from end(found)
        net.client_socket(ALICE[4], socket.SOCK_DGRAM, 51820).send(b"datagram")

    monkeypatch.setattr(net.firewall._connections, "end", end_and_come_back)
    done(end_and_come_back([]))
    with pytest.raises(FirewallError, match="faster than they can be cut"):
        net.cut(ALICE[4], VPN.ports)


PROGRAM = """
import sys
from ipaddress import ip_address
from openme.firewall.base import CutTarget, FirewallError, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.ports import parse_port_spec
ssh = PortList(parse_port_spec("22/tcp"))
firewall = NftFirewall()
if "take" in sys.argv:
    firewall.start(Rules(54154, True, ssh.ports, "drop", True, None, frozenset({ssh})))
def watch(event, details):
    if event.split(".")[0] in {"subprocess", "os", "socket", "open", "import", "ctypes", "pty"}:
        if event not in {"socket.sendto", "socket.recvmsg", "socket.sendmsg"}:
            print("touched", event, details)
sys.addaudithook(watch)
steps = firewall.cut([CutTarget(ip_address("192.0.2.2"), ssh.ports, established=True)])
try:
    while True:
        next(steps)
except StopIteration as end:
    print("cut", sum(end.value.values()))
except FirewallError as error:
    print(f"error: {error.message}, hint: {error.hint}")
"""


def _program(net: Net, bounding: str, *arguments: str) -> str:
    source = Path(__file__).parents[2] / "src"
    return net.server.run(
        "env",
        f"PYTHONPATH={source}",
        "setpriv",
        f"--bounding-set={bounding}",
        sys.executable,
        "-c",
        PROGRAM,
        *arguments,
    )


def test_one_privilege_is_enough_and_nothing_is_spawned_or_opened(net: Net) -> None:
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    client, server = net.pair(service, ALICE[4])
    assert _program(net, "-all,+net_admin", "take") == "cut 1\n"
    assert (fate(client), fate(server)) == ("reset", "aborted")


def test_without_the_privilege_one_line_and_the_cure(net: Net) -> None:
    said = _program(net, "-net_admin")
    assert re.fullmatch(r"error: the connection table .*, hint: run it as root, or give it CAP_NET_ADMIN\n", said), said


def test_a_door_moves_between_port_lists_without_a_gap(net: Net) -> None:
    service = net.listen(22)
    both = PortList(merged(SSH.ports + WEB.ports))
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    over = threading.Event()
    seen: list[str] = []

    def stream() -> None:
        while not over.is_set():
            client = net._socket(net.client, 4, socket.SOCK_STREAM)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.bind((v4(2), 0))
            try:
                client.connect((SERVER[4], 22))  # a lost SYN would be sent again only after a second
            except OSError as error:
                seen.append(str(error))
            else:
                seen.append("open")
            client.close()

    def serve() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                service.accept()[0].close()

    threads = [threading.Thread(target=work) for work in (serve, stream, stream)]
    for thread in threads:
        thread.start()
    try:
        for number in range(100):
            now = (both, SSH)[number % 2]
            rules = replace(RULES, port_lists=frozenset({now}))
            net.firewall.apply(rules, [Door(now, ALICE[4], 30)])
            assert [door.port_list for door in net.firewall.doors()] == [now]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {"open"}
    assert len(seen) > 500


def test_until_the_table_is_lost(net: Net) -> None:
    service = net.listen(22)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    client, server = net.pair(service, ALICE[4])
    net.firewall.stop()
    assert net.cut(ALICE[4], SSH.ports) == 1
    assert (fate(client), fate(server)) == ("reset", "aborted")
    until(lambda: net.conntrack() == 0)
