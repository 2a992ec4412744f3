"""What the keeper asks of a firewall: a protocol that nft and memory fulfil alike (tests/contract)."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Protocol

from openme.errors import OpenmeError
from openme.ports import PortRange

IPAddress = IPv4Address | IPv6Address
HiddenAs = Literal["drop", "reject"]
MAX_SECONDS = 366 * 24 * 3600


class FirewallError(OpenmeError):
    """The firewall refused: nothing of what was asked has happened. One line for the operator, with a cure."""


@dataclass(frozen=True, slots=True)
class PortList:
    """A list of ports that opens as one. `ports` is in the canonical form of `ports.merged`.

    `single_use`: the first new connection from an address takes that address's door away (in the kernel).
    """

    ports: tuple[PortRange, ...]
    single_use: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """All that is static in the firewall: a function of the config, compared and applied as a whole.

    `hidden`: managed ports that are dropped or rejected for everybody without a door.
    `port_lists`: every list that a door can be opened for. `interface`: None for all. `interface_indexes`: devices that
    count as that interface whatever they are called now.
    """

    knock_port: int
    open_knock_port: bool
    hidden: tuple[PortRange, ...]
    hidden_as: HiddenAs
    hide_udp_errors: bool
    interface: str | None
    port_lists: frozenset[PortList]
    interface_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Door:
    """`port_list` is open for `address` for another `seconds` (above zero, to the millisecond)."""

    port_list: PortList
    address: IPAddress
    seconds: float


def check_door(door: Door) -> None:
    """FirewallError unless the door's time is one that a firewall can count."""
    if not 0 < door.seconds <= MAX_SECONDS:
        raise FirewallError(f"a door opens for more than 0 and at most {MAX_SECONDS} seconds")


def unknown_port_list() -> FirewallError:
    """For a door whose port list has no rule."""
    return FirewallError("no rule for this port list: apply rules that have it first")


class Firewall(Protocol):
    """Doors are keyed by (port list, address); opening one that is open sets its remaining time afresh.

    Every method but `cut` is one transaction: done as a whole, or FirewallError and nothing happened.
    """

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

    def cut(self, address: IPAddress, ports: Iterable[PortRange]) -> int:
        """End the established connections from this address to these ports that a door has let in; how many.

        Close the door first, or the client comes straight back. Not one transaction: after a FirewallError some may
        be ended, and cutting again is safe.
        """

    def doors(self) -> list[Door]:
        """The doors that are open at this moment, asked of the kernel itself."""

    @property
    def changes(self) -> socket.socket | None:
        """Readable when somebody has changed the host's ruleset; None for a firewall that nobody else can change."""

    def has_changed(self) -> bool:
        """Read what `changes` has to say: whether rules were touched, and not only people."""

    def intact(self) -> bool:
        """Whether all that `start` made is still there."""

    def stop(self) -> None:
        """Remove exactly what `start` made, here and in the host's own chains; no error if nothing is there."""
