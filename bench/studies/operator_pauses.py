"""How long does what an operator can start keep knocks waiting? The keeper's own loop on the kernel's firewall.

    sudo .venv/bin/python -m bench.studies.operator_pauses [COUNT[/CLIENTS] ...]

For each COUNT (1,000 and 20,000): so many clients of whom each has one door open, one client more who has as many open
alone, and as many entries of other people in the connection table; CLIENTS: so many in the file. A pause is the time
between two turns of the loop; the longest one between asking and the end of all that follows is printed, by the
processor's time (which other programs on the machine do not lengthen) and by the clock, and what the whole took.
Everything happens in a network namespace.
"""

import logging
import mmap
import os
import re
import selectors
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bench.crowd import Crowd
from openme.clocks import read_clocks
from openme.control import serving
from openme.firewall.nft import NftFirewall
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.policy import client_lists
from openme.keeper.rules import rules_for
from openme.keys.x25519 import ServerPrivateKey
from openme.netlink.conntrack import connection_table, established_entry
from openme.seam.channel import channel
from openme.server.config_watch import ConfigWatch
from openme.server.epoch_keys import open_epochs
from openme.server.keeper_process import KeeperProcess, Parts
from openme.store.base import Claim, Holder
from openme.store.sqlite import MOST_HOLDERS, SqliteStore
from openme.wire.knock import Knock
from support.control import asked
from support.netns import namespace

COUNTS = (1_000, 20_000)
LONG = 3600.0  # seconds that doors stay open
QUIET = 1.2  # seconds without work after which a command is over
_DOUBLES = struct.Struct("ddd")  # longest turn by the clock, by the processor's time; the moment of the last work


def _tell(pipe: int) -> None:
    os.write(pipe, b"1")


class Watched:
    """The selector of a loop, which notes how long the loop was away from it."""

    def __init__(self, selector: selectors.BaseSelector, shared: mmap.mmap) -> None:
        self._selector = selector
        self._shared = shared
        self._since = time.monotonic(), time.thread_time()

    def select(self, timeout: float) -> object:
        """Note the turn that has ended, then wait."""
        now = time.monotonic()
        longest, most, worked = _DOUBLES.unpack_from(self._shared)
        away, busy = now - self._since[0], time.thread_time() - self._since[1]
        # A look at the clock and the grants twice a second is no work.
        worked = now if timeout == 0 or busy > 0.03 else worked
        _DOUBLES.pack_into(self._shared, 0, max(longest, away), max(most, busy), worked)
        try:
            return self._selector.select(timeout)
        finally:
            self._since = time.monotonic(), time.thread_time()

    def __getattr__(self, name: str) -> object:
        return getattr(self._selector, name)


def server_file(state_dir: Path, count: int, ports: str = "22/tcp") -> str:
    """`count` clients and `wide`, all of the default ports."""
    head = [
        "server:",
        f"  private_key: {ServerPrivateKey(bytes([7]) * 32).to_base64()}",
        f"  state_dir: {state_dir}",
        "  drop_ports: true",
        f"  knock_timeout: {LONG:.0f}s",
        "ports:",
        f"  default: [{ports}]",
        "clients:",
    ]
    text = "".join(f"{line}\n" for line in head)
    entries = [f"  user{i}:\n    ed25519_pubkey: {Crowd.key(i).public}\n" for i in range(1, count + 1)]
    return text + "".join(entries) + f"  wide:\n    ed25519_pubkey: {Crowd.key(0).public}\n"


def _write(path: Path, text: str) -> None:
    """Put another file in the config's place."""
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)


def fill_table(count: int) -> None:
    """Other people's entries in the connection table, half of them of IPv6."""
    requests = []
    for number in range(count):
        six = number % 2
        peer = IPv6Address((0x2001 << 112) + number + 9) if six else IPv4Address((10 << 24) + number)
        local = IPv6Address("2001:db8::1") if six else IPv4Address("192.0.2.1")
        requests.append(established_entry((local.packed, b"\0\x16", peer.packed, b"\x9c\x40")))
    with closing(connection_table()) as table:
        table.request(requests)


class World:
    """A keeper in a child process, and what is needed to ask it."""

    def __init__(self, stack: ExitStack, count: int, clients: int) -> None:
        self.count = count
        self.clients = clients
        self.host = namespace(stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o700)
        self.config = folder / "config.yaml"
        _write(self.config, server_file(self.state_dir, clients))
        self._shared = mmap.mmap(-1, _DOUBLES.size)
        listener, self._ours = channel()
        self._control = serving.listen(self.state_dir)
        ready, say_ready = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                logging.basicConfig(filename=folder / "log", level=logging.INFO)
                self._serve(folder, say_ready)
            except BaseException:
                logging.getLogger("bench").exception("the keeper has ended")
                raise
            finally:
                os._exit(0)
        os.close(say_ready)
        stack.callback(listener.close)
        stack.callback(self._end)
        if not os.read(ready, 1):
            raise SystemExit((folder / "log").read_text())

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._child, 9)
        os.waitpid(self._child, 0)

    def _serve(self, folder: Path, say_ready: int) -> None:
        with self.host.entered():
            firewall = NftFirewall()
            fill_table(self.count)
        watch = ConfigWatch(self.config)
        store = SqliteStore(self.state_dir)
        store.load(60 * 10**9, time.time_ns())
        keeper = Keeper(watch.config, lambda _: False)
        keeper.epochs = open_epochs(watch.config, store, read_clocks())
        firewall.start(rules_for(watch.config))
        parts = Parts(
            keeper, store, firewall, watch, Journal(), self._ours, self._control, state_file=folder / "sessions.json"
        )
        self._open_doors(parts)
        process = KeeperProcess(parts)
        process.loop.selector = Watched(process.loop.selector, self._shared)  # type: ignore[assignment]
        process.run(lambda: _tell(say_ready))

    def _open_doors(self, parts: Parts) -> None:
        now = read_clocks()
        clients = parts.keeper.config.clients
        grants, accepted = [], []
        for number in range(2 * self.count):
            client = clients[f"user{number + 1}" if number < self.count else "wide"]
            address = IPv4Address((11 << 24) + number) if number % 2 else IPv6Address((0x20010DB8 << 96) + number)
            lists = client_lists(client, parts.keeper.config.health_port)
            key = client.public_key.raw
            grant = Grant(
                key, client.name, address, client.ports, lists, now.unix, now.unix + LONG, now.monotonic + LONG
            )
            grants.append(grant)
            if number >= self.count + MOST_HOLDERS:
                continue  # as many as one client's doors are remembered
            holder = Holder(key, address, client.name, client.ports, now.unix, now.unix + LONG)
            # So far apart that the replay memory takes as many of one client.
            knock = Knock(now.unix_ns - (2 * self.count - number) * 10**9, number.to_bytes(16, "big"), None)
            accepted.append(Claim(key, knock, address, client.name, now.unix, holder))
        for start in range(0, len(grants), 1000):
            for grant in grants[start : start + 1000]:
                parts.keeper.grants.add(grant)
            parts.firewall.open(parts.keeper.grants.doors_of(grants[start : start + 1000], now.monotonic).values())
        parts.store.claim(accepted, lambda _: None)

    def ask(self, command: str, **values: object) -> dict[str, object]:
        """A request, as the commands make it."""
        return asked(self.state_dir, command, values, timeout=120)

    def edit(self, text: str) -> None:
        """Another file in the config's place; returns when the keeper has read it."""
        _write(self.config, text)
        time.sleep(0.6)  # it looks twice a second
        while self.ask("reload")["reading"]:
            time.sleep(0.05)

    def text_without(self, name: str) -> str:
        """The file without one client."""
        return re.sub(rf"^  {name}:\n    .*\n", "", self.config.read_text(), flags=re.MULTILINE)

    def measured(self, act: Callable[[], object]) -> tuple[float, float, float]:
        """Seconds of the longest pause by the clock and by the processor's time, and until nothing more is done."""
        self._quiet()
        begin = time.monotonic()
        _DOUBLES.pack_into(self._shared, 0, 0.0, 0.0, begin)
        act()
        self._quiet()
        longest, most, worked = _DOUBLES.unpack_from(self._shared)
        return longest, most, worked - begin

    def _quiet(self) -> None:
        begin = time.monotonic()
        while time.monotonic() - max(begin, _DOUBLES.unpack_from(self._shared)[2]) < QUIET:
            time.sleep(0.05)


def revoke(world: World, name: str, *, cut: bool) -> None:
    """As the command does it: first the file, then the server."""
    _write(world.config, world.text_without(name))
    world.ask("revoke", name=name, cut=cut)


def commands(world: World) -> dict[str, Callable[[], object]]:
    """Everything that an operator can start, in an order in which each finds something to do."""
    return {
        "nothing": lambda: None,
        "sessions": lambda: world.ask("sessions"),
        "list": lambda: world.ask("stored"),
        "reset": lambda: world.ask("reset", name="user3"),
        "ratchet file": lambda: world.ask("ratchet"),
        "new ratchet": lambda: world.ask("new_ratchet"),
        "close": lambda: world.ask("close", name="user4"),
        "close --cut": lambda: world.ask("close", name="user5", cut=True),
        "revoke": lambda: revoke(world, "user6", cut=False),
        "revoke --cut": lambda: revoke(world, "user7", cut=True),
        "the ruleset flushed": lambda: world.host.nft("flush ruleset"),
        "a client out of the file": lambda: world.edit(world.text_without("user8")),
        "other ports for all": lambda: world.edit(server_file(world.state_dir, world.clients, "80/tcp")),
        "close --cut, many doors": lambda: world.ask("close", name="wide", cut=True),
        "all clients out of the file": lambda: world.edit(server_file(world.state_dir, 0)),
    }


def main() -> None:
    """Print a line for each command, a column for each count."""
    words = sys.argv[1:] or [str(count) for count in COUNTS]
    for word in words:
        count, clients = int(word.partition("/")[0]), int(word.rpartition("/")[2])
        print(f"{clients} clients, {count} doors, one client with as many, {count} other connections")
        print("    longest pause:              processor      clock      in all")
        with ExitStack() as stack:
            world = World(stack, count, clients)
            for name, act in commands(world).items():
                longest, most, whole = world.measured(act)
                print(f"    {name:<28}{most * 1000:8.0f} ms {longest * 1000:8.0f} ms {whole:8.2f} s", flush=True)


if __name__ == "__main__":
    main()
