"""What reached the host: counters of nftables before everything else in the server's namespace, one a cable."""

import json
from dataclasses import dataclass

from bench.world import World

_RULES = """
table inet arrivals {{
    counter clients {{ }}
    counter strangers {{ }}
    chain before {{
        type filter hook prerouting priority -1000; policy accept;
        iifname "eth0" udp dport {port} counter name clients
        iifname "{direct}" udp dport {port} counter name strangers
    }}
}}
"""


@dataclass(frozen=True)
class Arrived:
    """Datagrams to the knock port."""

    clients: int
    strangers: int

    def __sub__(self, before: "Arrived") -> "Arrived":
        return Arrived(self.clients - before.clients, self.strangers - before.strangers)


def count_arrivals(world: World, port: int) -> None:
    """Begin to count, or begin anew."""
    world.server.nft("add table inet arrivals\ndelete table inet arrivals" + _RULES.format(port=port, direct=world.DIRECT))


def arrived(world: World) -> Arrived:
    """Until now."""
    listed = json.loads(world.server.run("nft", "-j", "list", "counters", "table", "inet", "arrivals"))["nftables"]
    packets = {one["counter"]["name"]: one["counter"]["packets"] for one in listed if "counter" in one}
    return Arrived(packets["clients"], packets["strangers"])
