"""Ports as people write them (`22/tcp`, `80`, `8080-8090/udp`) and as firewalls need them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from openme.max_port import MAX_PORT

Protocol = Literal["tcp", "udp"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_SPEC = re.compile(r" *([0-9]{1,5})(?: *- *([0-9]{1,5}))?(?: */ *(tcp|udp))? *", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """The ports `first` to `last`, both included, of one protocol. A single port has `first == last`."""

    proto: Protocol
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= MAX_PORT:
            raise ValueError(f"ports run from 1 to {MAX_PORT}, the smaller one first")

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.proto}"


def port(proto: Protocol, number: int) -> PortRange:
    """A range of one port."""
    return PortRange(proto, number, number)


def parse_port_spec(text: str) -> tuple[PortRange, ...]:
    """The ranges of one written spec: one, or two (TCP, then UDP) where no protocol is named.

    Also as existing tools write them: `22/TCP`, `8080 - 8090/tcp`. ValueError if malformed.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError("expected a port such as 22/tcp, 53/udp, 80 or 8080-8090/tcp")
    first, last, proto = match.groups()
    protocols = PROTOCOLS if proto is None else tuple(p for p in PROTOCOLS if p == proto.lower())
    return tuple(PortRange(p, int(first), int(last or first)) for p in protocols)


def merged(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports, sorted by protocol and number, with overlapping and adjacent ranges joined.

    Two lists that open the same ports become equal, which lets a firewall keep one set of people for both.
    """
    result: list[PortRange] = []
    for item in sorted(ranges):
        if result and result[-1].proto == item.proto and item.first <= result[-1].last + 1:
            if item.last > result[-1].last:
                result[-1] = PortRange(item.proto, result[-1].first, item.last)
        else:
            result.append(item)
    return tuple(result)


def without(ranges: Iterable[PortRange], taken: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The ports of `ranges` that are not in `taken`, in the form of `merged`: a range may come out in pieces."""
    left = list(merged(ranges))
    for gap in merged(taken):
        pieces: list[PortRange] = []
        for item in left:
            if item.proto != gap.proto or item.last < gap.first or gap.last < item.first:
                pieces.append(item)
                continue
            if item.first < gap.first:
                pieces.append(PortRange(item.proto, item.first, gap.first - 1))
            if gap.last < item.last:
                pieces.append(PortRange(item.proto, gap.last + 1, item.last))
        left = pieces
    return tuple(left)


def common(ranges: Iterable[PortRange], others: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The ports that are in both, in the form of `merged`."""
    ranges = merged(ranges)
    return without(ranges, without(ranges, others))
