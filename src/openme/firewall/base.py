"""What the keeper asks of a firewall: a protocol that nft and memory fulfil alike (tests/contract)."""

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, Protocol

from openme.errors import FirewallError as FirewallError  # noqa: PLC0414  # part of what is asked of a firewall
from openme.networks import first_of
from openme.ports import PortRange
from openme.steps import Steps as Steps  # noqa: PLC0414
from openme.steps import T as T  # noqa: PLC0414

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
HiddenAs = Literal["drop", "reject"]
MAX_SECONDS = 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class PortList:
    """A list of ports that opens as one. `ports` is in the canonical form of `ports.merged`.

    `single_use`: the first new connection from an address takes that address's door away (in the kernel).
    `prefix_v4`, `prefix_v6`: its doors are for networks with prefixes of this length; full: each for one address.
    ValueError for networks of single use: one of many hosts would take the door of all.
    """

    ports: tuple[PortRange, ...]
    single_use: bool = False
    prefix_v4: int = 32
    prefix_v6: int = 128
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.single_use and self.is_for_networks:
            raise ValueError("a door of single use is for one address")
        # A knock's doors are looked up by it a dozen times.
        object.__setattr__(self, "_hash", hash((self.ports, self.single_use, self.prefix_v4, self.prefix_v6)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_for_networks(self) -> bool:
        """Whether a door of this list is for more than one address."""
        return (self.prefix_v4, self.prefix_v6) != (32, 128)

    def prefix(self, version: int) -> int:
        """The length of the prefixes of its doors' networks, for this IP version."""
        return self.prefix_v4 if version == 4 else self.prefix_v6


@dataclass(frozen=True, slots=True)
class Rules:
    """All that is static in the firewall: a function of the config, compared and applied as a whole.

    `hidden`: managed ports that are dropped or rejected for everybody without a door.
    `port_lists`: every list that a door can be opened for. `interface`: None for all. `hide_udp_errors`: unused UDP
    ports are as silent as hidden ones. `always_open_from`: for these networks nothing is hidden but `always_hidden`;
    whether they get in is for the host's own rules to say. `interface_indexes`: devices that
    count as the interface whatever they are called now.
    """

    knock_port: int
    open_knock_port: bool
    hidden: tuple[PortRange, ...]
    hidden_as: HiddenAs
    hide_udp_errors: bool
    interface: str | None
    port_lists: frozenset[PortList]
    always_open_from: tuple[IPNetwork, ...] = ()
    always_hidden: tuple[PortRange, ...] = ()
    interface_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Door:
    """`port_list` is open for `address` for another `seconds` (above zero, to the millisecond).

    Where the list's doors are for networks: for the network that begins with `address`.
    """

    port_list: PortList
    address: IPAddress
    seconds: float


@dataclass(frozen=True, slots=True)
class CutTarget:
    """What a door has let in from `address` to `ports` is to end: UDP exchanges and TCP handshakes under way, and the
    established TCP connections too where `established` says so. With a `network`: from everywhere in it.
    """

    address: IPAddress
    ports: tuple[PortRange, ...]
    established: bool = False
    network: IPNetwork | None = None


class LockScope(Enum):
    """What one server at a time may have the firewall of."""

    NONE = auto()
    NETWORK_NAMESPACE = auto()


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a kind of firewall does beyond the protocol, as far as somebody asks. Nothing, for one that is in memory.

    `lets_in`: its doors let packets in; one that does not is a dry run. `needs_net_admin`: whoever changes it needs
    CAP_NET_ADMIN. `stays`: its rules outlive the server, who must take them away, or somebody in its place.
    `tracks_connections`: its rules rest on the kernel's connection tracking. `among_host_rules`: it stands among the
    host's own netfilter rules, which may send packets elsewhere, and where an existing server may have left some.
    """

    lets_in: bool = False
    needs_net_admin: bool = False
    lock: LockScope = LockScope.NONE
    stays: bool = False
    tracks_connections: bool = False
    among_host_rules: bool = False


IsOpen = Callable[[IPAddress, PortRange], bool]


def nowhere(_address: IPAddress, _service: PortRange) -> bool:
    """Nobody has an open door for this address to this port."""
    return False


def check_door(door: Door) -> None:
    """FirewallError unless the door's time is one that a firewall can count, and its address begins a network."""
    if first_of(door.address, door.port_list.prefix(door.address.version)) != door.address:
        raise FirewallError(f"{door.address} is not the first address of a network that this port list can open for")
    if not 0 < door.seconds <= MAX_SECONDS:
        raise FirewallError(f"a door opens for more than 0 and at most {MAX_SECONDS} seconds")


def unknown_port_list() -> FirewallError:
    """For a door whose port list has no rule."""
    return FirewallError("no rule for this port list: apply rules that have it first")


class Firewall(Protocol):
    """Doors are keyed by (port list, address); opening one that is open sets its remaining time afresh.

    Every method but `cut` is one transaction: done as a whole, or FirewallError and nothing happened.
    """

    def is_there(self) -> bool:
        """Whether rules of ours are in the firewall, of this run or of an earlier one."""

    def start(self, rules: Rules) -> None:
        """Put the rules in force; take over what an earlier run left, open doors with their remaining time."""

    def apply(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        """Change the rules in force; doors whose port list still exists stay open.

        The given doors, whose port lists are in the new rules, are opened in the same transaction, or their remaining
        time is set afresh: whoever moves from one port list to another notices nothing.
        """

    def open(self, doors: Iterable[Door]) -> None:
        """Open doors, or set their remaining time afresh (longer or shorter), without a gap for those open already."""

    def close(self, doors: Iterable[tuple[PortList, IPAddress]]) -> None:
        """Close doors now; ones that are already shut are no error."""

    def cut(self, targets: Iterable[CutTarget], is_open: IsOpen = nowhere) -> Steps[Mapping[IPAddress, int]]:
        """End what doors have let in, for all targets at once; returns how many connections ended, by address.

        Close the doors first, or the clients come straight back. `is_open` tells the addresses and ports for which
        somebody has an open door all the same: what comes in there while this is under way is left alone. One cut at a
        time; not one transaction: after a FirewallError, or where it is given up between two steps, some may be ended,
        and cutting again is safe.
        """

    def doors(self) -> list[Door]:
        """The doors that are open at this moment, asked of the kernel itself."""

    @property
    def changes(self) -> socket.socket | None:
        """Readable when somebody has changed the host's ruleset; None for a firewall that nobody else can change."""

    def has_changed(self) -> bool:
        """Read what `changes` has to say: whether rules were touched, and not only people."""

    def intact(self) -> bool:
        """Whether all that `start` made is still there; if not, `damage` says what has happened."""

    @property
    def damage(self) -> str:
        """What `intact` has found to be missing, in a few words for the log."""

    def adapt(self) -> None:
        """Follow what has changed around the firewall and is nobody's change of rules. Called often: it costs nothing
        where nothing has changed, and logs what it cannot do.
        """

    @property
    def surroundings(self) -> socket.socket | None:
        """Readable until `adapt` is called, when that may have something to follow; None where nothing tells."""

    @property
    def adapts_every(self) -> float:
        """Seconds between two calls of `adapt` for what nothing tells of; `inf` where `surroundings` tell of all."""

    def stop(self) -> None:
        """Remove exactly what `start` made, here and in the host's own chains; no error if nothing is there."""
