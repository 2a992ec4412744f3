"""Every beginning of a TCP connection is judged by the doors, whatever the kernel still remembers of an earlier one.

The client's packets are made by hand (support/handmade.py): a connection ends at the server, conntrack goes on calling
it established, and a SYN comes over the same four numbers.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from openme.firewall.base import Door, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.ports import merged, parse_port_spec
from support.handmade import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    URG,
    Cable,
    HandmadeConnection,
    conntrack_calls_it_established,
    has_connection,
    wire,
)
from support.netns import Namespace, connect, namespace, until

pytestmark = pytest.mark.root

SSH = PortList(parse_port_spec("22/tcp"))
ONCE = PortList(parse_port_spec("2222/tcp"), single_use=True)
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + ONCE.ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH, ONCE}),
)
OURS = 40000
SILENCE = 0.3  # seconds without an answer that mean silence: between namespaces a packet needs microseconds
DROPPING_HOST = """
table inet host {
    chain in {
        type filter hook input priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""
_ECHO = """
import socket, threading
def stream(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionResetError:
            pass
def accepting(listener):
    while True:
        threading.Thread(target=stream, args=(listener.accept()[0],), daemon=True).start()
listeners = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (22, 2222)]
for listener in listeners:
    threading.Thread(target=accepting, args=(listener,)).start()
print("ready", flush=True)
"""

both_versions = pytest.mark.parametrize("version", [4, 6])


@dataclass
class Hosts:
    stack: ExitStack
    server: Namespace
    client: Namespace
    firewall: NftFirewall

    def cable(self, version: int) -> Cable:
        return self.stack.enter_context(wire(self.client, self.server, version))

    def connected(self, port: int, version: int) -> HandmadeConnection:
        """A connection to an echo service that works."""
        made = HandmadeConnection(self.cable(version), OURS, port)
        assert made.begin(1000)
        assert made.echoes(b"hello")
        return made


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        service = server.popen(sys.executable, "-c", _ECHO)
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        with server.entered():
            firewall = NftFirewall()
        yield Hosts(stack, server, client, firewall)


def address(cable: Cable) -> IPv4Address | IPv6Address:
    return ip_address(cable.source)


@both_versions
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_who_was_in_once_does_not_begin_anew(hosts: Hosts, version: int, hidden_as: str) -> None:
    hosts.firewall.start(replace(RULES, hidden_as=hidden_as))  # type: ignore[arg-type]
    client = HandmadeConnection(hosts.cable(version), OURS, 22)
    hosts.firewall.open([Door(SSH, address(client.cable), 30)])
    assert client.begin(1000)
    assert client.echoes(b"hello")
    client.end_behind_conntracks_back(hosts.server)
    # With a door the same four numbers serve again.
    assert client.begin(100_000)
    assert client.echoes(b"again")
    client.end_behind_conntracks_back(hosts.server)
    hosts.firewall.close([(SSH, address(client.cable))])
    for isn, flags in enumerate((SYN, SYN | ECE | CWR, SYN | URG | PSH, SYN | FIN, SYN | FIN | URG | PSH, SYN | RST)):
        assert not client.begin(1_000_000 * (isn + 1), flags=flags, seconds=SILENCE), flags
    assert not has_connection(hosts.server, 22, OURS)


@both_versions
def test_who_was_in_before_the_first_start_lives_on_and_does_not_begin_anew(hosts: Hosts, version: int) -> None:
    hosts.server.nft("table inet early { chain in { type filter hook input priority 0; ct state new accept; }; }")
    client = hosts.connected(22, version)
    hosts.firewall.start(RULES)
    assert client.echoes(b"lives on")
    client.end_behind_conntracks_back(hosts.server)
    assert not client.begin(1_000_000, seconds=SILENCE)


@both_versions
def test_the_label_carries_no_syn_past_the_hosts_own_rules(hosts: Hosts, version: int) -> None:
    """Where ports are not hidden as well, and where the port is nobody's any more."""
    hosts.server.nft(DROPPING_HOST)
    shown = replace(RULES, hidden=())
    hosts.firewall.start(shown)
    client = HandmadeConnection(hosts.cable(version), OURS, 22)
    hosts.firewall.open([Door(SSH, address(client.cable), 30)])
    assert client.begin(1000)
    assert client.echoes(b"hello")
    client.end_behind_conntracks_back(hosts.server)
    hosts.firewall.close([(SSH, address(client.cable))])
    assert not client.begin(1_000_000, seconds=SILENCE)
    hosts.firewall.apply(replace(shown, port_lists=frozenset({ONCE})))
    assert not client.begin(2_000_000, seconds=SILENCE)


@both_versions
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_a_forged_syn_ends_no_living_connection(hosts: Hosts, version: int, hidden_as: str) -> None:
    hosts.firewall.start(replace(RULES, hidden_as=hidden_as))  # type: ignore[arg-type]
    client = HandmadeConnection(hosts.cable(version), OURS, 22)
    hosts.firewall.open([Door(SSH, address(client.cable), 30)])
    assert client.begin(1000)
    assert client.echoes(b"hello")
    hosts.firewall.close([(SSH, address(client.cable))])
    for isn in (5, client.seq, client.seq + 1000, 2**31 + client.seq):
        client.cable.send(client.cable.tcp(OURS, 22, SYN, seq=isn))
    assert client.echoes(b"still here")
    assert conntrack_calls_it_established(hosts.server, OURS, 22)


@both_versions
def test_the_host_that_connects_out_of_a_managed_port_is_not_entered_by_it(hosts: Hosts, version: int) -> None:
    """A simultaneous open: the host's own SYN is answered by a SYN."""
    hosts.firewall.start(replace(RULES, hidden=parse_port_spec("4000/tcp")))
    cable = hosts.cable(version)
    with hosts.server.entered():
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        out = hosts.stack.enter_context(closing(socket.socket(family, socket.SOCK_STREAM)))
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    out.bind((cable.destination, 4000))
    out.setblocking(False)  # noqa: FBT003  # the standard library's signature
    out.connect_ex((cable.source, OURS))
    asked = cable.tcp_answer(OURS, 4000)
    assert asked is not None
    assert asked.flags == SYN
    cable.send(cable.tcp(OURS, 4000, SYN, seq=1000))
    assert cable.tcp_answer(OURS, 4000, SILENCE, flags=SYN | ACK) is None
    # The host's own connection is its own affair.
    cable.send(cable.tcp(OURS, 4000, SYN | ACK, seq=1000, ack=asked.seq + 1))
    assert cable.tcp_answer(OURS, 4000, flags=ACK) is not None
    until(lambda: has_connection(hosts.server, 4000, OURS))


def test_a_connection_that_conntrack_expects_needs_a_door(hosts: Hosts) -> None:
    """The host talks to an FTP server, which is told to connect to a managed port (active mode)."""
    hosts.firewall.start(RULES)
    hosts.server.nft(
        'table inet ftp { ct helper ftp { type "ftp" protocol tcp; l3proto ip; }; chain out { type filter hook output '
        'priority -150; tcp dport 21 ct helper set "ftp"; }; }'
    )
    with hosts.client.entered():
        ftp = hosts.stack.enter_context(closing(socket.create_server(("192.0.2.2", 21))))
        caller = hosts.stack.enter_context(closing(socket.socket()))
    with hosts.server.entered():
        control = hosts.stack.enter_context(closing(socket.create_connection(("192.0.2.2", 21), timeout=5)))
    peer = hosts.stack.enter_context(closing(ftp.accept()[0]))
    peer.sendall(b"220 ready\r\n")
    assert control.recv(100)
    for line in (b"USER me\r\n", b"PORT 192,0,2,1,0,22\r\n"):  # conntrack looks at what follows a whole line
        control.sendall(line)
        assert peer.recv(100) == line
    assert "dport=22 " in hosts.server.run("cat", "/proc/net/nf_conntrack_expect")
    caller.bind(("192.0.2.2", 20))
    caller.settimeout(SILENCE)
    with pytest.raises(TimeoutError):
        caller.connect(("192.0.2.1", 22))


@pytest.mark.parametrize(("port", "arrives"), [(5300, False), (5301, True)], ids=["managed", "unmanaged"])
def test_a_datagram_that_conntrack_expects_needs_a_door(hosts: Hosts, port: int, arrives: bool) -> None:  # noqa: FBT001
    """The host asks a TFTP server, which answers from a port of its choice."""
    hosts.firewall.start(replace(RULES, hidden=parse_port_spec("5300/udp")))
    hosts.server.nft(
        'table inet tftp { ct helper tftp { type "tftp" protocol udp; l3proto ip; };'
        ' chain out { type filter hook output priority -150; udp dport 69 ct helper set "tftp"; }; }'
    )
    with hosts.server.entered():
        asking = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    asking.bind(("192.0.2.1", port))
    with hosts.client.entered():
        answering = hosts.stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    asking.sendto(b"\0\1file\0octet\0", ("192.0.2.2", 69))
    until(lambda: f"dport={port} " in hosts.server.run("cat", "/proc/net/nf_conntrack_expect"))
    answering.bind(("192.0.2.2", 6969))
    answering.sendto(b"\0\3\0\1data", ("192.0.2.1", port))
    asking.settimeout(5 if arrives else SILENCE)
    if arrives:
        assert asking.recv(100).endswith(b"data")
    else:
        with pytest.raises(TimeoutError):
            asking.recv(100)


@both_versions
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_an_untracked_syn_needs_a_door_and_enters_by_one(hosts: Hosts, version: int, hidden_as: str) -> None:
    hosts.server.nft("table inet raw { chain pre { type filter hook prerouting priority -300; notrack; }; }")
    hosts.firewall.start(replace(RULES, hidden_as=hidden_as))  # type: ignore[arg-type]
    client = HandmadeConnection(hosts.cable(version), OURS, 22)
    assert not client.begin(1000, seconds=SILENCE)
    hosts.firewall.open([Door(SSH, address(client.cable), 30)])
    assert client.begin(2000)
    assert client.echoes(b"hello")


@both_versions
def test_an_invalid_syn_needs_a_door_and_enters_by_one(hosts: Hosts, version: int) -> None:
    """SYN with URG and PSH is one of the combinations that conntrack does not know."""
    hosts.firewall.start(RULES)
    hosts.server.nft(
        "table inet host { chain in { type filter hook input priority 0; ct state invalid counter drop; }; }"
    )
    client = HandmadeConnection(hosts.cable(version), OURS, 22)
    flags = SYN | URG | PSH | ECE
    assert not client.begin(1000, flags=flags, seconds=SILENCE)
    hosts.firewall.open([Door(SSH, address(client.cable), 30)])
    assert client.begin(2000, flags=flags)


@both_versions
def test_a_single_use_door_lets_the_very_syn_pass_again_and_no_other(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(RULES)
    cable = hosts.cable(version)
    hosts.firewall.open([Door(ONCE, address(cable), 30)])
    syn = cable.tcp(OURS, 2222, SYN, seq=1000)
    for _ in range(3):  # a client that hears nothing repeats itself
        cable.send(syn)
        assert cable.tcp_answer(OURS, 2222, flags=SYN | ACK) is not None
    assert hosts.firewall.doors() == []
    for other in (cable.tcp(OURS, 2222, SYN, seq=1001), cable.tcp(OURS + 1, 2222, SYN, seq=1000)):
        cable.send(other)
    assert cable.tcp_answer(OURS + 1, 2222, SILENCE) is None
    client = HandmadeConnection(cable, OURS, 2222)
    assert client.begin(1000)
    assert client.echoes(b"hello")


@both_versions
def test_a_single_use_door_serves_one_connection_over_the_same_numbers(hosts: Hosts, version: int) -> None:
    hosts.firewall.start(RULES)
    client = HandmadeConnection(hosts.cable(version), OURS, 2222)
    hosts.firewall.open([Door(ONCE, address(client.cable), 30)])
    assert client.begin(1000)
    assert client.echoes(b"hello")
    client.end_behind_conntracks_back(hosts.server)
    # Neither a new SYN nor the old one, which has nothing to repeat once it has led to a connection.
    assert not client.begin(1_000_000, seconds=SILENCE)
    assert not client.begin(1000, seconds=SILENCE)
    # The next door serves one more.
    hosts.firewall.open([Door(ONCE, address(client.cable), 30)])
    assert client.begin(2_000_000)
    assert client.echoes(b"again")
    assert hosts.firewall.doors() == []


@both_versions
@pytest.mark.parametrize("flags", [SYN | FIN, SYN | RST, SYN | FIN | PSH | URG, ACK])
def test_what_begins_nothing_uses_up_no_single_use_door(hosts: Hosts, version: int, flags: int) -> None:
    hosts.firewall.start(RULES)
    client = HandmadeConnection(hosts.cable(version), OURS, 2222)
    hosts.firewall.open([Door(ONCE, address(client.cable), 30)])
    client.cable.send(client.cable.tcp(OURS, 2222, flags, seq=5, ack=6))
    assert client.cable.tcp_answer(OURS, 2222, SILENCE) is None
    assert client.begin(1000)


@pytest.mark.parametrize("ends", ["close", "apply"])
def test_a_closed_single_use_door_takes_its_syn_with_it(hosts: Hosts, ends: str) -> None:
    hosts.firewall.start(RULES)
    cable = hosts.cable(4)
    hosts.firewall.open([Door(ONCE, address(cable), 30)])
    cable.send(cable.tcp(OURS, 2222, SYN, seq=1000))
    assert cable.tcp_answer(OURS, 2222, flags=SYN | ACK) is not None
    if ends == "close":
        hosts.firewall.close([(ONCE, address(cable))])
    else:
        hosts.firewall.apply(replace(RULES, port_lists=frozenset({SSH, replace(ONCE, ports=parse_port_spec("9/tcp"))})))
    client = HandmadeConnection(cable, OURS, 2222)
    # (What is heard from now on are the server's own repetitions, which answer nothing.)
    cable.send(cable.tcp(OURS, 2222, RST, seq=1001))
    until(lambda: "SYN_RECV" not in hosts.server.run("ss", "-Htan"))
    assert not client.begin(1000, seconds=SILENCE)


@both_versions
def test_networks_that_are_always_open_meet_the_hosts_rules_and_no_hiding(hosts: Hosts, version: int) -> None:
    cable = hosts.cable(version)
    network = ip_network(f"{cable.source}/{24 if version == 4 else 64}", strict=False)
    health = parse_port_spec("4444/tcp")
    rules = replace(
        RULES, hidden=merged(RULES.hidden + health), always_open_from=(network,), always_hidden=health, interface="eth0"
    )
    hosts.firewall.start(replace(rules, always_open_from=(ip_network("203.0.113.0/24"), ip_network("2001:db8:9::/48"))))
    client = HandmadeConnection(cable, OURS, 22)
    assert not client.begin(1000, seconds=SILENCE)
    hosts.firewall.apply(rules)
    assert client.begin(2000)
    assert client.echoes(b"hello")
    client.end_behind_conntracks_back(hosts.server)
    assert client.begin(1_000_000), "a beginning over an old entry is one like any other"
    cable.send(cable.tcp(OURS, 4444, SYN))
    assert cable.tcp_answer(OURS, 4444, SILENCE) is None, "openme's own port stays hidden"
    # No mark and no label: what the host drops stays dropped.
    hosts.server.nft(DROPPING_HOST)
    hosts.firewall.apply(rules)
    fresh = HandmadeConnection(cable, OURS + 1, 22)
    assert not fresh.begin(1000, seconds=SILENCE)
    hosts.server.nft("add rule inet host in tcp dport 22 accept")
    assert fresh.begin(2000)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_network_of_everybody_is_of_its_own_ip_version(hosts: Hosts, network: str) -> None:
    everybody = ip_network(network)
    hosts.firewall.start(replace(RULES, always_open_from=(everybody,)))
    assert HandmadeConnection(hosts.cable(everybody.version), OURS, 22).begin(1000)
    assert not HandmadeConnection(hosts.cable(10 - everybody.version), OURS, 22).begin(1000, seconds=SILENCE)


@pytest.mark.parametrize("old_set", ["typeof ct id", "typeof ct id . tcp sequence", "type ipv4_addr"])
def test_a_table_of_another_version_does_not_keep_us_from_starting(hosts: Hosts, old_set: str) -> None:
    hosts.server.nft(
        f"""
        add table inet openme
        add chain inet openme output {{ type filter hook output priority -2147483648; }}
        add chain inet openme input {{ type filter hook input priority -2147483648; }}
        add chain inet openme something
        add set inet openme taken {{ {old_set}; size 65535; flags timeout,dynamic; timeout 10s; }}
        add rule inet openme input jump something
        add rule inet openme something tcp dport 22 goto later
        """.replace("goto later", "drop")
    )
    if old_set == "typeof ct id":
        hosts.server.nft("add rule inet openme something ct id @taken accept")
    hosts.firewall.start(RULES)
    listed = hosts.server.ruleset()
    assert "something" not in listed
    assert "hook output priority -2147483648" not in listed
    assert "set taken {" not in listed
    assert hosts.firewall.intact()
