"""The firewall `nft`: structure through libnftables, people over netlink.

libnftables reads the whole ruleset of the host at every command, which is fine once a start and out of the question
once a knock; so doors take the short way (docs/decisions/0002-nftables.md).
"""

import ctypes
import errno
import logging
import math
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from openme.firewall import nft_listing
from openme.firewall.base import (
    CutTarget,
    Door,
    FirewallError,
    IPAddress,
    IsOpen,
    PortList,
    Rules,
    Steps,
    check_door,
    nowhere,
    unknown_port_list,
)
from openme.firewall.connections import Connection, Connections, cut_key
from openme.firewall.cutting import cut_in_steps
from openme.firewall.nft_elements import (
    NFT_MSG_GETSETELEM,
    Refresh,
    flushed,
    parse_elements,
    refreshed,
    removed,
    set_reference,
)
from openme.firewall.nftables_rules import (
    CUT_SECONDS,
    CUT_SETS,
    CUT_SIZE,
    MARK_COMMENT,
    TABLE,
    TAKEN_SYN_SET,
    TAKEN_UDP_SET,
    HostChain,
    HostMark,
    can_be_named,
    marks_script,
    milliseconds,
    set_for,
    set_names,
    stop_script,
    table_script,
    wanted_chains,
    wanted_sets,
)
from openme.firewall.redirects import redirects, untracked
from openme.firewall.ruleset_changes import RulesetChanges
from openme.firewall.virtual_services import VirtualServices
from openme.netlink.nftables import NFPROTO_INET, Message, NfNetlink
from openme.netlink.routes import RouteQuestions
from openme.netlink.sockets import NetlinkError

if TYPE_CHECKING:
    from openme.firewall.nftables_rules import SetNames

try:
    import nftables
except ImportError:  # pip-nftables is a dependency on Linux alone
    nftables = None

LIBRARY = "libnftables.so.1"
EXPIRES_SINCE = (6, 12)
"""The first Linux release on which an add that carries the expiration refreshes an element."""
ATTEMPTS = 5

_SOCKET_PROBE = """\
add table inet openme-probe
add chain inet openme-probe probe
add rule inet openme-probe probe socket transparent 0 accept
delete table inet openme-probe
"""
"""One transaction that leaves nothing: whether this kernel can tell if a socket waits for a packet."""
_UNUSED_SHOW = "unused ports stay as the host has them, and a scanner that looks closely can tell hidden ones from them"
_NO_SOCKETS = f"the kernel cannot look for sockets (CONFIG_NFT_SOCKET): {_UNUSED_SHOW}"
_VIRTUAL_SERVICES = f"this host has virtual services (IPVS), which have no socket: {_UNUSED_SHOW}"

_log = logging.getLogger(__name__)
_COMMENT_PREFIX = "openme-mark-"
_FAILURE = re.compile(r"^.*?Error: (.*)$", re.MULTILINE)


class _Marks(NamedTuple):
    """Our rules in the host's chains: chains without one at their head, rules to delete, rules in place, chains out of
    reach.
    """

    missing: list[HostChain]
    stale: list[HostMark]
    present: list[HostMark]
    locked: list[HostChain]


class NftFirewall:
    """`Firewall` on the kernel's nf_tables, in the network namespace where it is made.

    After the constructor it needs CAP_NET_ADMIN and nothing else: no file, no import, no program. `refresh` forces one
    of the two ways to refresh a door; `auto` takes the one this kernel can do.
    """

    def __init__(self, *, refresh: Refresh | Literal["auto"] = "auto") -> None:
        self._refresh: Refresh = _kernel_refresh(os.uname().release) if refresh == "auto" else refresh
        self._nft = _libnftables()
        self._netlink = NfNetlink()
        self._changes = _ruleset_changes()
        self._connections = Connections()
        self._virtual_services = VirtualServices()
        self._routes = RouteQuestions()
        self._finds_sockets: bool | None = None
        self._rules: Rules | None = None
        self._one_path = True
        self._balances = False
        self._taken = False
        self._locked: set[HostChain] = set()
        self._sets: dict[PortList, SetNames] = {}
        self._handles: list[tuple[str, int]] = []
        self._table: int | None = None
        self._untold_loss = False
        self._silenced: dict[tuple[str, bytes], None] = {}
        self._half_done = False
        self._redirects: set[str] = set()
        self._marked: set[HostChain] = set()  # chains that have had our rule
        self.damage = ""
        """See `Firewall.damage`."""

    def look(self, rules: Rules) -> list[str]:
        """What the kernel and the host's tables keep these rules from doing, a line each, without a change to anything.

        FirewallError if the kernel does not take them. Who writes the log may have said these lines already.
        """
        finds_sockets = not _why_refused(_SOCKET_PROBE)
        balances = self._virtual_services.exist()
        marks = self._marks()
        script = table_script(rules, (), (), one_path=finds_sockets and not balances)
        if errors := _why_refused(script + marks_script(marks.missing, marks.stale)):
            raise _refusal(errors)
        return [
            *([] if finds_sockets else [_NO_SOCKETS]),
            *([_VIRTUAL_SERVICES] if balances else []),
            *map(_out_of_reach, marks.locked),
        ]

    def is_there(self) -> bool:
        """See `Firewall.is_there`."""
        return nft_listing.table_handle(self._netlink) is not None

    def start(self, rules: Rules) -> None:
        """See `Firewall.start`. Chains that a running program keeps to itself are named in a warning."""
        self._put_in_force(rules)

    def apply(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        """See `Firewall.apply`. Equal rules are asserted again, in the host's chains as well."""
        doors = list(doors)
        for door in doors:
            check_door(door)
            if door.port_list not in rules.port_lists:
                raise unknown_port_list()
        self._put_in_force(rules, doors)
        # What was open before has not been given its new time by that.
        try:
            self.open(doors)
        except FirewallError:
            self._half_done = True  # the rules are in force that we say are refused
            raise

    def open(self, doors: Iterable[Door]) -> None:
        """See `Firewall.open`. Of two doors for the same list and address the last one counts."""
        elements: dict[str, dict[bytes, int]] = {}
        for door in doors:
            check_door(door)
            names = self._sets.get(door.port_list)
            if names is None:
                raise unknown_port_list()
            elements.setdefault(set_for(names, door.address), {})[door.address.packed] = milliseconds(door)
        self._transact(
            message for name, people in elements.items() for message in refreshed(TABLE, name, people, self._refresh)
        )

    def close(self, doors: Iterable[tuple[PortList, IPAddress]]) -> None:
        """See `Firewall.close`. A port list without a rule has no open doors."""
        doors = list(doors)
        keys: dict[str, dict[bytes, None]] = {}
        for port_list, address in doors:
            names = self._sets.get(port_list)
            if names is not None:
                keys.setdefault(set_for(names, address), {})[address.packed] = None
        messages = [message for name, people in keys.items() for message in removed(TABLE, name, list(people))]
        self._transact(messages + (self._forget_syns() if doors else []))

    def cut(self, targets: Iterable[CutTarget], is_open: IsOpen = nowhere) -> Steps[Mapping[IPAddress, int]]:
        """See `Firewall.cut`."""
        networks = () if self._rules is None else self._rules.always_open_from
        return cut_in_steps(
            self._connections,
            self._silence,
            targets,
            is_open,
            lambda address: any(address in network for network in networks),
            is_ours=cache(self._is_ours),
        )

    def doors(self) -> list[Door]:
        """See `Firewall.doors`. An element that somebody else put there without a timeout has infinite `seconds`."""
        return [
            Door(port_list, address, seconds)
            for port_list, names in self._sets.items()
            for name, kind in ((names.v4, IPv4Address), (names.v6, IPv6Address))
            for address, seconds in self._people(name, kind)
        ]

    def stop(self) -> None:
        """See `Firewall.stop`. Also removes what a run that died has left."""
        for attempt in range(ATTEMPTS):
            marks = self._marks()
            script = stop_script(
                table_exists=nft_listing.table_handle(self._netlink) is not None,
                marks=[*marks.present, *marks.stale],
            )
            if not script or self._run(script, last=attempt == ATTEMPTS - 1):
                break
        self._sets = {}
        self._handles = []
        self._table = None
        self._untold_loss = False
        self._rules = None
        self._taken = False

    @property
    def changes(self) -> socket.socket | None:
        """See `Firewall.changes`."""
        return None if self._changes is None else self._changes.socket

    def has_changed(self) -> bool:
        """See `Firewall.has_changed`."""
        return self._changes is not None and self._changes.has_changed()

    def adapt(self) -> None:
        """See `Firewall.adapt`: virtual services of IPVS come and go."""
        if self._rules is None or self._can_take_one_path() == self._one_path:
            return
        try:
            self._put_in_force(self._rules)
        except FirewallError as error:
            _log.error("unused ports: %s", error.message)

    @property
    def surroundings(self) -> socket.socket | None:
        """See `Firewall.surroundings`."""
        return self._virtual_services.news

    @property
    def adapts_every(self) -> float:
        """See `Firewall.adapts_every`."""
        return self._virtual_services.interval

    def intact(self) -> bool:
        """Whether our table is as we left it and every chain of the host's has our rule (at its head or not).

        False once also where the table was lost and has been put back meanwhile, perhaps without all that was in it;
        and after an `apply` that failed when its rules were in force already: the caller says which are to be.
        """
        table = nft_listing.table_handle(self._netlink)
        if self._half_done or self._untold_loss or table != self._table:
            self.damage = "openme's table was removed" if table is None else "openme's table was removed and put back"
            self._untold_loss = False
            self._table = None
            return False
        handles = self._rule_handles()
        if not self._handles or handles != self._handles:
            now, before = set(handles), set(self._handles)
            what = "added to" if now >= before else "removed from" if now <= before else "changed in"
            self.damage = f"rules were {what} openme's table"
            return False
        if not {name for names in self._sets.values() for name in names} <= nft_listing.set_names_of_table(
            self._netlink
        ):
            self.damage = "sets were removed from openme's table"
            return False
        marks = self._marks()
        self._say_locked(marks)
        marked = {mark.where for mark in (*marks.present, *marks.stale)}
        missing = [chain for chain in marks.missing if chain not in marked]
        if missing:
            chains = ", ".join(" ".join(chain) for chain in missing)
            what = (
                "the host has a new input chain," if self._marked.isdisjoint(missing) else "openme's rule has gone from"
            )
            self.damage = f"{what} {chains}"
        return not missing

    def _is_ours(self, address: bytes) -> bool:
        """Whether an address, packed, is this host's own; False where the kernel does not tell."""
        try:
            return bool(self._routes.stays(address, None))
        except (OSError, ValueError, struct.error):
            return False

    def _silence(self, connections: Iterable[Connection]) -> None:
        """Keep these connections from living on once conntrack has forgotten them: no service speaks first, and none
        is the one that took a single-use door (a new connection may get the same id).
        """
        if not self._handles:
            return
        silenced = {(CUT_SETS[connection.version], cut_key(connection)): None for connection in connections}
        self._silenced.update(silenced)
        while len(self._silenced) > CUT_SIZE:
            del self._silenced[next(iter(self._silenced))]
        messages = self._silencing(silenced)
        if self._taken:
            messages += removed(TABLE, TAKEN_UDP_SET, list({connection.id: None for connection in connections}))
        self._transact(messages + self._forget_syns())

    def _silencing(self, silenced: Iterable[tuple[str, bytes]]) -> list[Message]:
        cut: dict[str, dict[bytes, int]] = {}
        for name, key in silenced:
            cut.setdefault(name, {})[key] = CUT_SECONDS * 1000
        return [message for name, keys in cut.items() for message in refreshed(TABLE, name, keys, self._refresh)]

    def _forget_syns(self) -> list[Message]:
        """Messages after which no repeated SYN is known. Whoever waits for an answer to his first one knocks again; one
        that has been answered needs none.
        """
        return [flushed(TABLE, TAKEN_SYN_SET)] if self._taken else []

    def _put_in_force(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        one_path = self._can_take_one_path()
        is_strange = False
        for attempt in range(ATTEMPTS):
            table = nft_listing.table_handle(self._netlink)
            sets = nft_listing.set_names_of_table(self._netlink)
            stale_sets = sets - wanted_sets(rules)
            # A table in the place of the one that we made has been loaded from a file: its doors are of whenever that
            # was saved. (What is there at a start is of a run that died, and is taken over.)
            is_strange = self._rules is not None and table != self._table
            emptied = sets & wanted_sets(rules) if is_strange else ()
            stale_chains = nft_listing.chain_names_of_table(self._netlink) - wanted_chains(rules, one_path=one_path)
            marks = self._marks()
            script = table_script(
                rules, stale_sets, doors, stale_chains=stale_chains, emptied=emptied, one_path=one_path
            )
            if self._run(script + marks_script(marks.missing, marks.stale), last=attempt == ATTEMPTS - 1):
                self._say_locked(marks)
                self._marked.update(marks.missing, (mark.where for mark in marks.present))
                self._untold_loss = self._untold_loss or (is_strange and self._table is not None)
                break
        self._table = nft_listing.table_handle(self._netlink)
        is_other = self._rules not in {None, rules}
        self._rules = rules
        self._one_path = one_path
        self._sets = {port_list: set_names(port_list) for port_list in rules.port_lists}
        self._taken = TAKEN_SYN_SET in wanted_sets(rules)
        if is_strange:  # whoever was cut while the table before it stood is to stay cut
            self._transact(self._silencing(self._silenced))
        if is_other:  # somebody may have lost the right to what he has begun
            self._transact(self._forget_syns())
        self._handles = self._rule_handles()
        self._half_done = False
        self._say_redirects(rules)

    def _can_take_one_path(self) -> bool:
        """Whether what no socket waits for is unused on this host. Says so when that changes."""
        if self._finds_sockets is None:
            self._finds_sockets = self._accepts(_SOCKET_PROBE)
            if not self._finds_sockets:
                _log.warning("%s", _NO_SOCKETS)
        balances = self._virtual_services.exist()
        if balances != self._balances:
            self._balances = balances
            if balances:
                _log.warning("%s", _VIRTUAL_SERVICES)
            else:
                _log.info("the virtual services (IPVS) are gone: unused ports are as silent as hidden ones again")
        return self._finds_sockets and not balances

    def _accepts(self, script: str) -> bool:
        """Whether the kernel takes a script. FirewallError without the privilege, which tells nothing of the kernel."""
        code, _, errors = self._nft.cmd(script)
        if code != 0 and "not permitted" in errors:
            raise _refusal(errors)
        return bool(code == 0)

    def _say_redirects(self, rules: Rules) -> None:
        """Warn of managed ports that never come to our input chain, or untracked, of each once."""
        managed = [*rules.hidden, *(item for port_list in rules.port_lists for item in port_list.ports)]
        try:
            lost = (*redirects(self._netlink, managed), *untracked(self._netlink, managed))
        except FirewallError as error:
            # The rules are in force; this is only about what they cannot do.
            _log.warning("it is not known whether ports are sent elsewhere or not tracked: %s", error.message)
            return
        found = {str(item) for item in lost}
        for item in sorted(found - self._redirects):
            _log.warning("%s", item)
        self._redirects = found

    def _say_locked(self, marks: _Marks) -> None:
        """Name each chain that is out of reach, once for as long as it is there."""
        for chain in marks.locked:
            if chain not in self._locked:
                _log.warning("%s", _out_of_reach(chain))
        self._locked = set(marks.locked)

    def _marks(self) -> _Marks:
        marks = _Marks([], [], [], [])
        owned = nft_listing.owned_tables(self._netlink)
        for chain in nft_listing.host_input_chains(self._netlink):
            if (chain.family, chain.table) in owned or not can_be_named(chain):
                marks.locked.append(chain)
                continue
            listed = nft_listing.rules_of(self._netlink, *chain)
            ours = [(place, rule) for place, rule in enumerate(listed) if rule.comment.startswith(_COMMENT_PREFIX)]
            in_place = [rule for place, rule in ours if place == 0 and rule.comment == MARK_COMMENT]
            marks.present.extend(HostMark(chain, rule.handle) for rule in in_place)
            marks.stale.extend(HostMark(chain, rule.handle) for _, rule in ours if rule not in in_place)
            if not in_place:
                marks.missing.append(chain)
        return marks

    def _rule_handles(self) -> list[tuple[str, int]]:
        return [(rule.chain, rule.handle) for rule in nft_listing.rules_of(self._netlink, "inet", TABLE)]

    def _run(self, script: str, *, last: bool) -> bool:
        """One transaction. False: refused, but perhaps since the host's rules moved meanwhile, so look again."""
        code, _, errors = self._nft.cmd(script)
        if code == 0:
            return True
        if not last and "No such file or directory" in errors:
            return False
        raise _refusal(errors)

    def _transact(self, messages: Iterable[Message]) -> None:
        messages = list(messages)
        for attempt in range(ATTEMPTS):
            try:
                self._netlink.transact(messages)
            except NetlinkError as error:
                # Before 6.9 an element may run out between the add and the delete of one batch.
                if attempt == ATTEMPTS - 1 or error.errno != errno.ENOENT:
                    raise
            else:
                return

    def _people(self, name: str, kind: type[IPv4Address | IPv6Address]) -> Iterator[tuple[IPAddress, float]]:
        for row in self._netlink.dump(NFT_MSG_GETSETELEM, NFPROTO_INET, set_reference(TABLE, name)):
            try:
                for key, left in parse_elements(row.attributes):
                    if left != 0:
                        yield kind(key), math.inf if left is None else left / 1000
            except ValueError as error:
                raise FirewallError("the kernel's list of open doors makes no sense") from error


def run_script(script: str) -> None:
    """One transaction of nft statements, without a firewall of ours. FirewallError, and nothing done, if refused."""
    code, _, errors = _libnftables().cmd(script)
    if code != 0:
        raise _refusal(errors)


def _why_refused(script: str) -> str:
    """What libnftables and the kernel have against a script, in their words, or nothing; it is not carried out.

    The kernel resolves all that is in it and then throws it away, without an event for those who watch the ruleset. The
    binding does not offer it.
    """
    lib = ctypes.CDLL(LIBRARY)
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(lib.nft_ctx_new(0))
    try:
        lib.nft_ctx_set_dry_run(context, ctypes.c_bool(True))  # noqa: FBT003  # the library's signature
        lib.nft_ctx_buffer_error(context)
        lib.nft_ctx_buffer_output(context)
        if lib.nft_run_cmd_from_buffer(context, script.encode()) == 0:
            return ""
        return (lib.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace") or "refused"
    finally:
        lib.nft_ctx_free(context)


def _out_of_reach(chain: HostChain) -> str:
    return (
        f"chain {' '.join(chain)} is out of reach: what it drops, openme cannot let in (firewalld: set"
        " NftablesTableOwner=no)"
    )


def _kernel_refresh(release: str) -> Refresh:
    """What the kernel of this release (`uname -r`) can do; the way that works everywhere if it cannot be told."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return "expires" if match and (int(match[1]), int(match[2])) >= EXPIRES_SINCE else "replace"


def _libnftables() -> Any:  # noqa: ANN401  # the binding has no types
    """A handle on libnftables. FirewallError with the cure when it is not installed."""
    if nftables is None:
        raise FirewallError("the python package pip-nftables is missing", "install it: pip install pip-nftables")
    try:
        # Tried first, as the binding's own destructor complains on stderr when its constructor has failed.
        ctypes.CDLL(LIBRARY)
        return nftables.Nftables(sofile=LIBRARY)
    except (OSError, AttributeError) as error:
        hint = "install it: apt-get install libnftables1"
        raise FirewallError(f"the library {LIBRARY} cannot be used", hint) from error


def _refusal(errors: str) -> FirewallError:
    """What libnftables said, as one line."""
    match = _FAILURE.search(errors)
    said = match[1] if match else errors.strip().partition("\n")[0]
    hint = None
    if "not permitted" in said:
        hint = "run it as root, or give it CAP_NET_ADMIN"
    elif "not supported" in said or "No such file" in said:
        hint = "openme needs a kernel with nf_tables, nft_ct and connection labels (CONFIG_NF_CONNTRACK_LABELS)"
    return FirewallError(f"the firewall refused the rules: {said or 'no reason given'}", hint)


def _ruleset_changes() -> RulesetChanges | None:
    """None without the privilege, which whatever is asked of the firewall next will say, with the cure."""
    try:
        return RulesetChanges()
    except FirewallError:
        return None
