"""How long doors are still open by the kernel's own count, which no load of the machine can make wrong."""

import re

from support.netns import Namespace, until

_SET = re.compile(r"set v[46]_\w+ \{(.*?)\n\t\}", re.DOTALL)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds_left(host: Namespace) -> list[float]:
    """The remaining seconds of every door that the kernel holds open; empty without a table."""
    table = host.run("nft", "list", "table", "inet", "openme", check=False)
    return [
        sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[dhms])", words))
        for elements in _SET.findall(table)
        for words in re.findall(r" expires (\w+)", elements)
    ]


def until_shut(host: Namespace, at_most: float) -> None:
    """Wait until the kernel has ended every door. None has more than `at_most` seconds to live."""
    assert max(seconds_left(host), default=0) <= at_most
    until(lambda: not seconds_left(host), at_most + 30)  # it ends them by itself, however busy we are
