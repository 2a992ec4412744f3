"""What reached the host: counters of nftables before everything else in the server's namespace."""

import json
from dataclasses import dataclass

from bench.world import OUTSIDE, OWN, World

_RULES = """
table inet arrivals {{
    counter clients {{ }}
    counter strangers {{ }}
    chain before {{
        type filter hook prerouting priority -1000; policy accept;
        udp dport {port} ip saddr {{ {own} }} counter name clients return
        udp dport {port} counter name strangers
    }}
}}
"""


@dataclass(frozen=True)
class Arrived:
    """Datagrams to the knock port: from the client's own addresses, and from forged ones."""

    clients: int
    strangers: int

    def __sub__(self, before: "Arrived") -> "Arrived":
        return Arrived(self.clients - before.clients, self.strangers - before.strangers)


def count_arrivals(world: World, port: int) -> None:
    """Begin to count, or begin anew."""
    rules = _RULES.format(port=port, own=f"{OUTSIDE}, {OWN}")
    world.server.nft(f"add table inet arrivals\ndelete table inet arrivals{rules}")


def arrived(world: World) -> Arrived:
    """Until now."""
    listed = json.loads(world.server.run("nft", "-j", "list", "counters", "table", "inet", "arrivals"))["nftables"]
    packets = {one["counter"]["name"]: one["counter"]["packets"] for one in listed if "counter" in one}
    return Arrived(packets["clients"], packets["strangers"])
