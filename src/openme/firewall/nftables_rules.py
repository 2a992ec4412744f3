"""`Rules` rendered as nft text (nft(8)): pure functions, one script a transaction.

Ports are rules, people are set elements: each port list has two address sets whose names follow from its content, so
that a later run finds the sets, and the doors in them, again.
"""

import hashlib
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

from openme.firewall.base import Door, FirewallError, IPAddress, IPNetwork, PortList, Rules
from openme.knock_size import KNOCK_SIZE
from openme.networks import first_of
from openme.ports import PortRange

TABLE = "openme"
PREROUTING_CHAIN = "prerouting"
"""Before connection tracking: what is dropped or left untracked here takes no room in the host's connection table."""
OPTIONS_CHAIN = "ip_options"
"""Still before the host reads a packet's IPv4 options, which it complains of without a look at the port."""
INPUT_CHAIN = "input"
TRACKED_OUTPUT_CHAIN = "output_tracked"
"""Behind connection tracking."""
BEGINNINGS_CHAIN = "beginnings"
"""Every SYN without ACK ends here, before anybody asks what conntrack thinks of it."""
DOORS_CHAIN = "doors"
"""Accepts what has a door; returns for what has none."""
CLOSED_CHAIN = "closed"
"""What has no door: hidden ports are hidden, the rest returns."""
ALWAYS_OPEN_CHAIN = "always_open"
"""Packets from `always_open_from`: accepted, unmarked, at the ports that are hidden from others."""
UNUSED_CHAIN = "unused"
"""Hides what no socket waits for; the rest returns."""
HIDE_CHAIN = "hide"
"""The one path: what is hidden and what is unused both end by these rules."""
PRIORITY = -(2**31)
"""Before whatever else the host hooks on input: the mark must stand on a packet when the host's chains see it."""
RAW = -300
"""After defragmentation (-400), so that a length is the whole datagram's, and before connection tracking (-200)."""
AFTER_NAT = -90
"""Behind what sends packets elsewhere (-100): what is forwarded can be told."""
KNOCK_LENGTH = 8 + KNOCK_SIZE
"""What a UDP header says of the length of a knock, whatever its version: itself and the payload."""
OTHER_LENGTHS = 500
"""Datagrams of another length that reach the knock port in a second, whoever they are from."""
OTHER_LENGTHS_AT_ONCE = 200

MARK_BIT = 0x4000_0000
"""Bit of the packet mark that says "openme lets this packet in", set afresh for every packet in our input chain."""
LABEL_BIT = 127
"""Bit of the connection's label that says "openme let this connection in", kept as long as the connection lives."""
TAKEN_SYN_SET = "taken_syn"
"""The SYNs that took a single-use door, by conntrack id and sequence number: their repeats pass, no other SYN does."""
TAKEN_SYN_TIMEOUT = "75s"
"""Linux repeats a SYN after 1, 3, 7, 15, 31 and 63 seconds (tcp_syn_retries 6)."""
TAKEN_UDP_SET = "taken_udp"
"""UDP exchanges that took a single-use door, by conntrack id: more datagrams may come before the first answer."""
TAKEN_UDP_TIMEOUT = "10s"
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
_BEGINS_TCP = "tcp flags & (syn | ack) == syn"
_OPENS_TCP = "tcp flags & (fin | syn | rst | ack) == syn"
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
    if port_list.is_for_networks:  # of another length: another set, so that no wider door outlives its rules
        content += f" /{port_list.prefix_v4} /{port_list.prefix_v6}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:20]
    return SetNames(f"v4_{digest}", f"v6_{digest}")


def wanted_sets(rules: Rules) -> frozenset[str]:
    """The names of all sets that `table_script` declares."""
    names = {name for port_list in rules.port_lists for name in set_names(port_list)} | set(CUT_SETS.values())
    if any(port_list.single_use for port_list in rules.port_lists):
        names |= {TAKEN_SYN_SET, TAKEN_UDP_SET}
    return frozenset(names)


def wanted_chains(rules: Rules, *, one_path: bool) -> frozenset[str]:
    """The names of all chains that `table_script` declares."""
    return frozenset(chain for chain, _ in _chains(rules, one_path=one_path))


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


def table_script(
    rules: Rules,
    stale_sets: Iterable[str] = (),
    doors: Iterable[Door] = (),
    *,
    stale_chains: Iterable[str] = (),
    emptied: Iterable[str] = (),
    one_path: bool = True,
) -> str:
    """The table as a whole, applied over what may be there from before; sets of the same name keep their elements.

    `stale_sets` and `stale_chains` exist and are wanted no more; the sets in `emptied` exist and lose their elements.
    `doors` are opened; the time of one that is open
    already is left to what follows. Without `one_path` hidden ports are hidden and unused ones left alone, for hosts
    where a port can be in use without a socket. FirewallError for an interface name that nft cannot take.
    """
    chains = _chains(rules, one_path=one_path)
    stale_chains = sorted(stale_chains)
    lines = [
        f"add table inet {TABLE}",
        *(f"add chain inet {TABLE} {chain}{_hook(chain)}" for chain, _ in chains),
        *(f"flush chain inet {TABLE} {chain}" for chain in (*(chain for chain, _ in chains), *stale_chains)),
        *(f"delete chain inet {TABLE} {chain}" for chain in stale_chains),
        *(f"delete set inet {TABLE} {name}" for name in sorted(stale_sets)),
        *(f"flush set inet {TABLE} {name}" for name in sorted(emptied)),
        *_sets(rules),
        *_elements(doors),
        *(f"add rule inet {TABLE} {chain} {rule}" for chain, chain_rules in chains for rule in chain_rules),
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
    if TAKEN_SYN_SET in wanted_sets(rules):
        kept = f"size {SINGLE_USE_SIZE}; flags timeout,dynamic; timeout"
        syn, udp = (
            f"typeof ct id . tcp sequence; {kept} {TAKEN_SYN_TIMEOUT};",
            f"typeof ct id; {kept} {TAKEN_UDP_TIMEOUT};",
        )
        lines.append(f"add set inet {TABLE} {TAKEN_SYN_SET} {{ {syn} }}")
        lines.append(f"add set inet {TABLE} {TAKEN_UDP_SET} {{ {udp} }}")
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


def _chains(rules: Rules, *, one_path: bool) -> list[tuple[str, list[str]]]:
    """The chains with their rules, in the order in which a packet can meet them."""
    one_path = one_path and (rules.hide_udp_errors or rules.hidden_as == "reject")
    chains = [
        (PREROUTING_CHAIN, _prerouting_rules(rules)),
        (OPTIONS_CHAIN, _options_rules(rules, one_path=one_path)),
        (INPUT_CHAIN, _input_rules(rules, one_path=one_path)),
        (BEGINNINGS_CHAIN, _beginnings_rules(rules, one_path=one_path)),
        (DOORS_CHAIN, [rule for port_list in _ordered(rules.port_lists) for rule in _door_rules(port_list)]),
        (CLOSED_CHAIN, _closed_rules(rules)),
    ]
    if one_path:
        chains.append((UNUSED_CHAIN, _unused_rules(rules)))
    if rules.always_open_from:
        chains.append((ALWAYS_OPEN_CHAIN, _always_open_rules(rules)))
    return [*chains, (HIDE_CHAIN, _hide_rules(rules)), (TRACKED_OUTPUT_CHAIN, _cut_rules())]


def _hook(chain: str) -> str:
    """Where packets enter a base chain; nothing for one that others lead to."""
    hooks = {
        PREROUTING_CHAIN: ("prerouting", RAW),
        OPTIONS_CHAIN: ("prerouting", AFTER_NAT),
        INPUT_CHAIN: ("input", PRIORITY),
        TRACKED_OUTPUT_CHAIN: ("output", 0),
    }
    if chain not in hooks:
        return ""
    hook, priority = hooks[chain]
    return f" {{ type filter hook {hook} priority {priority}; policy accept; }}"


def _prerouting_rules(rules: Rules) -> list[str]:
    lines = _not_ours(rules)
    # To this host alone: what is only forwarded may be anybody's flow that happens to use this port. A packet to a
    # group may be both and is left alone here; its copy for this host is dropped on input, and leaves no entry.
    knock = f"udp dport {rules.knock_port} fib daddr type"
    lines += [f"{knock} broadcast drop", f"{knock} anycast drop"]
    # A few reach the server, which counts and names them; it is a flood of them that must cost nothing.
    flood = f"limit rate over {OTHER_LENGTHS}/second burst {OTHER_LENGTHS_AT_ONCE} packets"
    lines.append(f"{knock} local udp length != {KNOCK_LENGTH} {flood} drop")
    if rules.open_knock_port:
        # Otherwise the host's own rules decide, and may ask for the connection's state: an untracked packet is not new.
        lines.append(f"{knock} local notrack")
    return lines


def _options_rules(rules: Rules, *, one_path: bool) -> list[str]:
    """Datagrams with IPv4 options, to what is silent: the host would answer those that are wrong."""
    if not rules.hide_udp_errors:
        return []
    lines = [*_not_ours(rules), "meta nfproto ipv6 accept", "ip hdrlength 5 accept", "meta l4proto != udp accept"]
    lines += ["fib daddr type != local accept", f"udp dport {rules.knock_port} drop", *_jumps_to_always_open(rules)]
    lines += [f"{_ports(item)} drop" for item in rules.hidden if item.proto == "udp"]
    if one_path:
        lines += [*(f"socket transparent {value} accept" for value in (0, 1)), "drop"]
    return lines


def _not_ours(rules: Rules) -> list[str]:
    """Accepts what comes in by another way than the one that the rules are for."""
    lines = ['iifname "lo" accept']
    if rules.interface is not None:
        lines.append(f"{_elsewhere(rules.interface, rules.interface_indexes)} accept")
    return lines


def _input_rules(rules: Rules, *, one_path: bool) -> list[str]:
    # Somebody else's use of the bit must not pass for ours in the host's chains.
    lines = [f"meta mark & {MARK_BIT:#010x} != 0 {_MARK_OFF}", *_not_ours(rules)]
    # Also without open_knock_port a range of hidden ports must not swallow the knocks.
    knock = f"udp dport {rules.knock_port}"
    lines.append(f"{knock} fib daddr type multicast drop")
    # Extension headers in front of a datagram are examined where it is delivered, and complained of by ICMP: what an
    # unused port's silence would not show. A knock needs none; fragments are put together before.
    lines.append(f"meta nfproto ipv6 ip6 nexthdr != udp {knock} drop")
    # Before the state of connections: what no socket waits for is silent, whatever was exchanged with it before. The
    # knock port too, while no server is behind it.
    unused = _one_path_protocols(rules) if one_path else []
    if "udp" in unused:
        lines.append(f"meta l4proto udp jump {UNUSED_CHAIN}")
    lines.append(f"{knock} {_MARK_ON} accept" if rules.open_knock_port else f"{knock} accept")
    # Doors judge every beginning. Conntrack may call a connection established whose TCP has ended long since, or that
    # the host itself has begun, or that it expects; the SYN over it begins anew all the same.
    lines.append(f"{_BEGINS_TCP} goto {BEGINNINGS_CHAIN}")
    if "tcp" in unused:
        lines.append(f"meta l4proto tcp jump {UNUSED_CHAIN}")
    lines += [
        f"ct state established,related ct label {LABEL_BIT} {_MARK_ON} accept",
        "ct state established accept",
    ]
    if TAKEN_UDP_SET in wanted_sets(rules):
        lines.append(f"meta l4proto udp ct state new,related ct id @{TAKEN_UDP_SET} {_MARK_ON} accept")
    # Whatever conntrack thinks of a packet: a NULL or ACK probe must not get past the hiding either.
    return [*lines, f"ct state new,related,untracked jump {DOORS_CHAIN}", f"goto {CLOSED_CHAIN}"]


def _beginnings_rules(rules: Rules, *, one_path: bool) -> list[str]:
    lines = []
    if TAKEN_SYN_SET in wanted_sets(rules):
        # Once the handshake is over (conntrack: assured) a repeat has nothing to say, and could only begin anew.
        lines.append(f"ct status & assured == 0 ct id . tcp sequence @{TAKEN_SYN_SET} {_MARK_ON} accept")
    lines += [f"jump {DOORS_CHAIN}", f"jump {CLOSED_CHAIN}"]
    if one_path and "tcp" in _one_path_protocols(rules):
        lines.append(f"jump {UNUSED_CHAIN}")
    # Without the mark, whatever label the connection bears: the host's own rules decide.
    return [*lines, "accept"]


def _door_rules(port_list: PortList) -> list[str]:
    lines = []
    names = set_names(port_list)
    for item in port_list.ports:
        for version, source, name in ((4, "ip saddr", names.v4), (6, "ip6 saddr", names.v6)):
            people = f"{_ports(item)} {source}{_mask(version, port_list.prefix(version))} @{name}"
            if not port_list.single_use:
                lines.append(f"{people} {_LET_IN}")
                continue
            # Only what begins something, and can be told from the next one, may use up the door: no stray ACK, and no
            # SYN that TCP will not take.
            if item.proto == "tcp":
                opening, taken = (
                    f"ct state new,established,related {_OPENS_TCP}",
                    f"{TAKEN_SYN_SET} {{ ct id . tcp sequence }}",
                )
            else:
                opening, taken = "ct state new,related", f"{TAKEN_UDP_SET} {{ ct id }}"
            lines.append(f"{opening} {people} delete @{name} {{ {source} }} add @{taken} {_LET_IN}")
    return lines


def _mask(version: int, length: int) -> str:
    """What is looked up of an address: its network, so that the sets need no intervals; nothing where that is all."""
    ones = IPv4Address(2**32 - 1) if version == 4 else IPv6Address(2**128 - 1)
    return "" if length == ones.max_prefixlen else f" & {first_of(ones, length)}"


def _closed_rules(rules: Rules) -> list[str]:
    return [*_jumps_to_always_open(rules), *(f"{_ports(item)} goto {HIDE_CHAIN}" for item in rules.hidden)]


def _jumps_to_always_open(rules: Rules) -> list[str]:
    return [f"{_source(network)} jump {ALWAYS_OPEN_CHAIN}" for network in rules.always_open_from]


def _source(network: IPNetwork) -> str:
    if network.prefixlen == 0:  # nft leaves such a match out, and with it the IP version
        return f"meta nfproto ipv{network.version}"
    return f"{'ip' if network.version == 4 else 'ip6'} saddr {network}"


def _always_open_rules(rules: Rules) -> list[str]:
    return [
        *(f"{_ports(item)} return" for item in rules.always_hidden),
        *(f"{_ports(item)} accept" for item in rules.hidden),
    ]


def _one_path_protocols(rules: Rules) -> list[str]:
    """Whose unused ports meet the rule that hides. With `drop` the host itself drops what comes to unused TCP ports."""
    udp = ["udp"] if rules.hide_udp_errors else []
    return [*udp, "tcp"] if rules.hidden_as == "reject" else udp


def _unused_rules(rules: Rules) -> list[str]:
    # A socket of whichever kind was found: listening, connected, half open, in TIME_WAIT, the kernel's own. (`socket
    # wildcard` does not see those without a full socket.) Two rules, as an anonymous set is replaced with a gap.
    lines = ["socket transparent 0 return", "socket transparent 1 return", *_jumps_to_always_open(rules)]
    # Addresses for which the host would complain. Groups and broadcasts belong to whoever listens for them, and get no
    # complaint, unless extension headers are in front (RFC 8200 section 4.2).
    lines += [f"fib daddr type {kind} goto {HIDE_CHAIN}" for kind in ("local", "anycast")]
    return [
        *lines,
        *(
            f"meta nfproto ipv6 meta l4proto {proto} ip6 nexthdr != {proto} goto {HIDE_CHAIN}"
            for proto in _one_path_protocols(rules)
        ),
    ]


def _hide_rules(rules: Rules) -> list[str]:
    if rules.hidden_as == "drop":
        return ["drop"]
    error = "drop" if rules.hide_udp_errors else "reject with icmpx type port-unreachable"
    return [
        f"meta l4proto udp {error}",
        # A reset would end the living connection over which this SYN comes, whoever sent it.
        f"{_BEGINS_TCP} ct state established drop",
        # What TCP itself would not answer on an unused port.
        "meta pkttype != host drop",
        "tcp doff < 5 drop",
        f"meta l4proto tcp {_RESET}",
        "drop",
    ]


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
