"""`host_firewall`: nothing of the host's own rules is lost or changed, and stopping leaves no trace.

Hosts whose own firewall drops: nftables rules of many kinds, iptables and ip6tables over nftables, the real ufw and the
real firewalld. Their whole ruleset is compared before, while and after openme serves; and while the host's firewall is
reloaded, switched off and on or restarted, knocks, doors and connections live on.
"""

import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.firewall.nftables_rules import MARK_COMMENT
from support.host_firewalls import Debian, make_tree
from support.netns import Namespace, until
from support.server import UNUSED, ServerWorld, echoes

pytestmark = pytest.mark.root

SSH = 22
WEB = 80
MAKING_THE_TREE = 600  # seconds that the first run may take: it downloads a Debian
BACK_WITHIN = 2.0  # seconds from the end of a reload until openme's rules are in place again

NATIVE = """
table inet host {
    comment "the operator's own"
    counter web { packets 1234 bytes 567890 }
    counter door { packets 0 bytes 0 }
    quota daily { over 500 mbytes used 12 mbytes }
    limit slow { rate 10/minute burst 5 packets }
    set banned {
        type ipv4_addr; flags interval, timeout; timeout 1d
        elements = { 203.0.113.0/24 timeout 12h, 203.0.114.9 }
    }
    set seen { type ipv4_addr . inet_service; flags dynamic, timeout; size 1024; timeout 1h; }
    map offices { type ipv4_addr : mark; elements = { 198.51.100.7 : 7, 198.51.100.8 : 8 }; }
    chain service { counter name web accept; }
    map verdicts { type inet_service : verdict; elements = { 80 : jump service, 443 : jump service }; }
    chain early {
        type filter hook prerouting priority mangle; policy accept
        meta mark set 0x17
    }
    chain in {
        type filter hook input priority filter; policy drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        iif "lo" accept
        ip saddr @banned counter packets 77 bytes 7777 drop
        ip saddr 198.51.100.20 quota name "daily" limit name "slow" log prefix "seen " accept
        ip saddr 198.51.100.21 add @seen { ip saddr . tcp dport } meta mark set ip saddr map @offices
        tcp dport vmap @verdicts
        tcp dport { 8000-8010, 9000 } ip saddr 198.51.100.22 accept comment "a rule in the middle"
        ip saddr 198.51.100.23 counter packets 9 bytes 99 reject with icmpx admin-prohibited
    }
    chain late {
        type filter hook input priority 500; policy drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        tcp dport 80 accept
    }
    chain translated {
        type nat hook input priority 100; policy accept
        meta mark and 0xbfffffff == 0x17 tcp dport 22 counter name "door"
    }
    chain out {
        type filter hook output priority filter; policy drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        oif "lo" accept
    }
    chain forward { type filter hook forward priority filter; policy drop; }
}
table inet dormant {
    flags dormant
    chain in { type filter hook input priority filter; policy drop; }
}
table inet openme_but_not {
    chain input { type filter hook prerouting priority -1001; policy accept; }
}
table ip nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept
        tcp dport 8022 redirect to :9022
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept
        oifname "wan0" masquerade
    }
}
table ip6 raw {
    chain prerouting {
        type filter hook prerouting priority raw; policy accept
        udp dport 9999 notrack
    }
}
table arp host {
    chain in {
        type filter hook input priority filter; policy accept
        arp operation nak counter packets 5 bytes 50
    }
}
table bridge host {
    chain in {
        type filter hook input priority filter; policy accept
        ether type vlan drop
    }
}
table netdev host {
    chain ingress {
        type filter hook ingress device "eth0" priority filter; policy accept
        ip saddr 198.51.100.24 drop
    }
}
"""

IPTABLES = """
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 8022 -j MARK --set-xmark 0x17/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 8023 -j REDIRECT --to-ports 9022
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:banned - [0:0]
[0:0] -A INPUT -i lo -j ACCEPT
[0:0] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
ICMPV6
[7:700] -A INPUT -p tcp -m tcp --dport 4001 -j banned
[0:0] -A INPUT -p tcp -m tcp --dport 80 -m comment --comment "the web" -j ACCEPT
[1234:567890] -A banned -m mark --mark 0x17 -j RETURN
[5:50] -A banned -p tcp -m tcp --dport 4001 -j REJECT
COMMIT
"""


class Host(ServerWorld):
    """A server whose host has a firewall; alice knocks from the client, bob from the stranger's host."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        super().__init__(stack, folder, knock_timeout="5m")
        self.alice = self.add("alice")
        self.bob = self.add("bob")
        self.serve(tcp=[SSH, WEB, UNUSED])

    def rules(self, *, handles: bool = True) -> str:
        """Everything that any tool of the host knows about its rules. Handles tell a rule from one put in its place."""
        options = ["--stateless", *(["--handle"] if handles else [])]
        return self.server.run("nft", *options, "list", "ruleset")

    def drops(self) -> None:
        """The host's own firewall is at work: openme names neither of these two ports."""
        for host in (self.client, self.stranger):
            assert self.tcp(host, UNUSED) == "filtered"
            assert self.tcp(host, WEB) == "open"

    def serves_all(self) -> None:
        """Knocks arrive and open, over IPv4 and IPv6, and only for whom they should."""
        for version in (4, 6):
            until(lambda version=version: self.tcp(self.client, SSH, version) == "open", BACK_WITHIN)  # type: ignore[misc]
            assert self.tcp(self.stranger, SSH, version) == "filtered"
        for version in (4, 6):
            self.opens(self.bob, version=version, host=self.stranger, port=SSH)
        self.ask("close", name="bob")
        for version in (4, 6):
            assert self.tcp(self.stranger, SSH, version) == "filtered"

    def alice_is_in(self) -> socket.socket:
        """Doors open for both of alice's addresses, and a connection through one."""
        for version in (4, 6):
            self.opens(self.alice, version=version, port=SSH)
        return self.connection(self.client, SSH)

    def marks(self) -> int:
        """In how many of the host's chains openme's rule stands."""
        return self.server.run("nft", "--stateless", "list", "ruleset").count(MARK_COMMENT)


def without_openme(rules: str) -> str:
    """What is left of a listing without openme's table and without its rules in the host's chains."""
    rules = re.sub(r"^table inet openme \{.*?^\}\n", "", rules, flags=re.DOTALL | re.MULTILINE)
    return re.sub(rf'^\t*meta mark .* accept comment "{MARK_COMMENT}".*\n', "", rules, flags=re.MULTILINE)


@pytest.fixture
def host(tmp_path: Path, stack: ExitStack) -> Host:
    return Host(stack, tmp_path)


@pytest.fixture
def debian(host: Host, stack: ExitStack, capfd: pytest.CaptureFixture[str]) -> Debian:
    """The ufw and firewalld of the host, not started yet."""
    with capfd.disabled():  # the first run says why it takes so long
        make_tree()
    return Debian(stack, host.server)


def test_nothing_of_an_nftables_ruleset_is_lost_or_changed(host: Host) -> None:
    host.server.nft(NATIVE)
    before = host.rules()
    counted = counters(host.server)
    assert {"packets 1234 bytes 567890", "packets 77 bytes 7777", "packets 5 bytes 50"} <= counted
    host.drops()

    host.start()
    assert host.rules() != before
    assert without_openme(host.rules()) == before
    host.alice_is_in()
    host.serves_all()
    host.drops()
    # The host's own mark is still on a packet that openme has marked as well.
    assert "packets 0 " not in host.server.run("nft", "list", "counter", "inet", "host", "door")
    assert without_openme(host.rules()) == before

    assert host.stop() == 0
    assert host.rules() == before
    # No traffic of this test meets the rules that had counted before.
    assert {"packets 77 bytes 7777", "packets 9 bytes 99", "packets 5 bytes 50"} <= counters(host.server)
    assert "used 12 mbytes" in host.server.run("nft", "list", "quotas")


def counters(server: Namespace) -> set[str]:
    return set(re.findall(r"packets \d+ bytes \d+", server.run("nft", "list", "ruleset")))


def load_iptables(server: Namespace) -> None:
    """The same rules for IPv4 and IPv6, both dropping."""
    discovery = "[0:0] -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type {} -j ACCEPT\n"
    server.run("iptables-restore", "--counters", stdin=IPTABLES.replace("ICMPV6\n", ""))
    server.run(
        "ip6tables-restore",
        "--counters",
        stdin=IPTABLES.replace("ICMPV6\n", discovery.format(135) + discovery.format(136)),
    )


def iptables_rules(server: Namespace) -> str:
    """Both families as iptables-save writes them, without the times in its comments."""
    saved = server.run("iptables-save") + server.run("ip6tables-save")
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", saved, flags=re.MULTILINE)


def test_nothing_of_iptables_rules_is_lost_or_changed(host: Host) -> None:
    load_iptables(host.server)
    before, saved_before = host.rules(), iptables_rules(host.server)
    listed = [host.server.run(tool, "-S") for tool in ("iptables", "ip6tables")]
    host.drops()

    host.start()
    assert without_openme(host.rules()) == before
    # iptables still understands its tables, and shows one rule more.
    for tool, listing in zip(("iptables", "ip6tables"), listed, strict=True):
        now = host.server.run(tool, "-S").splitlines()
        assert [line for line in now if MARK_COMMENT not in line] == listing.splitlines()
        assert len(now) == len(listing.splitlines()) + 1
        host.server.run(tool, "-L", "-n", "-v")
    connection = host.alice_is_in()
    host.serves_all()
    host.drops()

    # The operator changes rules of their own meanwhile.
    host.server.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(UNUSED), "-j", "ACCEPT")
    assert host.tcp(host.stranger, UNUSED) == "open"
    host.server.run("iptables", "-D", "INPUT", "-p", "tcp", "--dport", str(UNUSED), "-j", "ACCEPT")
    host.drops()
    assert echoes(connection)

    assert host.stop() == 0
    assert host.rules() == before
    assert iptables_rules(host.server) == saved_before
    assert "[1234:567890] -A banned" in host.server.run("iptables-save", "--counters")
    assert "[5:50] -A banned" in host.server.run("iptables-save", "--counters")


@pytest.mark.parametrize("saved_while_serving", [True, False], ids=["saved_while_serving", "saved_before"])
def test_iptables_saved_and_restored_while_openme_serves(host: Host, *, saved_while_serving: bool) -> None:
    load_iptables(host.server)
    # Restored once already, so that the chains that restoring adds are there.
    restore(host.server, save(host.server))
    before, saved_before = host.rules(handles=False), save(host.server)
    host.start()
    connection = host.alice_is_in()
    saved = save(host.server) if saved_while_serving else saved_before
    assert (MARK_COMMENT in saved["iptables"]) is saved_while_serving
    restore(host.server, saved)
    host.serves_all()
    host.drops()
    assert echoes(connection)
    assert host.stop() == 0
    assert host.rules(handles=False) == before


def test_a_rule_that_iptables_saved_and_restored_without_openme_is_cleaned_up(host: Host) -> None:
    load_iptables(host.server)
    restore(host.server, save(host.server))
    before = host.rules(handles=False)
    host.start()
    saved = save(host.server)
    assert host.stop() == 0
    restore(host.server, saved)
    assert MARK_COMMENT in save(host.server)["iptables"]
    host.openme(host.server, "--config", host.config, "serve", "--clean-up", code=0)
    assert host.rules(handles=False) == before


def save(server: Namespace) -> dict[str, str]:
    return {tool: server.run(f"{tool}-save") for tool in ("iptables", "ip6tables")}


def restore(server: Namespace, saved: dict[str, str]) -> None:
    for tool, text in saved.items():
        server.run(f"{tool}-restore", stdin=text)


def undisturbed(host: Host, actions: dict[str, Callable[[], object]]) -> None:
    """What the host's firewall does with its own rules, it does while openme serves as it does without; and openme's
    doors, knocks and connections live on.
    """
    host.drops()
    for act in actions.values():
        act()
    host.drops()
    before = host.rules(handles=False)

    host.start()
    assert host.marks() > 0
    assert without_openme(host.rules(handles=False)) == before
    connection = host.alice_is_in()
    host.serves_all()
    host.drops()
    marks = host.marks()
    for name, act in actions.items():
        act()
        ended = time.monotonic()
        try:
            until(lambda: host.marks() == marks, BACK_WITHIN)
            host.serves_all()
            host.drops()
            assert echoes(connection), "the connection is gone"
            assert without_openme(host.rules(handles=False)) == before
        except AssertionError as error:
            raise AssertionError(
                f"{time.monotonic() - ended:.1f} s after {name}: {error}\n{host.rules()}\n{host.log()}"
            ) from error

    assert host.stop() == 0
    assert host.rules(handles=False) == before
    host.drops()


def test_beside_nftables_loaded_anew(host: Host) -> None:
    host.server.nft(NATIVE)
    undisturbed(host, {"a reload of nftables.conf": lambda: host.server.nft(f"flush ruleset\n{NATIVE}")})


@pytest.mark.timeout(MAKING_THE_TREE)
def test_beside_ufw(host: Host, debian: Debian) -> None:
    debian.start_ufw()

    def off_and_on() -> None:
        debian.run("ufw", "disable")
        debian.run("ufw", "--force", "enable")

    def allow_and_delete() -> None:
        debian.run("ufw", "allow", "81/tcp")
        assert "81/tcp" in debian.run("ufw", "status")
        debian.run("ufw", "delete", "allow", "81/tcp")

    undisturbed(
        host,
        {
            "ufw reload": lambda: debian.run("ufw", "reload"),
            "ufw disable and enable": off_and_on,
            "ufw allow and delete": allow_and_delete,
            "iptables -S": lambda: debian.run("iptables", "-S"),
        },
    )


@pytest.mark.timeout(MAKING_THE_TREE)
def test_beside_firewalld(host: Host, debian: Debian) -> None:
    debian.run("firewall-offline-cmd", "--set-default-zone=drop")
    debian.run("firewall-offline-cmd", "--zone=drop", f"--add-port={WEB}/tcp")
    debian.start_bus()
    debian.start_firewalld()

    def restart() -> None:
        debian.stop_firewalld()
        debian.start_firewalld()

    def panic() -> None:
        debian.run("firewall-cmd", "--panic-on")
        # Nor does openme let anybody past that.
        assert host.tcp(host.client, SSH) == "filtered"
        debian.run("firewall-cmd", "--panic-off")

    undisturbed(
        host,
        {
            "firewall-cmd --reload": lambda: debian.run("firewall-cmd", "--reload"),
            "a restart of firewalld": restart,
            "panic": panic,
        },
    )


def test_a_table_that_its_owner_keeps_to_itself_is_left_alone_and_named_in_the_log(host: Host) -> None:
    # As newer versions of firewalld than the tree's do with NftablesTableOwner=yes.
    owner = host.server.popen("nft", "--interactive")
    assert owner.stdin is not None
    owner.stdin.write(
        "add table inet firewalld { flags owner; }\n"
        "add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy drop; }\n"
        f"add rule inet firewalld filter_INPUT tcp dport {WEB} accept\n"
        "add rule inet firewalld filter_INPUT ct state established,related accept\n"
    )
    owner.stdin.flush()
    until(lambda: "established" in host.rules())
    before = host.rules()
    host.drops()
    host.start()
    host.says("chain inet firewalld filter_INPUT is out of reach")
    host.says("NftablesTableOwner=no")
    assert without_openme(host.rules()) == before
    assert host.marks() == 0
    host.send(host.packet(host.alice))
    assert host.tcp(host.client, SSH) == "filtered"
    assert "alice: opened" not in host.log()

    # One that comes later is named as well.
    owner.stdin.write(
        "add table inet late { flags owner; }\n"
        "add chain inet late in { type filter hook input priority 20; policy drop; }\n"
        f"add rule inet late in tcp dport {WEB} accept\n"
    )
    owner.stdin.flush()
    host.says("chain inet late in is out of reach")
    host.server.nft("delete table inet openme")
    host.says("putting openme's rules back")
    until(lambda: "table inet openme" in host.rules(), BACK_WITHIN)
    assert host.marks() == 0
    assert host.stop() == 0
    assert without_late(host.rules()) == before


def without_late(rules: str) -> str:
    return re.sub(r"^table inet late \{.*?^\}\n", "", rules, flags=re.DOTALL | re.MULTILINE)


def test_iptables_legacy_is_named_in_the_log(host: Host) -> None:
    host.server.run("iptables-legacy", "-P", "INPUT", "DROP")
    before = host.server.run("iptables-legacy-save")
    host.start()
    host.says("iptables-legacy is in use here (filter): what it drops, openme cannot let in")
    assert host.stop() == 0
    assert without_counts(host.server.run("iptables-legacy-save")) == without_counts(before)


def without_counts(saved: str) -> str:
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", saved, flags=re.MULTILINE)
