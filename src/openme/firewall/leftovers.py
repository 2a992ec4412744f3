"""Rules that an existing server, another implementation of openme, has left in the host's own tables.

It puts a chain `openme` and rules with comments of its own into the table `filter` of nft or of iptables, and a kill or
a saved ruleset leaves them there: a door that stands open for ever, or a port that stays shut. Nothing here removes
what does not bear one of its comments: a chain `openme` with any other rule in it stays, with whatever jumps to it. The
one exception is a rule of somebody else's that jumps to a chain which goes: the kernel removes no chain that is still
jumped to, and the alternative would be to leave a door open for ever. Without the chain such a rule has no effect.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from openme.firewall.base import FirewallError
from openme.firewall.nft_listing import (
    FAMILIES,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFTA_CHAIN_HOOK,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_TABLE,
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE,
    rules_of,
)
from openme.firewall.nftables_rules import Family, HostChain, can_be_named
from openme.netlink.codec import attributes
from openme.netlink.nftables import NFPROTO_UNSPEC, NfNetlink

TABLE = "filter"
CHAIN = "openme"
COMMENTS = frozenset(("openme", "openme-knock", "openme-jump", "openme-drop"))
JUMP = "openme-jump"
NFTA_RULE_HANDLE, NFTA_RULE_CHAIN = 3, 2
NFTA_IMMEDIATE_DATA = 2
NFTA_DATA_VERDICT = 2
NFTA_VERDICT_CHAIN = 2


class FoundRule(NamedTuple):
    """A rule in a table `filter`. `target`: the chain it jumps to, or empty. `name`: how a command names the rule."""

    chain: str
    comment: str
    target: str
    name: str


class Leftovers(NamedTuple):
    """What one table holds of the existing server's.

    `where` names the table for people (`inet filter`). `rules` are its rules outside of a chain that goes as a whole,
    and others' that jump to it; `whole_chain` says whether the chain `openme` goes. `in_doubt`: a chain `openme` stands
    there with rules that do not bear its comments, or that are out of our reach, so it is left. `command` removes rules
    and chain, in a shell.
    """

    where: str
    rules: tuple[FoundRule, ...]
    whole_chain: bool
    in_doubt: bool
    command: str

    @property
    def removes(self) -> bool:
        """Whether there is anything that can be removed without doubt."""
        return bool(self.rules) or self.whole_chain

    def __str__(self) -> str:
        parts = []
        if self.whole_chain:
            parts.append(f"its chain {CHAIN}")
        if marked := sum(rule.comment in COMMENTS for rule in self.rules):
            parts.append(f"{marked} of its rules")
        if not parts:
            return f"{self.where} has a chain {CHAIN} that may be the existing server's"
        others = len(self.rules) - marked
        jumps = (
            f", to which {others} {'rule jumps' if others == 1 else 'rules jump'} without its mark" if others else ""
        )
        return f"the existing server has left {' and '.join(parts)} in {self.where}{jumps}"


def judged(
    rules: Iterable[FoundRule], *, chain_exists: bool, is_hooked: bool = False
) -> tuple[tuple[FoundRule, ...], bool, bool]:
    """Of one table's rules: which are the existing server's, whether its chain is, and whether that is in doubt.

    `is_hooked`: the chain `openme` is a base chain, which decides by its policy even when it is empty.
    """
    rules = tuple(rules)
    inside = [rule for rule in rules if rule.chain == CHAIN]
    jumps = [rule for rule in rules if rule.target == CHAIN and rule.chain != CHAIN]
    all_marked = all(rule.comment in COMMENTS for rule in inside)
    whole = chain_exists and all_marked and bool(inside or any(rule.comment == JUMP for rule in jumps))
    if whole:
        outside = tuple(r for r in rules if r.chain != CHAIN and (r.comment in COMMENTS or r.target == CHAIN))
        return outside, True, False
    kept = set(jumps) if chain_exists else set()
    marked = tuple(rule for rule in rules if rule.comment in COMMENTS and rule not in kept)
    return marked, False, chain_exists and (bool(inside) or is_hooked)


def leftovers(netlink: NfNetlink) -> list[Leftovers]:
    """What stands in the kernel's nf_tables, those of iptables-nft among them. FirewallError if it cannot look."""
    chains = _chains(netlink)
    targets = _targets(netlink)
    found: list[Leftovers] = []
    for family in dict.fromkeys(family for family, _ in chains):
        rules = [
            FoundRule(r.chain, r.comment, targets.get((family, r.chain, r.handle), ""), str(r.handle))
            for r in rules_of(netlink, family, TABLE)
        ]
        exists = (family, CHAIN) in chains
        ours, whole, doubt = judged(rules, chain_exists=exists, is_hooked=chains.get((family, CHAIN), False))
        named = tuple(rule for rule in ours if can_be_named(HostChain(family, TABLE, rule.chain)))
        if len(named) != len(ours):  # a jump that cannot be removed keeps the chain, which keeps the others
            named = tuple(rule for rule in named if rule.target != CHAIN)
            whole, doubt = False, True
        if named or whole or doubt:
            command = f"nft '{'; '.join(statements(family, named, whole_chain=whole))}'"
            if not named and not whole:
                command = f"nft list chain {family} {TABLE} {CHAIN}"
            found.append(Leftovers(f"{family} {TABLE}", named, whole, doubt, command))
    return found


def leftovers_now() -> list[Leftovers]:
    """The same for who has no netlink socket. FirewallError if he may not look."""
    netlink = NfNetlink()
    try:
        return leftovers(netlink)
    finally:
        netlink.close()


def statements(family: str, rules: Collection[FoundRule], *, whole_chain: bool) -> list[str]:
    """Nft statements that remove these rules, and the chain `openme` with all that is in it."""
    lines = [f"delete rule {family} {TABLE} {rule.chain} handle {rule.name}" for rule in rules]
    if whole_chain:
        lines += [f"flush chain {family} {TABLE} {CHAIN}", f"delete chain {family} {TABLE} {CHAIN}"]
    return lines


def removal_script(found: Iterable[Leftovers]) -> str:
    """One nft script for all of it: one transaction."""
    return "".join(
        f"{line}\n"
        for item in found
        for line in statements(item.where.split()[0], item.rules, whole_chain=item.whole_chain)
    )


def _chains(netlink: NfNetlink) -> dict[tuple[Family, str], bool]:
    """The chains of all tables `filter`, and whether they hang on a hook."""
    found = {}
    for row in netlink.dump(NFT_MSG_GETCHAIN, NFPROTO_UNSPEC):
        family = FAMILIES.get(row.family)
        if family is not None and _text(row.attributes, NFTA_CHAIN_TABLE) == TABLE:
            found[family, _text(row.attributes, NFTA_CHAIN_NAME)] = NFTA_CHAIN_HOOK in row.attributes
    return found


def _targets(netlink: NfNetlink) -> dict[tuple[Family, str, int], str]:
    """Where the rules of tables `filter` jump to, by family, chain and handle."""
    found = {}
    for row in netlink.dump(NFT_MSG_GETRULE, NFPROTO_UNSPEC):
        family = FAMILIES.get(row.family)
        if family is None or _text(row.attributes, NFTA_RULE_TABLE) != TABLE:
            continue
        for target in _jumps(row.attributes.get(NFTA_RULE_EXPRESSIONS, b"")):
            handle = int.from_bytes(row.attributes.get(NFTA_RULE_HANDLE, b""), "big")
            found[family, _text(row.attributes, NFTA_RULE_CHAIN), handle] = target
    return found


def _jumps(expressions: bytes) -> Iterator[str]:
    try:
        for _, element in attributes(expressions):
            expression = dict(attributes(element))
            if _text(expression, NFTA_EXPR_NAME) != "immediate":
                continue
            values = dict(attributes(expression.get(NFTA_EXPR_DATA, b"")))
            data = dict(attributes(values.get(NFTA_IMMEDIATE_DATA, b"")))
            verdict = dict(attributes(data.get(NFTA_DATA_VERDICT, b"")))
            if target := _text(verdict, NFTA_VERDICT_CHAIN):
                yield target
    except ValueError as error:
        raise FirewallError("the firewall's rules make no sense") from error


def _text(values: dict[int, bytes], kind: int) -> str:
    return values.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")
