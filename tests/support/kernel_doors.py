"""How long doors are still open by the kernel's own count, which no load of the machine can make wrong."""

import re

from openme.firewall.base import PortList
from openme.firewall.nftables_rules import set_names
from openme.ports import parse_port_spec
from support.netns import Namespace, until

_DOORS = set_names(PortList(parse_port_spec("22/tcp")))  # the port that nearly every test knocks for
_SETS = re.compile(rf"set (?:{_DOORS.v4}|{_DOORS.v6}) {{(.*?)\n\t}}", re.DOTALL)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds_left(host: Namespace) -> list[float]:
    """The remaining seconds of every door to 22/tcp that the kernel holds open; empty without a table."""
    table = host.run("nft", "list", "table", "inet", "openme", check=False)
    return [
        sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[dhms])", words))
        for elements in _SETS.findall(table)
        for words in re.findall(r" expires (\w+)", elements)
    ]


def until_shut(host: Namespace, at_most: float) -> None:
    """Wait until the kernel has ended every door to 22/tcp. None has more than `at_most` seconds to live."""
    assert max(seconds_left(host), default=0) <= at_most
    until(lambda: not seconds_left(host), at_most + 30)  # it ends them by itself, however busy we are
