"""Managed ports that never reach our input chain, since a rule of the host's sends them elsewhere before (DNAT); and
those whose packets a rule keeps untracked, so that no connection is known to have come through a door.

Read from the rules of tables that rewrite destinations on prerouting: nft's own and those of iptables-nft, with which
container engines publish ports. What a rule says of protocol and destination port is understood; whatever else it asks
for (addresses, interfaces) is not, so that a port named here may be sent elsewhere for some packets alone.

Numbers from the kernel's `linux/netfilter/nf_tables.h`, `xt_tcpudp.h` and `xt_multiport.h`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from openme.firewall.base import FirewallError
from openme.firewall.nft_elements import NFT_MSG_GETSETELEM
from openme.firewall.nft_listing import (
    FAMILIES,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFTA_CHAIN_HOOK,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_TABLE,
    NFTA_CHAIN_TYPE,
    NFTA_HOOK_HOOKNUM,
    NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE,
)
from openme.firewall.nftables_rules import TABLE, Family
from openme.max_port import MAX_PORT
from openme.netlink.codec import attributes, string
from openme.netlink.nftables import NFPROTO_UNSPEC, NfNetlink, Row
from openme.ports import PortRange, merged

NF_INET_PRE_ROUTING = 0
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_DATA_VALUE = 1
NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN = 1, 2, 3, 4
NFTA_META_DREG, NFTA_META_KEY = 1, 2
NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA = 1, 2, 3
NFTA_RANGE_SREG, NFTA_RANGE_OP, NFTA_RANGE_FROM, NFTA_RANGE_TO = 1, 2, 3, 4
NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_LOOKUP_FLAGS = 1, 2, 5
NFTA_NAT_TYPE = 1
NFTA_XT_NAME, NFTA_XT_INFO = 1, 3
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_FLAGS = 1, 3
NFT_SET_ELEM_INTERVAL_END = 1
NFT_PAYLOAD_TRANSPORT_HEADER = 2
NFT_PAYLOAD_NETWORK_HEADER = 1
NFT_META_L4PROTO = 16
NFT_NAT_DNAT = 1
EQUAL, LESS, AT_MOST, MORE, AT_LEAST = 0, 2, 3, 4, 5
PORT_PLACE = 2  # of the destination port in a TCP or UDP header
PROTOCOL_PLACES = ((9, 1), (6, 1))  # in an IPv4 and in an IPv6 header
TCP, UDP = 6, 17
XT_PORTS = struct.Struct("=4H")  # of xt_tcp and xt_udp: sources from, to, destinations from, to
XT_INVERTED = 0x02
XT_CT_FLAGS = struct.Struct("=H")  # at the head of xt_ct_target_info
XT_CT_NOTRACK = 1
XT_INVERTED_PLACE = {"tcp": 11, "udp": 8}
MULTIPORT = struct.Struct("=BB15H15BB")
MULTIPORT_SOURCE = 0

Span = tuple[int, int]


@dataclass(frozen=True, order=True, slots=True)
class HostRule:
    """Ports that a rule in a chain of the host's own names."""

    ports: PortRange
    family: Family
    table: str
    chain: str

    @property
    def place(self) -> str:
        """Family, table and chain."""
        return f"{self.family} {self.table} {self.chain}"


class Redirect(HostRule):
    """Ports that such a rule sends elsewhere."""

    def __str__(self) -> str:
        return (
            f"{self.ports} is sent elsewhere by a rule in {self.place} before openme sees it: openme neither hides nor"
            " opens it"
        )


class Untracked(HostRule):
    """Ports whose packets such a rule keeps from being tracked."""

    def __str__(self) -> str:
        return (
            f"{self.ports} is not tracked, by a rule in {self.place}: connections to it end when openme starts and when"
            " their door closes; take the port out of that rule"
        )


Rule = TypeVar("Rule", bound=HostRule)


def redirects(netlink: NfNetlink, managed: Iterable[PortRange]) -> list[Redirect]:
    """Which of these ports a rule of the host's sends elsewhere (DNAT, redirect). FirewallError if it cannot look."""
    return _found(Redirect, netlink, managed, lambda kind: kind == "nat", lambda rule: rule.rewrites)


def untracked(netlink: NfNetlink, managed: Iterable[PortRange]) -> list[Untracked]:
    """Which of these ports a rule of the host's keeps untracked (notrack). FirewallError if it cannot look."""
    return _found(
        Untracked,
        netlink,
        managed,
        lambda _kind: True,
        lambda rule: rule.untracks and (rule.names_ports or not rule.is_partial),
    )


def _found(
    found_as: type[Rule],
    netlink: NfNetlink,
    managed: Iterable[PortRange],
    is_kind: Callable[[str], bool],
    does: Callable[["_Reading"], bool],
) -> list[Rule]:
    """The ports, and where the rule is, of rules that packets meet on prerouting."""
    managed = merged(managed)
    try:
        tables, elsewhere = _chains(netlink, is_kind)
    except (ValueError, KeyError) as error:
        raise FirewallError("the firewall's chains make no sense") from error
    found: set[Rule] = set()
    if not tables:
        return []
    for row in netlink.dump(NFT_MSG_GETRULE, NFPROTO_UNSPEC):
        family = FAMILIES.get(row.family)
        table, chain = (_text(row.attributes, kind) for kind in (NFTA_RULE_TABLE, NFTA_RULE_CHAIN))
        if family is None or (family, table) not in tables or (family, table, chain) in elsewhere:
            continue
        try:
            rule = _Reading(partial(_spans, netlink, row.family, table))
            rule.read(row.attributes.get(NFTA_RULE_EXPRESSIONS, b""))
        except (FirewallError, ValueError, struct.error, KeyError, IndexError):
            continue  # a rule that this does not understand: a warning less, and no reason to stop
        if not does(rule) or not (rule.names_ports or chain in tables[family, table]):
            continue
        for item in managed:
            for first, last in rule.ports if item.proto in rule.protocols else ():
                low, high = max(first, item.first), min(last, item.last)
                if low <= high:
                    found.add(found_as(PortRange(item.proto, low, high), family, table, chain))
    return sorted(found)


def redirects_now(managed: Iterable[PortRange]) -> list[Redirect]:
    """The same for who has no netlink socket of his own; nothing where he may not look."""
    return _now(redirects, managed)


def untracked_now(managed: Iterable[PortRange]) -> list[Untracked]:
    """The same for who has no netlink socket of his own; nothing where he may not look."""
    return _now(untracked, managed)


def _now(look: Callable[[NfNetlink, Iterable[PortRange]], list[Rule]], managed: Iterable[PortRange]) -> list[Rule]:
    try:
        netlink = NfNetlink()
    except FirewallError:
        return []
    try:
        return look(netlink, managed)
    except FirewallError:
        return []
    finally:
        netlink.close()


class _Reading:
    """What one rule asks of protocol and destination port, and whether it rewrites the destination."""

    def __init__(self, elements: Callable[[str], list[Span]]) -> None:
        self.protocols = {"tcp", "udp"}
        self.ports: list[Span] = [(0, MAX_PORT)]
        self.names_ports = False
        self.rewrites = False
        self.untracks = False
        self.is_partial = False  # it asks for more than protocol and port
        self._elements = elements
        self._port_registers: dict[bytes, int] = {}
        self._protocol_registers: set[bytes] = set()

    def read(self, expressions: bytes) -> None:
        for _, element in attributes(expressions):
            expression = dict(attributes(element))
            name = _text(expression, NFTA_EXPR_NAME)
            data = dict(attributes(expression.get(NFTA_EXPR_DATA, b"")))
            if name == "notrack":
                self.untracks = True
            elif name in _READERS:
                _READERS[name](self, data)

    def payload(self, data: dict[int, bytes]) -> None:
        register = data.get(NFTA_PAYLOAD_DREG)
        if register is None:
            return
        self._forget(register)
        base, offset, length = (
            _number(data[kind]) for kind in (NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN)
        )
        if base == NFT_PAYLOAD_TRANSPORT_HEADER and offset <= PORT_PLACE and offset + length >= PORT_PLACE + 2:
            self._port_registers[register] = PORT_PLACE - offset
        if base == NFT_PAYLOAD_NETWORK_HEADER and (offset, length) in PROTOCOL_PLACES:
            self._protocol_registers.add(register)

    def meta(self, data: dict[int, bytes]) -> None:
        register = data.get(NFTA_META_DREG)
        if register is not None:
            self._forget(register)
            if _number(data[NFTA_META_KEY]) == NFT_META_L4PROTO:
                self._protocol_registers.add(register)

    def _forget(self, register: bytes) -> None:
        self._port_registers.pop(register, None)
        self._protocol_registers.discard(register)

    def compared(self, data: dict[int, bytes]) -> None:
        register, how, value = data[NFTA_CMP_SREG], _number(data[NFTA_CMP_OP]), _value(data[NFTA_CMP_DATA])
        if register in self._protocol_registers and how == EQUAL:
            self.protocols &= {name for name, number in (("tcp", TCP), ("udp", UDP)) if value[0] == number}
        self.is_partial |= register not in self._protocol_registers and register not in self._port_registers
        if register in self._port_registers:
            number = _port(value, self._port_registers[register])
            spans = {
                EQUAL: (number, number),
                LESS: (0, number - 1),
                AT_MOST: (0, number),
                MORE: (number + 1, MAX_PORT),
                AT_LEAST: (number, MAX_PORT),
            }
            if how in spans:
                self._only([spans[how]])

    def in_range(self, data: dict[int, bytes]) -> None:
        register = data[NFTA_RANGE_SREG]
        if register in self._port_registers and _number(data[NFTA_RANGE_OP]) == EQUAL:
            place = self._port_registers[register]
            self._only([(_port(_value(data[NFTA_RANGE_FROM]), place), _port(_value(data[NFTA_RANGE_TO]), place))])

    def looked_up(self, data: dict[int, bytes]) -> None:
        self.is_partial |= data[NFTA_LOOKUP_SREG] not in self._port_registers
        inverted = NFTA_LOOKUP_FLAGS in data and _number(data[NFTA_LOOKUP_FLAGS]) != 0
        if self._port_registers.get(data[NFTA_LOOKUP_SREG]) == 0 and not inverted:
            self._only(self._elements(_text(data, NFTA_LOOKUP_SET)))

    def nat(self, data: dict[int, bytes]) -> None:
        self.rewrites |= _number(data[NFTA_NAT_TYPE]) == NFT_NAT_DNAT

    def redirect(self, _: dict[int, bytes]) -> None:
        self.rewrites = True

    def target(self, data: dict[int, bytes]) -> None:
        name = _text(data, NFTA_XT_NAME)
        self.rewrites |= name in ("DNAT", "REDIRECT")
        if name in ("CT", "NOTRACK"):
            (flags,) = XT_CT_FLAGS.unpack_from(data.get(NFTA_XT_INFO, b"").ljust(XT_CT_FLAGS.size, b"\0"))
            self.untracks |= name == "NOTRACK" or bool(flags & XT_CT_NOTRACK)

    def match(self, data: dict[int, bytes]) -> None:
        name, info = _text(data, NFTA_XT_NAME), data.get(NFTA_XT_INFO, b"")
        if name in XT_INVERTED_PLACE:
            self.protocols &= {name}
            *_, first, last = XT_PORTS.unpack_from(info)
            if not info[XT_INVERTED_PLACE[name]] & XT_INVERTED and (first, last) != (0, MAX_PORT):
                self._only([(first, last)])
        elif name == "multiport":
            which, count, *rest, inverted = MULTIPORT.unpack_from(info)
            if which != MULTIPORT_SOURCE and not inverted:
                self._only(list(_multiport(rest[:count], rest[15 : 15 + count])))
        elif name != "comment":
            self.is_partial = True

    def _only(self, spans: list[Span]) -> None:
        self.names_ports = True
        self.ports = [(max(a, c), min(b, d)) for a, b in self.ports for c, d in spans if max(a, c) <= min(b, d)]


_READERS: dict[str, Callable[[_Reading, dict[int, bytes]], None]] = {
    "payload": _Reading.payload,
    "meta": _Reading.meta,
    "cmp": _Reading.compared,
    "range": _Reading.in_range,
    "lookup": _Reading.looked_up,
    "nat": _Reading.nat,
    "redir": _Reading.redirect,
    "target": _Reading.target,
    "match": _Reading.match,
}


def _chains(
    netlink: NfNetlink, is_kind: Callable[[str], bool]
) -> tuple[dict[tuple[Family, str], set[str]], set[tuple[Family, str, str]]]:
    """Tables with base chains of such a type on prerouting, and the names of those; base chains on other hooks."""
    tables: dict[tuple[Family, str], set[str]] = {}
    elsewhere: set[tuple[Family, str, str]] = set()
    for row in netlink.dump(NFT_MSG_GETCHAIN, NFPROTO_UNSPEC):
        family = FAMILIES.get(row.family)
        if family is None or NFTA_CHAIN_HOOK not in row.attributes:
            continue
        table, chain = (_text(row.attributes, kind) for kind in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME))
        hook = dict(attributes(row.attributes[NFTA_CHAIN_HOOK]))
        if _number(hook[NFTA_HOOK_HOOKNUM]) != NF_INET_PRE_ROUTING:
            elsewhere.add((family, table, chain))
        elif is_kind(_text(row.attributes, NFTA_CHAIN_TYPE)) and (family, table) != ("inet", TABLE):
            tables.setdefault((family, table), set()).add(chain)
    return tables, elsewhere


def _spans(netlink: NfNetlink, family: int, table: str, name: str) -> list[Span]:
    """The ports in a set or map whose keys are ports; ValueError if they are something else."""
    request = string(NFTA_SET_ELEM_LIST_TABLE, table) + string(NFTA_SET_ELEM_LIST_SET, name)
    starts: list[int] = []
    ends: list[int] = []
    for row in netlink.dump(NFT_MSG_GETSETELEM, family, request):
        for key, is_end in _keys(row):
            (ends if is_end else starts).append(key)
    if not ends:  # no intervals
        return [(start, start) for start in starts]
    return [(start, min((end for end in ends if end > start), default=MAX_PORT + 1) - 1) for start in starts]


def _keys(row: Row) -> Iterator[tuple[int, bool]]:
    for _, element in attributes(row.attributes.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        values = dict(attributes(element))
        key = _value(values[NFTA_SET_ELEM_KEY])
        if len(key) != 2:
            raise ValueError("the keys are no ports")
        flags = _number(values[NFTA_SET_ELEM_FLAGS]) if NFTA_SET_ELEM_FLAGS in values else 0
        yield int.from_bytes(key, "big"), bool(flags & NFT_SET_ELEM_INTERVAL_END)


def _multiport(ports: list[int], begins: list[int]) -> Iterator[Span]:
    numbers = iter(zip(ports, begins, strict=True))
    for first, is_range in numbers:
        yield (first, next(numbers)[0]) if is_range else (first, first)


def _value(data: bytes) -> bytes:
    return dict(attributes(data))[NFTA_DATA_VALUE]


def _port(value: bytes, place: int) -> int:
    return int.from_bytes(value[place : place + 2], "big")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(values: dict[int, bytes], kind: int) -> str:
    return values.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")
