from dataclasses import replace
from ipaddress import ip_address

import pytest

from openme.firewall.base import MAX_SECONDS, Door, FirewallError, HiddenAs, PortList, Rules
from openme.firewall.nftables_rules import (
    HostChain,
    HostMark,
    can_be_named,
    interface_name,
    marks_script,
    set_names,
    stop_script,
    table_script,
    wanted_sets,
)
from openme.ports import merged, parse_port_spec

SSH = PortList(parse_port_spec("22/tcp"))
MIXED = PortList(merged((*parse_port_spec("53"), *parse_port_spec("8080-8090/tcp"))), single_use=True)
PLAIN = Rules(54154, True, (), "drop", False, None, frozenset())  # noqa: FBT003
FULL = Rules(
    knock_port=54154,
    open_knock_port=False,
    hidden=merged(SSH.ports + MIXED.ports),
    hidden_as="reject",
    hide_udp_errors=True,
    interface="eth0",
    port_lists=frozenset({MIXED, SSH}),
)

CUT_SETS = """\
add set inet openme cut_v4 { type ipv4_addr . inet_proto . inet_service; size 65535; flags timeout,dynamic; \
timeout 3600s; }
add set inet openme cut_v6 { type ipv6_addr . inet_proto . inet_service; size 65535; flags timeout,dynamic; \
timeout 3600s; }
"""
CUT_RULES = """\
add rule inet openme output_tracked oifname != "lo" ct state new ip daddr . meta l4proto . th sport @cut_v4 \
update @cut_v4 { ip daddr . meta l4proto . th sport } drop
add rule inet openme output_tracked oifname != "lo" ct state new ip6 daddr . meta l4proto . th sport @cut_v6 \
update @cut_v6 { ip6 daddr . meta l4proto . th sport } drop
"""

PLAIN_SCRIPT = """\
add table inet openme
add chain inet openme prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet openme input { type filter hook input priority -2147483648; policy accept; }
add chain inet openme output { type filter hook output priority -2147483648; policy accept; }
add chain inet openme output_tracked { type filter hook output priority 0; policy accept; }
flush chain inet openme prerouting
flush chain inet openme input
flush chain inet openme output
flush chain inet openme output_tracked
CUT_SETS
add rule inet openme prerouting iifname "lo" accept
add rule inet openme prerouting udp dport 54154 fib daddr type local udp length != 173 \
limit rate over 500/second burst 200 packets drop
add rule inet openme prerouting udp dport 54154 fib daddr type local notrack
add rule inet openme input meta mark & 0x40000000 != 0 meta mark set meta mark & 0xbfffffff
add rule inet openme input iifname "lo" accept
add rule inet openme input meta nfproto ipv6 ip6 nexthdr != udp udp dport 54154 drop
add rule inet openme input udp dport 54154 meta mark set meta mark | 0x40000000 accept
add rule inet openme input ct state established,related ct label 127 meta mark set meta mark | 0x40000000 accept
add rule inet openme input ct state established,related accept
CUT_RULES
"""

FULL_SCRIPT = """\
add table inet openme
add chain inet openme prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet openme input { type filter hook input priority -2147483648; policy accept; }
add chain inet openme output { type filter hook output priority -2147483648; policy accept; }
add chain inet openme output_tracked { type filter hook output priority 0; policy accept; }
flush chain inet openme prerouting
flush chain inet openme input
flush chain inet openme output
flush chain inet openme output_tracked
delete set inet openme v4_old
delete set inet openme v6_old
add set inet openme SSH4 { type ipv4_addr; flags timeout; }
add set inet openme SSH6 { type ipv6_addr; flags timeout; }
add set inet openme MIXED4 { type ipv4_addr; size 65535; flags timeout,dynamic; limit rate 1/day burst 1 packets; }
add set inet openme MIXED6 { type ipv6_addr; size 65535; flags timeout,dynamic; limit rate 1/day burst 1 packets; }
add set inet openme taken { typeof ct id; size 65535; flags timeout,dynamic; timeout 10s; }
CUT_SETS
add rule inet openme prerouting iifname "lo" accept
add rule inet openme prerouting iifname != "eth0" accept
add rule inet openme prerouting udp dport 54154 fib daddr type local udp length != 173 \
limit rate over 500/second burst 200 packets drop
add rule inet openme input meta mark & 0x40000000 != 0 meta mark set meta mark & 0xbfffffff
add rule inet openme input iifname "lo" accept
add rule inet openme input iifname != "eth0" accept
add rule inet openme input meta nfproto ipv6 ip6 nexthdr != udp udp dport 54154 drop
add rule inet openme input udp dport 54154 accept
add rule inet openme input ct state established,related ct label 127 LET_ON
add rule inet openme input ct state established,related accept
add rule inet openme input ct state new ct id @taken LET_ON
add rule inet openme input ct state new,untracked tcp dport 22 ip saddr @SSH4 LET_IN
add rule inet openme input ct state new,untracked tcp dport 22 ip6 saddr @SSH6 LET_IN
add rule inet openme input ct state new SYN tcp dport 53 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken { ct id } LET_IN
add rule inet openme input ct state new SYN tcp dport 53 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken { ct id } LET_IN
add rule inet openme input ct state new SYN tcp dport 8080-8090 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken { ct id } LET_IN
add rule inet openme input ct state new SYN tcp dport 8080-8090 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken { ct id } LET_IN
add rule inet openme input ct state new udp dport 53 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken { ct id } LET_IN
add rule inet openme input ct state new udp dport 53 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken { ct id } LET_IN
add rule inet openme input tcp dport 22 meta pkttype != host drop
add rule inet openme input tcp dport 22 tcp doff < 5 drop
add rule inet openme input tcp dport 22 reject with tcp reset
add rule inet openme input tcp dport 53 meta pkttype != host drop
add rule inet openme input tcp dport 53 tcp doff < 5 drop
add rule inet openme input tcp dport 53 reject with tcp reset
add rule inet openme input tcp dport 8080-8090 meta pkttype != host drop
add rule inet openme input tcp dport 8080-8090 tcp doff < 5 drop
add rule inet openme input tcp dport 8080-8090 reject with tcp reset
add rule inet openme input udp dport 53 drop
add rule inet openme output oifname "eth0" tcp flags & rst == rst ip dscp set 0 ip ecn set 0
add rule inet openme output oifname "eth0" tcp flags & rst == rst ip6 dscp set 0 ip6 ecn set 0 ip6 flowlabel set 0
add rule inet openme output oifname "eth0" icmp type destination-unreachable icmp code port-unreachable \
@th,136,8 != 6 drop
add rule inet openme output oifname "eth0" icmpv6 type destination-unreachable icmpv6 code port-unreachable \
@th,112,8 != 6 drop
add rule inet openme output oifname "eth0" icmp type parameter-problem drop
add rule inet openme output oifname "eth0" icmp type time-exceeded icmp code 1 drop
add rule inet openme output oifname "eth0" icmpv6 type parameter-problem drop
add rule inet openme output oifname "eth0" icmpv6 type time-exceeded icmpv6 code 1 drop
CUT_RULES
"""


def filled_in(text: str) -> str:
    """Names that are long and repeat, put in place of their short forms."""
    for short, long in {
        "CUT_SETS\n": CUT_SETS,
        "CUT_RULES\n": CUT_RULES,
        "SSH4": set_names(SSH).v4,
        "SSH6": set_names(SSH).v6,
        "MIXED4": set_names(MIXED).v4,
        "MIXED6": set_names(MIXED).v6,
        "SYN": "tcp flags & (fin | syn | rst | ack) == syn",
        "LET_ON": "meta mark set meta mark | 0x40000000 accept",
        "LET_IN": "ct label set 127 meta mark set meta mark | 0x40000000 accept",
    }.items():
        text = text.replace(short, long)
    return text


def test_least_table() -> None:
    assert table_script(PLAIN) == filled_in(PLAIN_SCRIPT)


def test_table_with_everything() -> None:
    assert table_script(FULL, {"v6_old", "v4_old"}) == filled_in(FULL_SCRIPT)


def test_doors_stand_between_their_sets_and_the_rules() -> None:
    doors = [
        Door(SSH, ip_address("192.0.2.2"), 9),
        Door(SSH, ip_address("192.0.2.3"), 0.5),
        Door(SSH, ip_address("192.0.2.2"), 30),
        Door(SSH, ip_address("fe80::2%eth0"), 0.0001),
        Door(MIXED, ip_address("2001:db8::2"), MAX_SECONDS),
    ]
    elements = """\
add element inet openme SSH4 { 192.0.2.2 timeout 0d30s0ms, 192.0.2.3 timeout 0d0s500ms }
add element inet openme SSH6 { fe80::2 timeout 0d0s1ms }
add element inet openme MIXED6 { 2001:db8::2 timeout 366d0s0ms }
"""
    script = FULL_SCRIPT.replace("CUT_SETS\n", "CUT_SETS\n" + elements)
    assert table_script(FULL, {"v6_old", "v4_old"}, doors) == filled_in(script)


def test_the_order_in_a_frozenset_does_not_show() -> None:
    lists = [PortList(parse_port_spec(f"{number}/tcp")) for number in range(1, 30)]
    scripts = {
        table_script(replace(PLAIN, port_lists=frozenset(order)))
        for order in (lists, lists[::-1], sorted(lists, key=str))
    }
    assert len(scripts) == 1


@pytest.mark.parametrize(
    ("hidden_as", "hide_udp_errors", "tcp", "udp"),
    [
        ("drop", True, "drop", "drop"),
        ("drop", False, "drop", "drop"),
        ("reject", True, "reject with tcp reset", "drop"),
        ("reject", False, "reject with tcp reset", "reject with icmpx type port-unreachable"),
    ],
)
def test_hiding(hidden_as: HiddenAs, hide_udp_errors: bool, tcp: str, udp: str) -> None:  # noqa: FBT001
    rules = replace(PLAIN, hidden=parse_port_spec("5-6"), hidden_as=hidden_as, hide_udp_errors=hide_udp_errors)
    lines = table_script(rules).splitlines()
    assert f"add rule inet openme input tcp dport 5-6 {tcp}" in lines
    assert f"add rule inet openme input udp dport 5-6 {udp}" in lines


@pytest.mark.parametrize(
    ("hidden_as", "hidden", "evened"),
    [("drop", "5-6", False), ("reject", "5-6", True), ("reject", "5-6/udp", False)],
)
def test_resets_are_made_alike_where_a_rule_sends_some(hidden_as: HiddenAs, hidden: str, evened: bool) -> None:  # noqa: FBT001
    script = table_script(replace(PLAIN, hidden=parse_port_spec(hidden), hidden_as=hidden_as))
    assert script.count('output oifname "lo" tcp flags') == 0
    assert script.count('output oifname != "lo" tcp flags & rst == rst ip') == 2 * evened


def test_set_names_are_the_same_in_every_run() -> None:
    # Known answers: a change here makes the next start forget the open doors.
    assert set_names(SSH) == ("v4_9a417f7b2819a5ffc54e", "v6_9a417f7b2819a5ffc54e")
    assert set_names(MIXED) == ("v4_86a4aa945e9614ee50cf", "v6_86a4aa945e9614ee50cf")


def test_set_names_differ_by_ports_protocol_and_single_use() -> None:
    lists = [
        SSH,
        replace(SSH, single_use=True),
        PortList(parse_port_spec("22/udp")),
        PortList(parse_port_spec("2/tcp")),
    ]
    names = [name for port_list in lists for name in set_names(port_list)]
    assert len(set(names)) == 2 * len(lists)
    assert all(len(name) <= 31 for name in names)


def test_the_taken_set_is_wanted_for_single_use_alone() -> None:
    cut = {"cut_v4", "cut_v6"}
    assert wanted_sets(replace(PLAIN, port_lists=frozenset({SSH}))) == {*set_names(SSH), *cut}
    assert wanted_sets(FULL) == {*set_names(SSH), *set_names(MIXED), "taken", *cut}


@pytest.mark.parametrize("name", ["eth0", "wg-home", "br_1.100", "veth@if3", "x" * 15])
def test_interface_names_are_quoted(name: str) -> None:
    assert interface_name(name) == f'"{name}"'


@pytest.mark.parametrize(
    "name",
    ["", "x" * 16, 'a"', "a b", "a\n", "eth*", "a\\", "a/b", "a:b", "a;b", "a{", "$x", ".", "..", "ä", "a\0"],
)
def test_what_nft_could_read_otherwise_is_no_interface_name(name: str) -> None:
    with pytest.raises(FirewallError, match="is not a usable interface name"):
        table_script(replace(PLAIN, interface=name))


@pytest.mark.parametrize(
    ("table", "chain", "named"),
    [
        ("filter", "INPUT", True),
        ("my-table_2.x", "in/put", True),
        ("1st", "input", False),
        ("a b", "input", False),
        ("filter", "x\nflush ruleset", False),
        ("filter", "x;", False),
        ("", "input", False),
    ],
)
def test_names_that_nft_has_no_way_to_write(table: str, chain: str, named: bool) -> None:  # noqa: FBT001
    assert can_be_named(HostChain("inet", table, chain)) is named


def test_marks() -> None:
    chain = HostChain("ip", "filter", "INPUT")
    assert marks_script([chain, HostChain("inet", "host", "in")], [HostMark(chain, 7)]) == (
        "delete rule ip filter INPUT handle 7\n"
        'insert rule ip filter INPUT meta mark & 0x40000000 != 0 accept comment "openme-mark-0x40000000"\n'
        'insert rule inet host in meta mark & 0x40000000 != 0 accept comment "openme-mark-0x40000000"\n'
    )


def test_stop() -> None:
    mark = HostMark(HostChain("ip6", "filter", "INPUT"), 9)
    assert stop_script(table_exists=True, marks=[mark]) == (
        "delete rule ip6 filter INPUT handle 9\ndelete table inet openme\n"
    )
    assert stop_script(table_exists=False, marks=[]) == ""


def test_a_device_counts_as_the_interface_by_its_name_or_by_its_index() -> None:
    script = table_script(replace(PLAIN, interface="eth0", interface_indexes=(2, 9)))
    rule = 'iifname != "eth0" iif != 2 iif != 9 accept\n'
    assert script.count(rule) == 2
    assert f"add rule inet openme prerouting {rule}" in script
    assert f"add rule inet openme input {rule}" in script
