"""The hosts on which everything is measured, and openme's server on one of them.

The namespaces of tests/support/server.py, and beside them a direct cable, on which knocks and floods come:

    client                                                        server
    eth1 198.51.100.2, 10.0.0.0/8 ---------------- 198.51.100.1 eth1
"""

import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Self

from bench.crowd import Crowd
from bench.subject import Subject
from openme.config.server import load_server_config
from openme.keeper.ratchet_file import read_ratchet
from openme.keys.x25519 import public_key_of
from openme.wire.base import Keys, Version
from support.netns import Namespace, connect, until, v4
from support.server import KNOCK_PORT, ServerWorld

PEER = v4(1, 1)
"""The server's end of the direct cable."""
OUTSIDE = v4(2, 1)
"""The client's end."""
OWN = IPv4Network("10.0.0.0/8")
"""Further addresses of the client."""
BLOCK = IPv4Address("10.9.0.0")
"""The first of those that are counted from; a million are free from here on."""
DISK = Path("/var/tmp")  # noqa: S108  # a folder of our own in it; /tmp may be no disk, so that a sync costs nothing
OPEN_FOR = "1h"
_OPENED = rb": opened [^\n]*? for ([0-9.]+)"
_START_SECONDS = 120.0
_IP_PKTINFO = 8


class World(ServerWorld):
    """A server with a crowd of clients. It is started by `start`."""

    DIRECT = "eth1"

    def __init__(self, stack: ExitStack, folder: Path, crowd: Crowd, **settings: object) -> None:
        """`settings`: keys of `server:` in the config."""
        super().__init__(stack, folder, **{"knock_timeout": OPEN_FOR, **settings})
        self.crowd = crowd
        connect(self.server, self.client, self.DIRECT, 1)
        # Where forged sources would be, and the client's further addresses.
        self.server.run("ip", "route", "replace", "default", "via", OUTSIDE)
        self.client.run("ip", "route", "add", "local", str(OWN), "dev", "lo")
        self.write_config(self.config.read_text().replace("clients: {}\n", f"clients:\n{crowd.text()}"))

    def serve_openme(self) -> Subject:
        """Start the server and wait until it serves."""
        self.begin(log_level="info")
        until(self._serves, _START_SECONDS)
        return self.subject()

    def subject(self) -> Subject:
        """The running server, as something that is measured."""
        assert self.process is not None
        return Subject("openme", self, KNOCK_PORT, self.process.pid, self.log_path, _OPENED)

    def clear(self) -> None:
        """End the server, and leave the hosts as they were before it."""
        self.kill()
        self.server.nft("flush ruleset")

    def server_key(self, version: Version) -> bytes:
        """The public key that knocks of this version are sealed for now."""
        if version.keys is not Keys.EPOCH:
            return public_key_of(load_server_config(self.without_clients()).private_key.raw)
        ratchet = read_ratchet(self.state_dir)
        assert ratchet is not None, "the server has no epoch keys"
        return ratchet.public_key(int(time.time()) // ratchet.length)

    def without_clients(self) -> Path:
        """The config with nobody in it, which is quicker to read."""
        text = self.config.read_text()
        beside = self.folder / "nobody.yaml"
        beside.touch(mode=0o600)
        beside.write_text(text[: text.index("\nclients:")] + "\nclients: {}\n")
        return beside

    def address_of(self, host: Namespace) -> bytes:
        """The Ethernet address of a host's end of the direct cable."""
        return bytes.fromhex(host.run("cat", f"/sys/class/net/{self.DIRECT}/address").strip().replace(":", ""))

    def doors(self) -> int:
        """How many elements the sets of openme's table have, as the kernel lists them."""
        return self.server.run("nft", "list", "table", "inet", "openme").count(" expires ")


@contextmanager
def world(clients: int, **settings: object) -> Iterator[World]:
    """The hosts, and a server with so many clients that is yet to be started, with its state on a real disk."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=DISK)))
        yield World(stack, folder, Crowd(clients), **settings)


class Sender:
    """A socket on the client that knocks from any address of its own."""

    def __init__(self, subject: Subject) -> None:
        self._socket = subject.world.socket_on(subject.world.client, socket.SOCK_DGRAM)
        self._to = (PEER, subject.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packet: bytes, source: IPv4Address | None = None) -> None:
        """One datagram, with this source (ip(7), IP_PKTINFO) or the cable's."""
        if source is None:
            self._socket.sendto(packet, self._to)
            return
        information = struct.pack("=I4s4s", 0, source.packed, bytes(4))
        self._socket.sendmsg([packet], [(socket.IPPROTO_IP, _IP_PKTINFO, information)], 0, self._to)
