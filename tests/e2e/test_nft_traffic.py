"""Real packets through the rules of `NftFirewall`.

+-------------------------+            +-----------------------------+
| server                  |   eth0     | client                      |
| firewall, services      +------------+ 192.0.2.2    2001:db8::2  alice
| 192.0.2.1  2001:db8::1  |            | 192.0.2.3    2001:db8::3  bob
|                         |   eth1     |                             |
| 198.51.100.1            +------------+ 198.51.100.2                |
+-------------------------+            +-----------------------------+
"""

import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.firewall.base import Door, FirewallError, HiddenAs, IPAddress, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.firewall.nft_elements import Refresh
from openme.firewall.nftables_rules import KNOCK_LENGTH, MARK_BIT
from openme.ports import merged, parse_port_spec
from support.netns import Namespace, add_addresses, connect, namespace, until, v4, v6

pytestmark = pytest.mark.root

SSH = PortList(parse_port_spec("22/tcp"))
RANGE = PortList(merged((*parse_port_spec("8080-8090"), *parse_port_spec("53/udp"))))
ONCE = PortList(parse_port_spec("2222"), single_use=True)
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + RANGE.ports + ONCE.ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH, RANGE, ONCE}),
)
SERVER = {4: v4(1), 6: v6(1)}
ALICE = {4: ip_address(v4(2)), 6: ip_address(v6(2))}
BOB = {4: ip_address(v4(3)), 6: ip_address(v6(3))}
WAIT = 0.3  # a packet between namespaces needs microseconds
UNUSED = 4000
DATAGRAM = b"datagram".ljust(KNOCK_LENGTH - 8)  # others do not reach the knock port

# The host's own input chain drops everything: no rule for established connections, so that what lives lives by ours.
DROPPING_HOST = """
table inet host {
    set banned { type ipv4_addr; elements = { 203.0.113.9 } }
    chain in {
        type filter hook input priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip saddr @banned drop
    }
    chain out { type filter hook output priority 0; policy accept; }
}
table ip filter {
    chain INPUT { type filter hook input priority filter; policy drop; }
    chain FORWARD { type filter hook forward priority filter; policy accept; }
}
table ip6 mangle {
    chain INPUT { type filter hook input priority mangle; policy accept; }
}
"""


def host_chain(rule: str = "", *, table: str = "host", policy: str = "accept", hook: str = "input") -> str:
    """A base chain `in` of the host's own."""
    return f"""
        add table inet {table}
        add chain inet {table} in {{ type filter hook {hook} priority -5; policy {policy}; }}
        {rule and f"add rule inet {table} in {rule}"}
    """


both_versions = pytest.mark.parametrize("version", [4, 6])


@dataclass
class Net:
    stack: ExitStack
    server: Namespace
    client: Namespace
    firewall: NftFirewall

    def listen(self, port: int, version: int = 4) -> socket.socket:
        with self.server.entered():
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            service = socket.create_server((SERVER[version], port), family=family)
        service.settimeout(5)
        return self.stack.enter_context(closing(service))

    def receive(self, port: int, version: int = 4, *, at: str | None = None) -> socket.socket:
        with self.server.entered():
            service = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.stack.enter_context(closing(service))
        service.bind((at or SERVER[version], port))
        service.settimeout(WAIT)
        return service

    def socket_at(self, source: IPAddress, kind: socket.SocketKind) -> socket.socket:
        with self.client.entered():
            made = socket.socket(socket.AF_INET if source.version == 4 else socket.AF_INET6, kind)
        self.stack.enter_context(closing(made))
        made.bind((str(source), 0))
        made.settimeout(WAIT)
        return made

    def connection(self, port: int, source: IPAddress, *, server: str | None = None) -> socket.socket:
        """Connected, or the OSError of a refusal (ConnectionRefusedError) or of silence (TimeoutError)."""
        made = self.socket_at(source, socket.SOCK_STREAM)
        made.connect((server or SERVER[source.version], port))
        return made

    def tcp(self, port: int, source: IPAddress, *, server: str | None = None) -> str:
        try:
            self.connection(port, source, server=server).close()
        except ConnectionRefusedError:
            return "closed"
        except TimeoutError:
            return "filtered"
        return "open"

    def udp(self, port: int, source: IPAddress) -> str:
        """`closed` when an error comes back, else `silent`."""
        sender = self.socket_at(source, socket.SOCK_DGRAM)
        sender.connect((SERVER[source.version], port))
        sender.send(b"?")
        try:
            sender.recv(10)
        except ConnectionRefusedError:
            return "closed"
        except TimeoutError:
            return "silent"
        return "answered"


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        add_addresses(client, 3)
        with server.entered():
            firewall = NftFirewall()
        yield Net(stack, server, client, firewall)


def arrives(sender: socket.socket, port: int, service: socket.socket, version: int = 4) -> bool:
    sender.sendto(DATAGRAM, (SERVER[version], port))
    try:
        return service.recv(1000) == DATAGRAM
    except TimeoutError:
        return False


def talks(client: socket.socket, server: socket.socket) -> bool:
    """Bytes go both ways over a connection."""
    client.settimeout(WAIT)
    server.settimeout(WAIT)
    try:
        client.sendall(b"ping")
        server.sendall(server.recv(4))
        return client.recv(4) == b"ping"
    except TimeoutError:
        return False


@both_versions
def test_a_door_opens_for_one_address_and_closes_by_itself(net: Net, version: int) -> None:
    net.listen(22, version)
    assert net.tcp(22, ALICE[version]) == "open"
    net.firewall.start(RULES)
    assert net.tcp(22, ALICE[version]) == "filtered"
    net.firewall.open([Door(SSH, ALICE[version], 1.5)])
    assert net.tcp(22, ALICE[version]) == "open"
    assert net.tcp(22, BOB[version]) == "filtered"
    until(lambda: not net.firewall.doors(), seconds=3)
    assert net.tcp(22, ALICE[version]) == "filtered"
    net.firewall.stop()
    assert net.tcp(22, BOB[version]) == "open"


@both_versions
def test_a_rejected_port_looks_like_a_closed_one(net: Net, version: int) -> None:
    net.listen(22, version)
    net.firewall.start(replace(RULES, hidden_as="reject"))
    assert net.tcp(22, ALICE[version]) == "closed"
    net.firewall.open([Door(SSH, ALICE[version], 30)])
    assert net.tcp(22, ALICE[version]) == "open"
    assert net.tcp(22, BOB[version]) == net.tcp(UNUSED, BOB[version]) == "closed"


@both_versions
@pytest.mark.parametrize("scan", ["-sS", "-sA", "-sN", "-sF", "-sX", "-sM", "-sW"])
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_a_scan_tells_a_hidden_port_by_nothing(net: Net, version: int, scan: str, hidden_as: HiddenAs) -> None:
    if shutil.which("nmap") is None:
        pytest.fail("nmap is missing")
    net.listen(22, version)
    net.firewall.start(replace(RULES, hidden_as=hidden_as))
    if hidden_as == "drop":  # a host that drops what it does not offer
        net.server.nft(host_chain("icmpv6 type != 1 accept", policy="drop"))
    family = ["-6"] if version == 6 else []
    report = net.client.run(
        "nmap",
        *family,
        scan,
        "-Pn",
        "-n",
        "-v",
        "--reason",
        "--max-retries",
        "1",
        "-p",
        f"22,{UNUSED}",
        SERVER[version],
    )
    states = re.findall(r"^(\d+)/tcp\s+(\S+)\s+\S+\s+(.*)$", report, re.MULTILINE)
    assert [number for number, *_ in states] == ["22", str(UNUSED)], report
    assert states[0][1:] == states[1][1:]


@both_versions
def test_ranges_and_udp(net: Net, version: int) -> None:
    net.firewall.start(RULES)
    first, last, above = (net.receive(port, version) for port in (8080, 8090, 8091))
    dns = net.receive(53, version)
    net.listen(8085, version)
    alice, bob = (net.socket_at(who[version], socket.SOCK_DGRAM) for who in (ALICE, BOB))
    assert not arrives(alice, 8080, first, version)
    assert arrives(alice, 8091, above, version)
    net.firewall.open([Door(RANGE, ALICE[version], 30)])
    assert arrives(alice, 8080, first, version)
    assert arrives(alice, 8090, last, version)
    assert arrives(alice, 53, dns, version)
    assert not arrives(bob, 8090, last, version)
    assert net.tcp(8085, ALICE[version]) == "open"
    assert net.tcp(8085, BOB[version]) == "filtered"
    net.firewall.close([(RANGE, ALICE[version])])
    # Nobody answered alice, so that no connection was established that would outlive the door.
    assert not arrives(alice, 8080, first, version)


def test_a_table_of_the_version_before_is_taken_over(net: Net) -> None:
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    # That version knew no chain before connection tracking.
    net.server.nft("flush chain inet openme prerouting; delete chain inet openme prerouting")
    assert not net.firewall.intact()
    with net.server.entered():
        successor = NftFirewall()
    successor.start(RULES)
    assert "hook prerouting" in net.server.ruleset()
    assert net.server.ruleset().count(" notrack") == 1
    assert successor.intact()
    assert [door.address for door in successor.doors()] == [ALICE[4]]


@both_versions
@pytest.mark.parametrize("host", ["", DROPPING_HOST], ids=["open_host", "dropping_host"])
def test_a_connection_outlives_its_door(net: Net, version: int, host: str) -> None:
    net.server.nft(host)
    service = net.listen(22, version)
    dns = net.receive(53, version)
    net.firewall.start(RULES)
    net.firewall.open([Door(SSH, ALICE[version], 30), Door(RANGE, ALICE[version], 30)])
    client = net.connection(22, ALICE[version])
    server = net.stack.enter_context(closing(service.accept()[0]))
    datagrams = net.socket_at(ALICE[version], socket.SOCK_DGRAM)
    assert arrives(datagrams, 53, dns, version)
    dns.sendto(b"answer", datagrams.getsockname()[:2])
    net.firewall.close([(SSH, ALICE[version]), (RANGE, ALICE[version])])
    assert net.tcp(22, ALICE[version]) == "filtered"
    assert talks(client, server)
    assert arrives(datagrams, 53, dns, version)
    # Also under a firewall that takes over after a crash, and under other rules.
    with net.server.entered():
        successor = NftFirewall()
    successor.start(replace(RULES, hidden_as="reject"))
    assert talks(client, server)


@both_versions
def test_door_and_knock_port_open_on_a_host_that_drops(net: Net, version: int) -> None:
    net.server.nft(DROPPING_HOST)
    net.listen(22, version)
    net.listen(UNUSED, version)
    knocks = net.receive(54154, version)
    alice = net.socket_at(ALICE[version], socket.SOCK_DGRAM)
    assert not arrives(alice, 54154, knocks, version)
    net.firewall.start(RULES)
    assert arrives(alice, 54154, knocks, version)
    net.firewall.open([Door(SSH, ALICE[version], 30)])
    assert net.tcp(22, ALICE[version]) == "open"
    assert net.tcp(22, BOB[version]) == "filtered"
    assert net.tcp(UNUSED, ALICE[version]) == "filtered"
    net.firewall.apply(replace(RULES, open_knock_port=False))
    assert not arrives(alice, 54154, knocks, version)


def test_connections_that_others_let_in_get_no_mark(net: Net) -> None:
    net.server.nft(host_chain())
    net.firewall.start(RULES)
    service = net.listen(UNUSED)
    client = net.connection(UNUSED, ALICE[4])
    server = net.stack.enter_context(closing(service.accept()[0]))
    assert talks(client, server)
    net.server.nft("add rule inet host in ip saddr 192.0.2.2 drop")  # a ban
    assert not talks(client, server)


def test_somebody_elses_use_of_the_mark_opens_nothing(net: Net) -> None:
    net.server.nft(DROPPING_HOST)
    net.server.nft(host_chain(f"meta mark set meta mark | {MARK_BIT:#x}", table="marker", hook="prerouting"))
    net.listen(UNUSED)
    net.listen(22)
    net.firewall.start(RULES)
    assert net.tcp(UNUSED, ALICE[4]) == "filtered"
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    assert net.tcp(22, ALICE[4]) == "open"


def test_a_hidden_range_does_not_swallow_the_knocks(net: Net) -> None:
    net.firewall.start(replace(RULES, open_knock_port=False, hidden=parse_port_spec("54000-55000")))
    knocks, other = net.receive(54154), net.receive(54155)
    alice = net.socket_at(ALICE[4], socket.SOCK_DGRAM)
    assert arrives(alice, 54154, knocks)
    assert not arrives(alice, 54155, other)


@both_versions
@pytest.mark.parametrize("host", ["", DROPPING_HOST], ids=["open_host", "dropping_host"])
def test_single_use_serves_one_tcp_connection(net: Net, version: int, host: str) -> None:
    net.server.nft(host)
    service = net.listen(2222, version)
    net.firewall.start(RULES)
    net.firewall.open([Door(ONCE, ALICE[version], 30), Door(ONCE, BOB[version], 30)])
    client = net.connection(2222, ALICE[version])
    server = net.stack.enter_context(closing(service.accept()[0]))
    assert [door.address for door in net.firewall.doors()] == [BOB[version]]
    assert net.tcp(2222, ALICE[version]) == "filtered"
    assert talks(client, server)
    assert net.tcp(2222, BOB[version]) == "open"
    net.firewall.open([Door(ONCE, ALICE[version], 30)])
    assert net.tcp(2222, ALICE[version]) == "open"
    assert net.tcp(2222, ALICE[version]) == "filtered"


@both_versions
def test_single_use_serves_one_udp_flow(net: Net, version: int) -> None:
    net.firewall.start(RULES)
    service = net.receive(2222, version)
    net.firewall.open([Door(ONCE, ALICE[version], 30)])
    first, second = (net.socket_at(ALICE[version], socket.SOCK_DGRAM) for _ in range(2))
    assert arrives(first, 2222, service, version)
    assert arrives(first, 2222, service, version)  # before any answer
    assert not arrives(second, 2222, service, version)
    service.sendto(b"answer", first.getsockname()[:2])
    assert arrives(first, 2222, service, version)


def test_a_stray_ack_does_not_use_up_a_single_use_door(net: Net) -> None:
    net.listen(2222)
    net.firewall.start(RULES)
    net.firewall.open([Door(ONCE, ALICE[4], 30)])
    net.client.run("nmap", "-sA", "-Pn", "-n", "-e", "eth0", "-S", str(ALICE[4]), "-p", "2222", SERVER[4])
    assert net.tcp(2222, ALICE[4]) == "open"


def test_only_the_named_interface_is_treated(net: Net) -> None:
    connect(net.server, net.client, "eth1", subnet=1)
    net.firewall.start(replace(RULES, interface="eth1"))
    with net.server.entered():
        net.stack.enter_context(closing(socket.create_server(("", 22))))
    assert net.tcp(22, ALICE[4]) == "open"
    assert net.tcp(22, ip_address(v4(2, 1)), server=v4(1, 1)) == "filtered"
    assert net.udp(UNUSED, ALICE[4]) == "closed"


def test_an_interface_may_come_later(net: Net) -> None:
    net.firewall.start(replace(RULES, interface="eth1"))
    with net.server.entered():
        net.stack.enter_context(closing(socket.create_server(("", 22))))
    connect(net.server, net.client, "eth1", subnet=1)
    assert net.tcp(22, ip_address(v4(2, 1)), server=v4(1, 1)) == "filtered"


@both_versions
def test_udp_errors_are_hidden(net: Net, version: int) -> None:
    assert net.udp(UNUSED, ALICE[version]) == "closed"
    net.firewall.start(RULES)
    assert net.udp(UNUSED, ALICE[version]) == net.udp(53, ALICE[version]) == "silent"
    net.firewall.apply(replace(RULES, hidden_as="reject", hide_udp_errors=False))
    assert net.udp(UNUSED, ALICE[version]) == net.udp(53, ALICE[version]) == "closed"


@both_versions
def test_the_hosts_own_way_to_refuse_tcp_stays(net: Net, version: int) -> None:
    net.server.nft(host_chain(f"tcp dport {UNUSED} reject with icmpx type port-unreachable"))
    net.firewall.start(RULES)
    family = ["-6"] if version == 6 else []
    report = net.client.run("nmap", *family, "-sS", "-Pn", "-n", "--reason", "-p", str(UNUSED), SERVER[version])
    assert "port-unreach" in report


def test_loopback_is_left_alone(net: Net) -> None:
    net.firewall.start(RULES)
    net.listen(22)
    with net.server.entered(), socket.create_connection((SERVER[4], 22), timeout=WAIT):
        pass
    with net.server.entered(), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.settimeout(WAIT)
        sender.connect(("127.0.0.1", UNUSED))
        sender.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)


def test_stopping_leaves_the_hosts_rules_as_they_were(net: Net) -> None:
    net.server.nft(DROPPING_HOST)
    if shutil.which("iptables-nft"):
        net.server.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "1,2", "-j", "ACCEPT")
    before = net.server.ruleset()
    for _ in range(2):
        with net.server.entered():
            NftFirewall().start(RULES)
    net.firewall.apply(RULES)
    during = net.server.ruleset()
    assert during.count("openme-mark") == 3
    without_ours = [line for line in during.partition("table inet openme")[0].splitlines() if "openme" not in line]
    assert "\n".join(without_ours).strip() == before.strip()
    assert net.firewall.intact()
    net.firewall.stop()
    assert net.server.ruleset() == before


def test_iptables_still_reads_its_chains(net: Net) -> None:
    if shutil.which("iptables-nft") is None:
        pytest.skip("Debian package iptables is not installed")
    net.server.run("iptables-nft", "-P", "INPUT", "DROP")
    net.server.run("iptables-nft", "-A", "INPUT", "-s", "203.0.113.9", "-j", "DROP")
    before = net.server.run("iptables-nft", "-S")
    net.firewall.start(RULES)
    during = net.server.run("iptables-nft", "-S")
    assert [line for line in during.splitlines() if "openme" not in line] == before.splitlines()
    net.server.run("iptables-nft", "-D", "INPUT", "-s", "203.0.113.9", "-j", "DROP")
    net.listen(22)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    assert net.tcp(22, ALICE[4]) == "open"
    saved = net.server.run("iptables-nft-save")
    net.server.run("iptables-nft-restore", stdin=saved)
    net.firewall.stop()
    assert "openme" not in net.server.run("iptables-nft", "-S")


def test_damage_is_seen_and_mended(net: Net) -> None:
    net.server.nft(DROPPING_HOST)
    net.firewall.start(RULES)
    for damage in (
        "flush chain inet host in",
        host_chain(table="late", policy="drop"),
        "flush chain inet openme prerouting",
        "flush chain inet openme input",
        "delete table inet openme",
        "flush ruleset",
    ):
        assert net.firewall.intact()
        net.server.nft(damage)
        assert not net.firewall.intact(), damage
        net.firewall.apply(RULES)
    net.firewall.open([Door(SSH, ALICE[4], 30)])
    assert len(net.firewall.doors()) == 1


def test_a_table_with_an_owner_is_named_and_does_not_stop_us(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    owner = net.server.popen("nft", "-i")
    assert owner.stdin is not None
    owner.stdin.write("add table inet private { flags owner; chain in { type filter hook input priority 0; }; }\n")
    owner.stdin.flush()
    until(lambda: "private" in net.server.run("nft", "list", "tables"))
    net.firewall.start(RULES)
    assert "inet private in is out of reach" in caplog.text
    assert net.firewall.intact()
    net.firewall.stop()


def test_a_lost_table_is_an_error_with_a_cure(net: Net) -> None:
    net.firewall.start(RULES)
    net.server.nft("flush ruleset")
    with pytest.raises(FirewallError) as caught:
        net.firewall.open([Door(SSH, ALICE[4], 30)])
    assert caught.value.hint is not None
    assert "flush ruleset" in caught.value.hint


@pytest.mark.parametrize("how", ["expires", "replace"])
def test_refreshing_loses_no_packet_of_a_stream(net: Net, how: Refresh) -> None:
    with net.server.entered():
        firewall = NftFirewall(refresh=how)
    firewall.start(RULES)
    firewall.open([Door(RANGE, ALICE[4], 30)])
    service = net.receive(8080)
    service.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
    sender = net.socket_at(ALICE[4], socket.SOCK_DGRAM)
    amount = 20_000

    def stream() -> None:
        for _ in range(amount):
            sender.sendto(b"x", (SERVER[4], 8080))

    thread = threading.Thread(target=stream)
    thread.start()
    refreshes = 0
    while thread.is_alive():
        firewall.open([Door(RANGE, ALICE[4], 30 + refreshes % 5)])
        refreshes += 1
    thread.join()
    received = 0
    service.settimeout(0)
    while received < amount:
        try:
            service.recv(10)
        except BlockingIOError:
            break
        received += 1
    assert received == amount
    assert refreshes > 50


@pytest.mark.parametrize("how", ["expires", "replace"])
def test_refreshing_loses_no_new_connection(net: Net, how: Refresh) -> None:
    with net.server.entered():
        firewall = NftFirewall(refresh=how)
        net.stack.enter_context(closing(socket.create_server((SERVER[4], 22), backlog=1000)))
    firewall.start(RULES)
    firewall.open([Door(SSH, ALICE[4], 30)])
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(net.tcp(22, ALICE[4]) for _ in range(300)))
    thread.start()
    while thread.is_alive():
        firewall.open([Door(SSH, ALICE[4], 30)])
    thread.join()
    assert seen == ["open"] * 300


def test_taking_over_and_applying_leave_no_gap(net: Net) -> None:
    net.firewall.start(RULES)
    service = net.receive(22 + 8058)
    service.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
    sender = net.socket_at(BOB[4], socket.SOCK_DGRAM)
    over = threading.Event()

    def stream() -> None:
        while not over.is_set():
            sender.sendto(b"x", (SERVER[4], 8080))

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        for number in range(20):
            net.firewall.apply(replace(RULES, hidden_as=("drop", "reject")[number % 2]))
            with net.server.entered():
                successor = NftFirewall()
            successor.start(RULES)
    finally:
        over.set()
        thread.join()
    with pytest.raises(TimeoutError):
        service.recv(10)


def test_without_the_privilege_one_line_and_the_cure(net: Net) -> None:
    assert "hint: run it as root, or give it CAP_NET_ADMIN" in _start_with_capabilities(net, "-net_admin")


def test_the_privilege_alone_is_enough(net: Net) -> None:
    assert _start_with_capabilities(net, "-all,+net_admin") == "1 door\n"


PROGRAM = """
from ipaddress import ip_address
from openme.firewall.base import Door, FirewallError, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.ports import parse_port_spec
ssh = PortList(parse_port_spec("22/tcp"))
try:
    firewall = NftFirewall()
    firewall.start(Rules(54154, True, ssh.ports, "drop", True, None, frozenset({ssh})))
    firewall.open([Door(ssh, ip_address("192.0.2.2"), 30)])
    print(len(firewall.doors()), "door")
    firewall.stop()
except FirewallError as error:
    print(f"error: {error.message}, hint: {error.hint}")
"""


def _start_with_capabilities(net: Net, bounding: str) -> str:
    source = Path(__file__).parents[2] / "src"
    return net.server.run(
        "env", f"PYTHONPATH={source}", "setpriv", f"--bounding-set={bounding}", sys.executable, "-c", PROGRAM
    )


def test_a_test_namespace_is_not_this_host(net: Net) -> None:
    net.firewall.start(RULES)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "openme" not in tables
