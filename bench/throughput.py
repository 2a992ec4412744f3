"""How many knocks a second does the server accept, with 0, 1,000 and 20,000 doors open? The real server, two hosts.

    sudo .venv/bin/python bench/throughput.py [--doors N ...] [--rates N ...] [--seconds S] [SOURCE ...]

Each SOURCE is a folder that holds a version of the package (default: this one's `src`); they are measured one after
the other in one run, for comparison. Version 2 knocks of many clients are sent at a fixed rate, all made before; the
share that opened, and the processor's time of keeper and listener for each, which other programs on the machine do not
lengthen. The line above says what the arithmetic alone takes (key schedule, opening twice, signature), in this process.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nacl.bindings import crypto_scalarmult_base

from openme.keeper.ratchet_file import read_ratchet
from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v2
from openme.wire.knock import Knock
from support.netns import until
from support.server import KNOCK_PORT, SERVER, ServerWorld

A_CLIENT = 200  # knocks of one client: the replay memory takes 256 within two windows
FILLING = 600  # knocks a second while doors are opened that are not measured
OPEN_FOR = "1h"
MAX_CLIENTS = 500
HOMES, MANY = IPv4Address("172.16.0.1"), IPv4Address("10.0.0.1")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """Of one measurement: the share that opened, microseconds of each process a knock."""

    share: float
    a_second: float
    keeper: float
    listener: float


def spent(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Bench:
    """One server, its clients, and a sender."""

    def __init__(self, stack: ExitStack, folder: Path, source: Path) -> None:
        self.world = ServerWorld(stack, folder, knock_timeout=OPEN_FOR)
        self.keys = [ClientPrivateKey(number.to_bytes(31, "big") + b"\x01") for number in range(MAX_CLIENTS)]
        self.fresh = 0
        lines = "".join(
            f"  user{number}: {{ed25519_pubkey: {key.public}, protocols: [v2]}}\n"
            for number, key in enumerate(self.keys)
        )
        text = self.world.config.read_text()
        text = text.replace("clients: {}\n", "clients:\n", 1).rstrip("\n")
        text += "\n" if "\nclients:" in f"\n{text}\n" else "\nclients:\n"
        self.world.write_config(text + lines)
        self.world.start(log_level="info", prefix=["env", f"PYTHONPATH={source}"])
        ratchet = read_ratchet(self.world.state_dir)
        if ratchet is None:
            raise SystemExit("the server has no epoch keys")
        self.epoch_public = ratchet.public_key(int(time.time()) // ratchet.length)
        self.sender = stack.enter_context(closing(self.world.socket_on(self.world.client, socket.SOCK_DGRAM)))
        self.sender.connect((SERVER[4], KNOCK_PORT))
        self.log = stack.enter_context(self.world.log_path.open())
        self.seen = 0

    def knocks(self, count: int, targets: int | None = None) -> list[bytes]:
        """Knocks of clients that have not knocked yet: each client for an address of its own, or, where `targets` says
        from which on, each knock for another.
        """
        made = []
        for number in range(count):
            client = self.fresh + number // A_CLIENT
            key = self.keys[client]
            target = HOMES + client if targets is None else MANY + targets + number
            knock = Knock(time.time_ns(), os.urandom(16), target)
            made.append(v2.seal(self.epoch_public, key, knock, ephemeral=v2.new_ephemeral())[0])
        self.fresh += -(-count // A_CLIENT)
        return made

    def accepted(self) -> int:
        """How many knocks have opened until now."""
        self.seen += sum(": opened " in line for line in self.log)
        return self.seen

    def send(self, packets: list[bytes], rate: float) -> tuple[int, float]:
        """Send them at this rate. How many opened, and in which time: until nothing has opened for half a second."""
        before = self.accepted()
        began = time.perf_counter()
        for number, packet in enumerate(packets):
            while time.perf_counter() < began + number / rate:
                time.sleep(0.0005)
            self.sender.send(packet)
        last, count = time.perf_counter(), self.accepted()
        while time.perf_counter() < last + 0.5:
            time.sleep(0.02)
            if (now := self.accepted()) != count:
                last, count = time.perf_counter(), now
        return count - before, last - began

    def open_doors(self, have: int, wanted: int) -> None:
        """Have so many doors open beside those of the clients that are measured."""
        while have < wanted:
            part = min(2_000, wanted - have)
            done, _ = self.send(self.knocks(part, have), FILLING)
            if done < part * 0.99:
                print(f"    (of {part} doors {done} opened)")
            have += part
        until(lambda: len(self.world.sessions()) >= 0.99 * wanted, 30)

    def measure(self, rate: int, seconds: float) -> Figures:
        """Offer knocks at this rate."""
        packets = self.knocks(round(rate * seconds))
        keeper, listener = self.world.pids()[:2]
        before = spent(keeper), spent(listener)
        done, took = self.send(packets, rate)
        used = spent(keeper) - before[0], spent(listener) - before[1]
        return Figures(done / len(packets), done / took, used[0] / done * 1e6, used[1] / len(packets) * 1e6)


def arithmetic() -> float:
    """Microseconds that one knock takes in listener and keeper if nothing is done but what has to be computed."""
    private = os.urandom(32)
    public = crypto_scalarmult_base(private)
    key = ClientPrivateKey(os.urandom(32))
    packet = v2.seal(public, key, Knock(time.time_ns(), os.urandom(16), None), ephemeral=v2.new_ephemeral())[0]
    figures = []
    for _ in range(2_000):
        began = time.perf_counter()
        schedule = v2.schedule_untrusted(packet, private, public)
        v2.check_opens_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
        signed = v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
        if not v2.signed_by(packet, signed, public, key.public):
            raise SystemExit("not signed")
        figures.append(time.perf_counter() - began)
    return statistics.median(figures) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--doors", type=int, nargs="+", default=[0, 1_000, 20_000])
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 4_000])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("source", type=Path, nargs="*", default=[Path(__file__).resolve().parent.parent / "src"])
    asked = parser.parse_args()
    for source in asked.source:
        bare = arithmetic()
        print(f"{source}: the arithmetic alone takes {bare:.0f} µs, {1e6 / bare:,.0f} a second on one core")
        print(f"    {'doors':>7} {'offered/s':>10} {'opened':>7} {'a second':>9} {'keeper':>10} {'listener':>10}")
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, ExitStack() as stack:
            bench = Bench(stack, Path(folder), source.resolve())
            have = 0
            for doors in asked.doors:
                bench.open_doors(have, doors)
                have = doors
                for rate in asked.rates:
                    it = bench.measure(rate, asked.seconds)
                    print(
                        f"    {doors:7,} {rate:10,} {it.share:7.0%} {it.a_second:9,.0f} {it.keeper:7.0f} µs"
                        f" {it.listener:7.0f} µs",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
