"""What stands in the kernel's nf_tables, as far as openme needs to know: dumps over netlink, not the whole ruleset.

Attribute numbers from the kernel's `linux/netfilter/nf_tables.h`.
"""

import errno
import struct
from typing import NamedTuple

from openme.firewall.nftables_rules import TABLE, Family, HostChain
from openme.netlink.codec import attributes, string
from openme.netlink.nftables import (
    NEEDS_NF_TABLES,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_UNSPEC,
    NfNetlink,
    Row,
)
from openme.netlink.sockets import NetlinkError

NFT_MSG_GETTABLE = 1
NFT_MSG_GETCHAIN = 4
NFT_MSG_GETRULE = 7
NFT_MSG_GETSET = 10
NFTA_TABLE_NAME = 1
NFTA_TABLE_FLAGS = 2
NFTA_TABLE_HANDLE = 4
NFTA_CHAIN_TABLE = 1
NFTA_CHAIN_NAME = 3
NFTA_CHAIN_HOOK = 4
NFTA_CHAIN_TYPE = 7
NFTA_HOOK_HOOKNUM = 1
NFTA_RULE_TABLE = 1
NFTA_RULE_CHAIN = 2
NFTA_RULE_HANDLE = 3
NFTA_RULE_EXPRESSIONS = 4
NFTA_RULE_USERDATA = 7
NFTA_EXPR_NAME = 1
NFTA_EXPR_DATA = 2
NFTA_MATCH_NAME = 1
NFTA_MATCH_INFO = 3
NFTA_SET_TABLE = 1
NFTA_SET_NAME = 2
NFTA_SET_FLAGS = 3
NFT_TABLE_F_DORMANT = 0x1
NFT_TABLE_F_OWNER = 0x2
NFT_SET_ANONYMOUS = 0x1
NF_INET_LOCAL_IN = 1
USERDATA_COMMENT = 0  # in a rule's user data, which nft fills with (type, length, value) of one byte each and the value
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")

FAMILIES: dict[int, Family] = {NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6", NFPROTO_INET: "inet"}
_NUMBERS = {name: number for number, name in FAMILIES.items()}


class ListedRule(NamedTuple):
    """One rule, in the order of its chain. `comment` is empty where there is none."""

    table: str
    chain: str
    handle: int
    comment: str


def host_input_chains(netlink: NfNetlink) -> list[HostChain]:
    """Every base chain of type filter on hook input, ours excepted."""
    found = []
    for row in netlink.dump(NFT_MSG_GETCHAIN, NFPROTO_UNSPEC):
        family = FAMILIES.get(row.family)
        if family is None or NFTA_CHAIN_HOOK not in row.attributes:
            continue
        hook = dict(_parsed(row.attributes[NFTA_CHAIN_HOOK]))
        chain = HostChain(family, _text(row.attributes, NFTA_CHAIN_TABLE), _text(row.attributes, NFTA_CHAIN_NAME))
        is_input = _number(hook, NFTA_HOOK_HOOKNUM) == NF_INET_LOCAL_IN
        ours = (chain.family, chain.table) == ("inet", TABLE)
        if is_input and not ours and _text(row.attributes, NFTA_CHAIN_TYPE) == "filter":
            found.append(chain)
    return found


def owned_tables(netlink: NfNetlink) -> set[tuple[Family, str]]:
    """Tables that a running program has reserved for itself (flag `owner`): nobody else may change them."""
    return {
        (FAMILIES[row.family], _text(row.attributes, NFTA_TABLE_NAME))
        for row in netlink.dump(NFT_MSG_GETTABLE, NFPROTO_UNSPEC)
        if row.family in FAMILIES and _number(row.attributes, NFTA_TABLE_FLAGS) & NFT_TABLE_F_OWNER
    }


def table_handle(netlink: NfNetlink) -> int | None:
    """The number that the kernel gave the table `inet openme` when it was made, and gives no other; None if there is
    none.
    """
    for row in netlink.dump(NFT_MSG_GETTABLE, NFPROTO_INET):
        if row.family == NFPROTO_INET and _text(row.attributes, NFTA_TABLE_NAME) == TABLE:
            return _handle(row.attributes, NFTA_TABLE_HANDLE)
    return None


def is_dormant(netlink: NfNetlink) -> bool:
    """Whether the table `inet openme` is there and its rules are met by no packet (flag `dormant`)."""
    return any(
        _text(row.attributes, NFTA_TABLE_NAME) == TABLE
        and _number(row.attributes, NFTA_TABLE_FLAGS) & NFT_TABLE_F_DORMANT
        for row in netlink.dump(NFT_MSG_GETTABLE, NFPROTO_INET)
        if row.family == NFPROTO_INET
    )


def rules_of(netlink: NfNetlink, family: Family, table: str, chain: str = "") -> list[ListedRule]:
    """The rules of a table or of one chain; none if it does not exist."""
    request = string(NFTA_RULE_TABLE, table) + (string(NFTA_RULE_CHAIN, chain) if chain else b"")
    listed = [
        ListedRule(
            _text(row.attributes, NFTA_RULE_TABLE),
            _text(row.attributes, NFTA_RULE_CHAIN),
            _handle(row.attributes),
            _comment(row.attributes.get(NFTA_RULE_USERDATA, b""))
            or _iptables_comment(row.attributes.get(NFTA_RULE_EXPRESSIONS, b"")),
        )
        for row in _dump_or_nothing(netlink, NFT_MSG_GETRULE, _NUMBERS[family], request)
    ]
    # Kernels differ in how much of the request they heed.
    return [rule for rule in listed if rule.table == table and chain in ("", rule.chain)]


def set_names_of_table(netlink: NfNetlink) -> set[str]:
    """The named sets in our table."""
    return {
        _text(row.attributes, NFTA_SET_NAME)
        for row in _dump_or_nothing(netlink, NFT_MSG_GETSET, NFPROTO_INET, string(NFTA_SET_TABLE, TABLE))
        if _text(row.attributes, NFTA_SET_TABLE) == TABLE
        and not _number(row.attributes, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS
    }


def chain_names_of_table(netlink: NfNetlink) -> set[str]:
    """The chains in our table."""
    return {
        _text(row.attributes, NFTA_CHAIN_NAME)
        for row in netlink.dump(NFT_MSG_GETCHAIN, NFPROTO_INET)
        if row.family == NFPROTO_INET and _text(row.attributes, NFTA_CHAIN_TABLE) == TABLE
    }


def _dump_or_nothing(netlink: NfNetlink, kind: int, family: int, request: bytes) -> list[Row]:
    try:
        return netlink.dump(kind, family, request)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def _parsed(data: bytes) -> list[tuple[int, bytes]]:
    try:
        return list(attributes(data))
    except ValueError as error:
        raise NetlinkError(errno.EBADMSG, "the firewall's rules make no sense", NEEDS_NF_TABLES) from error


def _text(values: dict[int, bytes], kind: int) -> str:
    return values.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")


def _number(values: dict[int, bytes], kind: int) -> int:
    data = values.get(kind, bytes(U32.size))
    if len(data) != U32.size:
        raise NetlinkError(errno.EBADMSG, "the firewall's rules make no sense", NEEDS_NF_TABLES)
    value: int = U32.unpack(data)[0]
    return value


def _handle(values: dict[int, bytes], kind: int = NFTA_RULE_HANDLE) -> int:
    data = values.get(kind, b"")
    if len(data) != U64.size:
        raise NetlinkError(errno.EBADMSG, "the firewall's rules make no sense", NEEDS_NF_TABLES)
    value: int = U64.unpack(data)[0]
    return value


def _comment(userdata: bytes) -> str:
    """The comment in user data that nft may have written; other programs put anything there."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset : offset + 2]
        if kind == USERDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode(errors="replace")
        offset += 2 + length
    return ""


def _iptables_comment(expressions: bytes) -> str:
    """The comment of a rule that came through iptables-nft, as ours does when iptables saves and restores it."""
    for _, element in _parsed(expressions):
        expression = dict(_parsed(element))
        if _text(expression, NFTA_EXPR_NAME) == "match":
            match = dict(_parsed(expression.get(NFTA_EXPR_DATA, b"")))
            if _text(match, NFTA_MATCH_NAME) == "comment":
                return match.get(NFTA_MATCH_INFO, b"").partition(b"\0")[0].decode(errors="replace")
    return ""
