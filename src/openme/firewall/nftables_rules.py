"""`Rules` rendered as nft text (nft(8)): pure functions, one script a transaction.

Ports are rules, people are set elements: each port list has two address sets whose names follow from its content, so
that a later run finds the sets, and the doors in them, again.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from openme.firewall.base import Door, FirewallError, IPAddress, PortList, Rules
from openme.ports import PortRange, Protocol

TABLE = "openme"
PREROUTING_CHAIN = "prerouting"
"""Before connection tracking: what is dropped or left untracked here takes no room in the host's connection table."""
INPUT_CHAIN = "input"
OUTPUT_CHAIN = "output"
TRACKED_OUTPUT_CHAIN = "output_tracked"
"""Behind connection tracking, which comes too late for the output chain to know a connection's state."""
CHAINS = (PREROUTING_CHAIN, INPUT_CHAIN, OUTPUT_CHAIN, TRACKED_OUTPUT_CHAIN)
PRIORITY = -(2**31)
"""Before whatever else the host hooks on input: the mark must stand on a packet when the host's chains see it."""
RAW = -300
"""After defragmentation (-400), so that a length is the whole datagram's, and before connection tracking (-200)."""
KNOCK_LENGTH = 8 + 165
"""What a UDP header says of the length of a knock, whatever its version: itself and the payload."""
OTHER_LENGTHS = 500
"""Datagrams of another length that reach the knock port in a second, whoever they are from."""
OTHER_LENGTHS_AT_ONCE = 200

MARK_BIT = 0x4000_0000
"""Bit of the packet mark that says "openme lets this packet in", set afresh for every packet in our input chain."""
LABEL_BIT = 127
"""Bit of the connection's label that says "openme let this connection in", kept as long as the connection lives."""
TAKEN_SET = "taken"
"""Connections that took a single-use door, by conntrack id, until `TAKEN_TIMEOUT` after their first packet."""
TAKEN_TIMEOUT = "10s"
CUT_SETS = {4: "cut_v4", 6: "cut_v6"}
"""Client address, protocol and port of a service whose connections were cut: the service may not speak first."""
CUT_SECONDS = 3600
"""Counted from the last packet with which the service has tried."""
CUT_SIZE = 65535
SINGLE_USE_SIZE = 65535
"""Most people in one single-use set: the kernel wants a bound where rules change a set."""
MARK_COMMENT = f"openme-mark-{MARK_BIT:#x}"
"""Comment on our rule in each of the host's chains; it changes when that rule does."""

_SET_LAYOUT = 2
_MARK_ON = f"meta mark set meta mark | {MARK_BIT:#010x}"
_MARK_OFF = f"meta mark set meta mark & {~MARK_BIT & 0xFFFF_FFFF:#010x}"
_LET_IN = f"ct label set {LABEL_BIT} {_MARK_ON} accept"
_RESET = "reject with tcp reset"
_OPENS_TCP = "tcp flags & (fin | syn | rst | ack) == syn"
_RESETS_TCP = "tcp flags & rst == rst"
_INTERFACE = re.compile(r"[A-Za-z0-9_.@+=~,-]{1,15}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9/\\_.-]*", re.ASCII)

Family = Literal["ip", "ip6", "inet"]


class SetNames(NamedTuple):
    """The sets that hold the addresses for which one port list is open."""

    v4: str
    v6: str


class HostChain(NamedTuple):
    """A base chain of somebody else's, of type filter on hook input."""

    family: Family
    table: str
    chain: str


class HostMark(NamedTuple):
    """A rule of ours in a chain of the host's."""

    where: HostChain
    handle: int


def set_names(port_list: PortList) -> SetNames:
    """The names of a port list's two sets: the same for equal lists in every run, at most 31 bytes."""
    content = f"{_SET_LAYOUT} {port_list.single_use} {' '.join(map(str, port_list.ports))}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:20]
    return SetNames(f"v4_{digest}", f"v6_{digest}")


def wanted_sets(rules: Rules) -> frozenset[str]:
    """The names of all sets that `table_script` declares."""
    names = {name for port_list in rules.port_lists for name in set_names(port_list)} | set(CUT_SETS.values())
    if any(port_list.single_use for port_list in rules.port_lists):
        names.add(TAKEN_SET)
    return frozenset(names)


def interface_name(name: str) -> str:
    """`name` as a quoted nft string. FirewallError unless it is a plain name that nft reads as nothing but a name.

    Linux allows any byte but slash, colon and blanks; a quote would end nft's string and an asterisk match others.
    """
    if not _INTERFACE.fullmatch(name) or name in (".", ".."):
        raise FirewallError(
            f"{name!r} is not a usable interface name",
            "letters, digits and _ . @ + = ~ , - are understood, at most 15 of them; `ip link` shows the names",
        )
    return f'"{name}"'


def can_be_named(chain: HostChain) -> bool:
    """Whether nft's grammar has a way to write this chain's and table's names (other programs may use any bytes)."""
    return bool(_IDENTIFIER.fullmatch(chain.table) and _IDENTIFIER.fullmatch(chain.chain))


def table_script(rules: Rules, stale_sets: Iterable[str] = (), doors: Iterable[Door] = ()) -> str:
    """The table as a whole, applied over what may be there from before; sets of the same name keep their elements.

    `stale_sets` are sets that exist and are wanted no more. `doors` are opened; the time of one that is open already is
    left to what follows. FirewallError for an interface name that nft cannot take.
    """
    lines = [
        f"add table inet {TABLE}",
        f"add chain inet {TABLE} {PREROUTING_CHAIN} {{ type filter hook prerouting priority {RAW}; policy accept; }}",
        f"add chain inet {TABLE} {INPUT_CHAIN} {{ type filter hook input priority {PRIORITY}; policy accept; }}",
        f"add chain inet {TABLE} {OUTPUT_CHAIN} {{ type filter hook output priority {PRIORITY}; policy accept; }}",
        f"add chain inet {TABLE} {TRACKED_OUTPUT_CHAIN} {{ type filter hook output priority 0; policy accept; }}",
        *(f"flush chain inet {TABLE} {chain}" for chain in CHAINS),
        *(f"delete set inet {TABLE} {name}" for name in sorted(stale_sets)),
        *_sets(rules),
        *_elements(doors),
        *(f"add rule inet {TABLE} {PREROUTING_CHAIN} {rule}" for rule in _prerouting_rules(rules)),
        *(f"add rule inet {TABLE} {INPUT_CHAIN} {rule}" for rule in _input_rules(rules)),
        *(f"add rule inet {TABLE} {OUTPUT_CHAIN} {rule}" for rule in _output_rules(rules)),
        *(f"add rule inet {TABLE} {TRACKED_OUTPUT_CHAIN} {rule}" for rule in _cut_rules()),
    ]
    return "\n".join(lines) + "\n"


def marks_script(unmarked: Iterable[HostChain], stale: Iterable[HostMark]) -> str:
    """Our accept rule at the head of each chain in `unmarked`; the rules in `stale` are deleted."""
    lines = [_delete(mark) for mark in stale]
    lines += [
        f"insert rule {chain.family} {chain.table} {chain.chain}"
        f' meta mark & {MARK_BIT:#010x} != 0 accept comment "{MARK_COMMENT}"'
        for chain in unmarked
    ]
    return "".join(f"{line}\n" for line in lines)


def stop_script(*, table_exists: bool, marks: Iterable[HostMark]) -> str:
    """Everything of ours goes, nothing else; empty if nothing is there."""
    lines = [_delete(mark) for mark in marks]
    if table_exists:
        lines.append(f"delete table inet {TABLE}")
    return "".join(f"{line}\n" for line in lines)


def _delete(mark: HostMark) -> str:
    chain = mark.where
    return f"delete rule {chain.family} {chain.table} {chain.chain} handle {mark.handle}"


def _ordered(port_lists: Iterable[PortList]) -> list[PortList]:
    return sorted(port_lists, key=lambda port_list: (port_list.single_use, port_list.ports))


def _sets(rules: Rules) -> list[str]:
    lines = []
    for port_list in _ordered(rules.port_lists):
        # Looking an element up and deleting it are two steps, between which another processor may look it up as well:
        # the element itself counts, under a lock of its own, and lets one packet through.
        once = f"size {SINGLE_USE_SIZE}; flags timeout,dynamic; limit rate 1/day burst 1 packets;"
        flags = once if port_list.single_use else "flags timeout;"
        names = set_names(port_list)
        lines.append(f"add set inet {TABLE} {names.v4} {{ type ipv4_addr; {flags} }}")
        lines.append(f"add set inet {TABLE} {names.v6} {{ type ipv6_addr; {flags} }}")
    if TAKEN_SET in wanted_sets(rules):
        size = f"size {SINGLE_USE_SIZE}"
        lines.append(
            f"add set inet {TABLE} {TAKEN_SET} "
            f"{{ typeof ct id; {size}; flags timeout,dynamic; timeout {TAKEN_TIMEOUT}; }}"
        )
    for version, name in CUT_SETS.items():
        kind = f"type ipv{version}_addr . inet_proto . inet_service; size {CUT_SIZE}"
        lines.append(f"add set inet {TABLE} {name} {{ {kind}; flags timeout,dynamic; timeout {CUT_SECONDS}s; }}")
    return lines


def set_for(names: SetNames, address: IPAddress) -> str:
    """The set of the two that holds addresses of this kind."""
    return names.v4 if address.version == 4 else names.v6


def milliseconds(door: Door) -> int:
    """The door's time as the kernel counts it."""
    return max(1, round(door.seconds * 1000))


def _elements(doors: Iterable[Door]) -> list[str]:
    people: dict[str, dict[IPAddress, int]] = {}
    for door in doors:
        name = set_for(set_names(door.port_list), door.address)
        # Made anew from its bytes, as nft has no way to write an address with a zone.
        people.setdefault(name, {})[type(door.address)(door.address.packed)] = milliseconds(door)
    return [
        f"add element inet {TABLE} {name} "
        f"{{ {', '.join(f'{address} timeout {_time(time)}' for address, time in elements.items())} }}"
        for name, elements in people.items()
    ]


def _elsewhere(interface: str, indexes: Iterable[int]) -> str:
    """Matches packets that came in by no device that counts as the interface.

    By name, so that one that is yet to come counts from its first packet; and by the indexes of those that have had the
    name, so that what is hidden on a device stays hidden in the instant in which it gets another one.
    """
    return " ".join([f"iifname != {interface_name(interface)}", *(f"iif != {index}" for index in indexes)])


def _prerouting_rules(rules: Rules) -> list[str]:
    lines = ['iifname "lo" accept']
    if rules.interface is not None:
        lines.append(f"{_elsewhere(rules.interface, rules.interface_indexes)} accept")
    # To this host alone: what is only forwarded may be anybody's flow that happens to use this port.
    knock = f"udp dport {rules.knock_port} fib daddr type local"
    # A few reach the server, which counts and names them; it is a flood of them that must cost nothing.
    flood = f"limit rate over {OTHER_LENGTHS}/second burst {OTHER_LENGTHS_AT_ONCE} packets"
    lines.append(f"{knock} udp length != {KNOCK_LENGTH} {flood} drop")
    if rules.open_knock_port:
        # Otherwise the host's own rules decide, and may ask for the connection's state: an untracked packet is not new.
        lines.append(f"{knock} notrack")
    return lines


def _input_rules(rules: Rules) -> list[str]:
    # Somebody else's use of the bit must not pass for ours in the host's chains.
    lines = [f"meta mark & {MARK_BIT:#010x} != 0 {_MARK_OFF}", 'iifname "lo" accept']
    if rules.interface is not None:
        lines.append(f"{_elsewhere(rules.interface, rules.interface_indexes)} accept")
    # Also without open_knock_port a range of hidden ports must not swallow the knocks.
    knock = f"udp dport {rules.knock_port}"
    # Extension headers in front of a datagram are examined where it is delivered, and complained of by ICMP: what an
    # unused port's silence would not show. A knock needs none; fragments are put together before.
    lines.append(f"meta nfproto ipv6 ip6 nexthdr != udp {knock} drop")
    lines.append(f"{knock} {_MARK_ON} accept" if rules.open_knock_port else f"{knock} accept")
    lines += [
        f"ct state established,related ct label {LABEL_BIT} {_MARK_ON} accept",
        "ct state established,related accept",
    ]
    if TAKEN_SET in wanted_sets(rules):
        # A repeated SYN, or datagrams before the first answer, are still the one connection that took the door.
        lines.append(f"ct state new ct id @{TAKEN_SET} {_MARK_ON} accept")
    for port_list in _ordered(rules.port_lists):
        lines += _door_rules(port_list)
    return lines + _hiding_rules(rules)


def _door_rules(port_list: PortList) -> list[str]:
    lines = []
    names = set_names(port_list)
    for item in port_list.ports:
        for source, name in (("ip saddr", names.v4), ("ip6 saddr", names.v6)):
            people = f"{_ports(item)} {source} @{name}"
            if port_list.single_use:
                # Conntrack calls a stray ACK new as well; only a SYN may use up the door.
                opening = f"{_OPENS_TCP} " if item.proto == "tcp" else ""
                takes = f"delete @{name} {{ {source} }} add @{TAKEN_SET} {{ ct id }}"
                lines.append(f"ct state new {opening}{people} {takes} {_LET_IN}")
            else:
                lines.append(f"ct state new,untracked {people} {_LET_IN}")
    return lines


def _hiding_rules(rules: Rules) -> list[str]:
    # Whatever conntrack thinks of a packet: a NULL or ACK probe must not get past here either.
    lines = []
    for item in rules.hidden:
        verdict = _hiding_verdict(rules, item.proto)
        if verdict == _RESET:
            # What TCP itself would not answer on an unused port.
            lines += [f"{_ports(item)} {never} drop" for never in ("meta pkttype != host", "tcp doff < 5")]
        lines.append(f"{_ports(item)} {verdict}")
    return lines


def _hiding_verdict(rules: Rules, proto: Protocol) -> str:
    if rules.hidden_as == "drop" or (proto == "udp" and rules.hide_udp_errors):
        return "drop"
    return _RESET if proto == "tcp" else "reject with icmpx type port-unreachable"


def _output_rules(rules: Rules) -> list[str]:
    way_out = 'oifname != "lo"' if rules.interface is None else f"oifname {interface_name(rules.interface)}"
    lines = []
    if rules.hidden_as == "reject" and any(item.proto == "tcp" for item in rules.hidden):
        # The kernel resets a connection to an unused port with the prober's traffic class and, over IPv6, a flow label;
        # a reset by rule has neither. So that a scan cannot tell them apart, none that leaves the host has.
        lines += [
            f"{way_out} {_RESETS_TCP} ip dscp set 0 ip ecn set 0",
            f"{way_out} {_RESETS_TCP} ip6 dscp set 0 ip6 ecn set 0 ip6 flowlabel set 0",
        ]
    if rules.hide_udp_errors:
        # Byte 9 of the quoted IPv4 header and byte 6 of the quoted IPv6 header name the protocol of the packet that
        # failed. Errors about TCP stay (iptables' plain REJECT answers so); all others go, as in IPv6 an extension
        # header in front of UDP would tell otherwise.
        lines += [
            f"{way_out} icmp type destination-unreachable icmp code port-unreachable @th,136,8 != 6 drop",
            f"{way_out} icmpv6 type destination-unreachable icmpv6 code port-unreachable @th,112,8 != 6 drop",
        ]
        # Complaints about a packet's own headers, or about fragments that stay incomplete, would tell the same.
        lines += [
            f"{way_out} icmp type parameter-problem drop",
            f"{way_out} icmp type time-exceeded icmp code 1 drop",
            f"{way_out} icmpv6 type parameter-problem drop",
            f"{way_out} icmpv6 type time-exceeded icmpv6 code 1 drop",
        ]
    return lines


def _time(milliseconds: int) -> str:
    # nft refuses numbers of milliseconds above 32 bits, which is 49 days.
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 86400}d{seconds % 86400}s{rest}ms"


def _cut_rules() -> list[str]:
    # A connection that was cut is unknown to conntrack. Were the service's next packet let out, it would begin a
    # connection of its own, and the client's packets would pass as answers.
    keys = {4: "ip daddr . meta l4proto . th sport", 6: "ip6 daddr . meta l4proto . th sport"}
    return [
        f'oifname != "lo" ct state new {keys[version]} @{name} update @{name} {{ {keys[version]} }} drop'
        for version, name in CUT_SETS.items()
    ]


def _ports(item: PortRange) -> str:
    # Never an anonymous set `{ 22, 80 }`: while one transaction replaces it by another, packets under way on a second
    # processor find it empty, and a hidden port shows for that moment (measured: docs/decisions/0002-nftables.md).
    ports = str(item.first) if item.first == item.last else f"{item.first}-{item.last}"
    return f"{item.proto} dport {ports}"
