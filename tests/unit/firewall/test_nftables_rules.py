import re
from dataclasses import replace
from ipaddress import ip_address, ip_network

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
    wanted_chains,
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
    always_open_from=(ip_network("192.0.2.0/24"), ip_network("::/0")),
    always_hidden=parse_port_spec("8085/tcp"),
)
STALE_SETS = {"v6_old", "v4_old"}
STALE_CHAINS = {"output", "old"}

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
add chain inet openme ip_options { type filter hook prerouting priority -90; policy accept; }
add chain inet openme input { type filter hook input priority -2147483648; policy accept; }
add chain inet openme beginnings
add chain inet openme doors
add chain inet openme closed
add chain inet openme hide
add chain inet openme output_tracked { type filter hook output priority 0; policy accept; }
flush chain inet openme prerouting
flush chain inet openme ip_options
flush chain inet openme input
flush chain inet openme beginnings
flush chain inet openme doors
flush chain inet openme closed
flush chain inet openme hide
flush chain inet openme output_tracked
CUT_SETS
add rule inet openme prerouting iifname "lo" accept
add rule inet openme prerouting udp dport 54154 fib daddr type broadcast drop
add rule inet openme prerouting udp dport 54154 fib daddr type anycast drop
add rule inet openme prerouting udp dport 54154 fib daddr type local udp length != 173 \
limit rate over 500/second burst 200 packets drop
add rule inet openme prerouting udp dport 54154 fib daddr type local notrack
add rule inet openme input meta mark & 0x40000000 != 0 meta mark set meta mark & 0xbfffffff
add rule inet openme input iifname "lo" accept
add rule inet openme input udp dport 54154 fib daddr type multicast drop
add rule inet openme input meta nfproto ipv6 ip6 nexthdr != udp udp dport 54154 drop
add rule inet openme input udp dport 54154 meta mark set meta mark | 0x40000000 accept
add rule inet openme input BEGINS goto beginnings
add rule inet openme input ct state established,related ct label 127 meta mark set meta mark | 0x40000000 accept
add rule inet openme input ct state established accept
add rule inet openme input ct state new,related,untracked jump doors
add rule inet openme input goto closed
add rule inet openme beginnings jump doors
add rule inet openme beginnings jump closed
add rule inet openme beginnings accept
add rule inet openme hide drop
CUT_RULES
"""

FULL_SCRIPT = """\
add table inet openme
add chain inet openme prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet openme ip_options { type filter hook prerouting priority -90; policy accept; }
add chain inet openme input { type filter hook input priority -2147483648; policy accept; }
add chain inet openme beginnings
add chain inet openme doors
add chain inet openme closed
add chain inet openme unused
add chain inet openme always_open
add chain inet openme hide
add chain inet openme output_tracked { type filter hook output priority 0; policy accept; }
flush chain inet openme prerouting
flush chain inet openme ip_options
flush chain inet openme input
flush chain inet openme beginnings
flush chain inet openme doors
flush chain inet openme closed
flush chain inet openme unused
flush chain inet openme always_open
flush chain inet openme hide
flush chain inet openme output_tracked
flush chain inet openme old
flush chain inet openme output
delete chain inet openme old
delete chain inet openme output
delete set inet openme v4_old
delete set inet openme v6_old
add set inet openme SSH4 { type ipv4_addr; flags timeout; }
add set inet openme SSH6 { type ipv6_addr; flags timeout; }
add set inet openme MIXED4 { type ipv4_addr; size 65535; flags timeout,dynamic; limit rate 1/day burst 1 packets; }
add set inet openme MIXED6 { type ipv6_addr; size 65535; flags timeout,dynamic; limit rate 1/day burst 1 packets; }
add set inet openme taken_syn { typeof ct id . tcp sequence; size 65535; flags timeout,dynamic; timeout 75s; }
add set inet openme taken_udp { typeof ct id; size 65535; flags timeout,dynamic; timeout 10s; }
CUT_SETS
add rule inet openme prerouting iifname "lo" accept
add rule inet openme prerouting iifname != "eth0" accept
add rule inet openme prerouting udp dport 54154 fib daddr type broadcast drop
add rule inet openme prerouting udp dport 54154 fib daddr type anycast drop
add rule inet openme prerouting udp dport 54154 fib daddr type local udp length != 173 \
limit rate over 500/second burst 200 packets drop
add rule inet openme ip_options iifname "lo" accept
add rule inet openme ip_options iifname != "eth0" accept
add rule inet openme ip_options meta nfproto ipv6 accept
add rule inet openme ip_options ip hdrlength 5 accept
add rule inet openme ip_options meta l4proto != udp accept
add rule inet openme ip_options fib daddr type != local accept
add rule inet openme ip_options udp dport 54154 drop
add rule inet openme ip_options ip saddr 192.0.2.0/24 jump always_open
add rule inet openme ip_options meta nfproto ipv6 jump always_open
add rule inet openme ip_options udp dport 53 drop
add rule inet openme ip_options socket transparent 0 accept
add rule inet openme ip_options socket transparent 1 accept
add rule inet openme ip_options drop
add rule inet openme input meta mark & 0x40000000 != 0 meta mark set meta mark & 0xbfffffff
add rule inet openme input iifname "lo" accept
add rule inet openme input iifname != "eth0" accept
add rule inet openme input udp dport 54154 fib daddr type multicast drop
add rule inet openme input meta nfproto ipv6 ip6 nexthdr != udp udp dport 54154 drop
add rule inet openme input meta l4proto udp jump unused
add rule inet openme input udp dport 54154 accept
add rule inet openme input BEGINS goto beginnings
add rule inet openme input meta l4proto tcp jump unused
add rule inet openme input ct state established,related ct label 127 LET_ON
add rule inet openme input ct state established accept
add rule inet openme input meta l4proto udp ct state new,related ct id @taken_udp LET_ON
add rule inet openme input ct state new,related,untracked jump doors
add rule inet openme input goto closed
add rule inet openme beginnings ct status & assured == 0 ct id . tcp sequence @taken_syn LET_ON
add rule inet openme beginnings jump doors
add rule inet openme beginnings jump closed
add rule inet openme beginnings jump unused
add rule inet openme beginnings accept
add rule inet openme doors tcp dport 22 ip saddr @SSH4 LET_IN
add rule inet openme doors tcp dport 22 ip6 saddr @SSH6 LET_IN
add rule inet openme doors ct state new,established,related SYN tcp dport 53 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken_syn { ct id . tcp sequence } LET_IN
add rule inet openme doors ct state new,established,related SYN tcp dport 53 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken_syn { ct id . tcp sequence } LET_IN
add rule inet openme doors ct state new,established,related SYN tcp dport 8080-8090 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken_syn { ct id . tcp sequence } LET_IN
add rule inet openme doors ct state new,established,related SYN tcp dport 8080-8090 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken_syn { ct id . tcp sequence } LET_IN
add rule inet openme doors ct state new,related udp dport 53 ip saddr @MIXED4 \
delete @MIXED4 { ip saddr } add @taken_udp { ct id } LET_IN
add rule inet openme doors ct state new,related udp dport 53 ip6 saddr @MIXED6 \
delete @MIXED6 { ip6 saddr } add @taken_udp { ct id } LET_IN
add rule inet openme closed ip saddr 192.0.2.0/24 jump always_open
add rule inet openme closed meta nfproto ipv6 jump always_open
add rule inet openme closed tcp dport 22 goto hide
add rule inet openme closed tcp dport 53 goto hide
add rule inet openme closed tcp dport 8080-8090 goto hide
add rule inet openme closed udp dport 53 goto hide
add rule inet openme unused socket transparent 0 return
add rule inet openme unused socket transparent 1 return
add rule inet openme unused ip saddr 192.0.2.0/24 jump always_open
add rule inet openme unused meta nfproto ipv6 jump always_open
add rule inet openme unused fib daddr type local goto hide
add rule inet openme unused fib daddr type anycast goto hide
add rule inet openme unused meta nfproto ipv6 meta l4proto udp ip6 nexthdr != udp goto hide
add rule inet openme unused meta nfproto ipv6 meta l4proto tcp ip6 nexthdr != tcp goto hide
add rule inet openme always_open tcp dport 8085 return
add rule inet openme always_open tcp dport 22 accept
add rule inet openme always_open tcp dport 53 accept
add rule inet openme always_open tcp dport 8080-8090 accept
add rule inet openme always_open udp dport 53 accept
add rule inet openme hide meta l4proto udp drop
add rule inet openme hide BEGINS ct state established drop
add rule inet openme hide meta pkttype != host drop
add rule inet openme hide tcp doff < 5 drop
add rule inet openme hide meta l4proto tcp reject with tcp reset
add rule inet openme hide drop
CUT_RULES
"""


RESETS = [
    "tcp flags & (syn | ack) == syn ct state established drop",
    "meta pkttype != host drop",
    "tcp doff < 5 drop",
    "meta l4proto tcp reject with tcp reset",
    "drop",
]


def rules_in(script: str, chain: str) -> list[str]:
    """The rules of one chain."""
    begin = f"add rule inet openme {chain} "
    return [line.removeprefix(begin) for line in script.splitlines() if line.startswith(begin)]


def filled_in(text: str) -> str:
    """Names that are long and repeat, put in place of their short forms."""
    for short, long in {
        "CUT_SETS\n": CUT_SETS,
        "CUT_RULES\n": CUT_RULES,
        "SSH4": set_names(SSH).v4,
        "SSH6": set_names(SSH).v6,
        "MIXED4": set_names(MIXED).v4,
        "MIXED6": set_names(MIXED).v6,
        "BEGINS": "tcp flags & (syn | ack) == syn",
        "SYN": "tcp flags & (fin | syn | rst | ack) == syn",
        "LET_ON": "meta mark set meta mark | 0x40000000 accept",
        "LET_IN": "ct label set 127 meta mark set meta mark | 0x40000000 accept",
    }.items():
        text = text.replace(short, long)
    return text


def test_least_table() -> None:
    assert table_script(PLAIN) == filled_in(PLAIN_SCRIPT)


def test_table_with_everything() -> None:
    assert table_script(FULL, STALE_SETS, stale_chains=STALE_CHAINS) == filled_in(FULL_SCRIPT)


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
    assert table_script(FULL, STALE_SETS, doors, stale_chains=STALE_CHAINS) == filled_in(script)


def test_the_order_in_a_frozenset_does_not_show() -> None:
    lists = [PortList(parse_port_spec(f"{number}/tcp")) for number in range(1, 30)]
    scripts = {
        table_script(replace(PLAIN, port_lists=frozenset(order)))
        for order in (lists, lists[::-1], sorted(lists, key=str))
    }
    assert len(scripts) == 1


@pytest.mark.parametrize(
    ("hidden_as", "hide_udp_errors", "last_rules", "unused"),
    [
        ("drop", True, ["drop"], ["udp"]),
        ("drop", False, ["drop"], []),
        ("reject", True, ["meta l4proto udp drop", *RESETS], ["udp", "tcp"]),
        ("reject", False, ["meta l4proto udp reject with icmpx type port-unreachable", *RESETS], ["tcp"]),
    ],
)
def test_hiding(hidden_as: HiddenAs, hide_udp_errors: bool, last_rules: list[str], unused: list[str]) -> None:  # noqa: FBT001
    rules = replace(PLAIN, hidden=parse_port_spec("5-6"), hidden_as=hidden_as, hide_udp_errors=hide_udp_errors)
    assert rules_in(table_script(rules), "closed") == ["tcp dport 5-6 goto hide", "udp dport 5-6 goto hide"]
    assert rules_in(table_script(rules), "hide") == last_rules
    jumps = [rule for rule in rules_in(table_script(rules), "input") if rule.endswith("jump unused")]
    assert jumps == [f"meta l4proto {proto} jump unused" for proto in unused]
    # Of TCP the beginnings as well: they never come back from their chain.
    assert ("jump unused" in rules_in(table_script(rules), "beginnings")) == ("tcp" in unused)
    assert ("unused" in wanted_chains(rules, one_path=True)) == bool(unused)


def test_without_one_path_hidden_ports_are_hidden_and_no_others() -> None:
    script = table_script(FULL, one_path=False)
    assert "socket" not in script
    assert "unused" not in script
    assert rules_in(script, "hide") == rules_in(table_script(FULL), "hide")
    assert rules_in(script, "closed") == rules_in(table_script(FULL), "closed")
    assert wanted_chains(FULL, one_path=True) - wanted_chains(FULL, one_path=False) == {"unused"}


def test_every_syn_is_judged_before_anybody_asks_for_its_state() -> None:
    for rules in (PLAIN, FULL, replace(FULL, hidden=(), interface=None)):
        listed = rules_in(table_script(rules), "input")
        judged = listed.index("tcp flags & (syn | ack) == syn goto beginnings")
        assert not any("ct " in rule for rule in listed[:judged])
        assert rules_in(table_script(rules), "beginnings")[-1] == "accept", "never back to where labels count"


def test_no_rule_has_an_anonymous_set() -> None:
    for line in table_script(FULL).splitlines():
        if line.startswith("add rule"):
            assert all(found[0] == "@" for found in re.findall(r"(\S+) \{", line)), line


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


def test_the_taken_sets_are_wanted_for_single_use_alone() -> None:
    cut = {"cut_v4", "cut_v6"}
    assert wanted_sets(replace(PLAIN, port_lists=frozenset({SSH}))) == {*set_names(SSH), *cut}
    assert wanted_sets(FULL) == {*set_names(SSH), *set_names(MIXED), "taken_syn", "taken_udp", *cut}


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


def test_doors_for_networks_are_looked_up_masked_in_sets_of_their_own() -> None:
    wide = PortList(SSH.ports, prefix_v4=20, prefix_v6=56)
    script = table_script(replace(PLAIN, port_lists=frozenset({SSH, wide})))
    names = set_names(wide)
    let_in = "ct label set 127 meta mark set meta mark | 0x40000000 accept"
    doors = [line for line in script.splitlines() if line.startswith("add rule inet openme doors")]
    assert [line for line in doors if names.v4 in line or names.v6 in line] == [
        f"add rule inet openme doors tcp dport 22 ip saddr & 255.255.240.0 @{names.v4} {let_in}",
        f"add rule inet openme doors tcp dport 22 ip6 saddr & ffff:ffff:ffff:ff00:: @{names.v6} {let_in}",
    ]
    assert len(doors) == 4, "one rule for each length in use"
    assert f"add set inet openme {names.v4} {{ type ipv4_addr; flags timeout; }}" in script
    assert "interval" not in script


def test_a_length_of_one_version_leaves_the_other_as_it_is() -> None:
    six = PortList(SSH.ports, prefix_v6=64)
    script = table_script(replace(PLAIN, port_lists=frozenset({six})))
    assert f"tcp dport 22 ip saddr @{set_names(six).v4} " in script
    assert f"tcp dport 22 ip6 saddr & ffff:ffff:ffff:ffff:: @{set_names(six).v6} " in script


def test_each_length_has_sets_of_its_own_and_full_ones_are_called_as_they_always_were() -> None:
    lists = [PortList(SSH.ports, prefix_v4=v4, prefix_v6=v6) for v4 in range(16, 33) for v6 in (48, 64, 128)]
    assert len({name for port_list in lists for name in set_names(port_list)}) == 2 * len(lists)
    assert set_names(SSH) == ("v4_9a417f7b2819a5ffc54e", "v6_9a417f7b2819a5ffc54e")
