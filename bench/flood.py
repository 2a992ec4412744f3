"""Does a client get in while others flood the knock port from forged addresses? Per kind of flood, side by side.

    sudo .venv/bin/python bench/flood.py [CLIENTS]

Three hosts in network namespaces of their own (tests/support/server.py draws them). `known` knocks from an address that
it knocked from before, `new` from one that nobody has used; a knock counts as answered when the server opens within
a second. CLIENTS (1,000) are registered beside the two.
"""

import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import socket

from support.claims import ClaimsWorld
from support.flood import KINDS, flood, payloads, resident
from support.netns import add_addresses, until, v4
from support.server import CLIENT

KNOCKS = 20
PAUSE = 0.1


def survived(world: ClaimsWorld, names: dict[str, Path]) -> dict[str, float]:
    """The share of each client's knocks that opened."""
    before = {name: world.opened(name) for name in names}
    for number in range(KNOCKS):
        for name, profile in names.items():
            source = CLIENT[4] if name == "alice" else v4(10 + number)
            with closing(world.socket_on(world.client, socket.SOCK_DGRAM, source=source)) as sender:
                sender.sendto(world.packet(profile), ("192.0.2.1", 54154))
        time.sleep(PAUSE)
    time.sleep(1)
    return {name: (world.opened(name) - before[name]) / KNOCKS for name in names}


def main() -> None:
    """Measure and print."""
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        world = ClaimsWorld(stack, Path(folder))
        world.populate(2)
        world.crowd(clients)
        for number in range(KNOCKS):
            add_addresses(world.client, 10 + number)
        world.start(log_level="info")
        copied = world.assert_opens(world.alice)
        print(f"{'flood':8} {'packets/s':>10} {'known in':>9} {'new in':>7} {'growth, MiB':>12}")
        for kind in ("none", *KINDS):
            world.kill()
            world.server.nft("flush ruleset")
            world.start(log_level="info")
            world.send(world.packet(world.alice))
            until(lambda: world.opened("alice"))
            names = {"alice": world.alice, "bob": world.bob}
            if kind == "none":
                shares, rate, growth = survived(world, names), 0.0, 0.0
            else:
                before = sum(map(resident, world.pids()))
                with flood(world, payloads(world, kind, copied)) as running:
                    shares = survived(world, names)
                rate = running.rate
                growth = (sum(map(resident, world.pids())) - before) / 1024
            print(f"{kind:8} {rate:10,.0f} {shares['alice']:9.0%} {shares['bob']:7.0%} {growth:12.1f}", flush=True)


main()
