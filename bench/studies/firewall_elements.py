"""What one door costs: our netlink messages, libnftables on a kept handle, and one `nft` process per change.

Root is needed; everything happens in a network namespace of its own. Compare the ratios: absolute figures belong to
one machine. `--host-elements N` puts a set of N addresses of somebody else's beside ours, as blocklists do.

    usage: .venv/bin/python -m bench.studies.firewall_elements [--host-elements N]
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address

import nftables

from openme.firewall.base import Door, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.firewall.nftables_rules import TABLE, set_names
from openme.ports import parse_port_spec
from support.netns import namespace

SSH = PortList(parse_port_spec("22/tcp"))
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=SSH.ports,
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH}),
)
SET = f"inet {TABLE} {set_names(SSH).v4}"
FIRST = int(ip_address("203.0.113.0"))

Act = Callable[[str], object]


def microseconds(act: Act, times: int) -> float:
    """Median over different addresses."""
    taken = []
    for number in range(times):
        address = str(ip_address(FIRST + number))
        begin = time.perf_counter()
        act(address)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e6


def commands(run: Callable[[str], object]) -> list[Act]:
    """Add, refresh (in one transaction) and delete as nft text."""
    return [
        lambda a: run(f"add element {SET} {{ {a} timeout 60s }}"),
        lambda a: run(
            f"add element {SET} {{ {a} }}; delete element {SET} {{ {a} }}; add element {SET} {{ {a} timeout 60s }}"
        ),
        lambda a: run(f"delete element {SET} {{ {a} }}"),
    ]


def ours(firewall: NftFirewall) -> list[Act]:
    """Add, refresh and delete as the keeper does them."""
    return [
        lambda a: firewall.open([Door(SSH, ip_address(a), 60)]),
        lambda a: firewall.open([Door(SSH, ip_address(a), 60)]),
        lambda a: firewall.close([(SSH, ip_address(a))]),
    ]


def batched(firewall: NftFirewall) -> float:
    """Microseconds per door when 1000 open at once."""
    crowd = [Door(SSH, ip_address(FIRST + number), 60) for number in range(1000)]
    begin = time.perf_counter()
    firewall.open(crowd)
    taken = time.perf_counter() - begin
    firewall.close((door.port_list, door.address) for door in crowd)
    return taken * 1e6 / len(crowd)


def measure() -> None:
    """Print the table."""
    kernel = NftFirewall()
    kernel.start(RULES)
    library = nftables.Nftables()

    def in_library(text: str) -> None:
        code, _, errors = library.cmd(text)
        if code != 0:
            raise RuntimeError(errors)

    def in_process(text: str) -> None:
        # Already in the namespace, so that what is measured is nft and not `ip netns exec`.
        subprocess.run(["nft", text], check=True)

    base = [microseconds(act, 250) for act in ours(kernel)]
    rows = [
        ("ours, expires", base),
        ("ours, replace", [microseconds(act, 250) for act in ours(_forced())]),
        ("libnftables", [microseconds(act, 50) for act in commands(in_library)]),
        ("nft process", [microseconds(act, 30) for act in commands(in_process)]),
    ]
    print(f"{'':16}{'add':>18}{'refresh':>18}{'delete':>18}   (median µs, times ours)")
    for name, figures in rows:
        cells = (f"{figure:9.0f} {figure / own:7.1f}x" for figure, own in zip(figures, base, strict=True))
        print(f"{name:16}{''.join(cells)}")
    print(f"ours, 1000 doors in one batch: {batched(kernel):.1f} µs a door")


def _forced() -> NftFirewall:
    firewall = NftFirewall(refresh="replace")
    firewall.start(RULES)
    return firewall


def main() -> None:
    """Build the namespace, measure, leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host-elements", type=int, default=0)
    count = parser.parse_args().host_elements
    with ExitStack() as stack:
        host = namespace(stack)
        if count:
            elements = ", ".join(str(ip_address(int(ip_address("10.0.0.0")) + number)) for number in range(count))
            host.nft(
                f"add table inet host\nadd set inet host block {{ type ipv4_addr; elements = {{ {elements} }}; }}\n"
            )
        with host.entered():
            measure()


if __name__ == "__main__":
    main()
