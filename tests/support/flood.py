"""Floods from forged addresses: frames made beforehand, sent by a process of its own straight to the wire.

    with flood(world, payloads, sources=10_000) as running:
        world.knock(alice)
    assert running.sent > 50_000

Bounded in time, also when nobody ends it. Nothing ever answers the forged addresses, so that only the server's side of
the cable sees them.
"""

import json
import secrets
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v1, v2
from openme.wire.knock import Knock
from support.claims import ClaimsWorld
from support.netns import Namespace, until
from support.server import KNOCK_PORT, SERVER, STRANGER, ServerWorld
from support.shaped import shaped

MOST_SECONDS = 8
FORGED = 0xC6120000  # 198.18.0.0/15, for benchmarks (RFC 2544): 131,072 addresses
KINDS = ("noise", "shaped", "copies", "sealed")

_SENDER = """
import json, signal, socket, sys, time
path, device, seconds, rate = json.loads(sys.argv[1])
data = open(path, "rb").read()
size = int.from_bytes(data[:4], "big")
frames, at = [], 4
while at < len(data):
    size = int.from_bytes(data[at:at + 4], "big")
    frames.append(data[at + 4:at + 4 + size])
    at += 4 + size
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((device, 0))
going = True
def end(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, end)
sent, started = 0, time.monotonic()
send = wire.send
while going and (now := time.monotonic()) < started + seconds:
    if rate and sent > (now - started) * rate:
        time.sleep(0.001)
        continue
    for number in range(sent, sent + 64):
        try:
            send(frames[number % len(frames)])
        except OSError:
            pass
    if not sent:
        print("ready", flush=True)
    sent += 64
print(json.dumps([sent, time.monotonic() - started]), flush=True)
"""


@dataclass
class Flood:
    """What was sent, known when it is over."""

    sent: int = 0
    seconds: float = 0

    @property
    def rate(self) -> float:
        return self.sent / self.seconds


def payloads(world: ClaimsWorld, kind: str, copied: bytes, count: int = 2000) -> list[bytes]:
    """Noise, packets that begin like a knock, copies of a real one, or knocks sealed with the public key alone."""
    if kind == "noise":
        return [secrets.token_bytes(secrets.randbelow(400)) for _ in range(count)]
    if kind == "shaped":
        return [shaped() for _ in range(count)]
    if kind == "copies":
        return [copied]
    return sealed(world, count)


def sealed(world: ClaimsWorld, count: int) -> list[bytes]:
    """Knocks by whoever holds the server's public keys, but no client's.

    Under version 1 nothing but the search through all clients tells them; under version 2 they bear a client's key id,
    so that its signature has to be checked.
    """
    if world.wire == 2:
        return [_sealed_v2(world) for _ in range(count)]
    server = crypto_scalarmult_base(world.private_key())
    assert crypto_scalarmult(world.private_key(), server)
    nobody = ClientPrivateKey(secrets.token_bytes(32))
    return [
        v1.seal(
            server,
            nobody,
            Knock(time.time_ns(), secrets.token_bytes(16), None),
            ephemeral_private=secrets.token_bytes(32),
            aead_nonce=secrets.token_bytes(12),
        )
        for _ in range(count)
    ]


def _sealed_v2(world: ClaimsWorld) -> bytes:
    profile = world.profile(world.alice)
    assert profile.epoch_keys is not None
    assert profile.public_key is not None
    nobody = ClientPrivateKey(secrets.token_bytes(32))
    epoch_public = profile.epoch_keys.keys[0]
    representative, secret = v2.new_ephemeral()
    schedule = v2.ephemeral_schedule(secret, epoch_public, representative)
    knock = Knock(time.time_ns(), secrets.token_bytes(16), None)
    plaintext = v2.plaintext_of(knock, nobody, profile.public_key, epoch_public, representative)
    return v2.assemble(representative, schedule, epoch_public, plaintext)


@contextmanager
def flood(
    world: ServerWorld, datagrams: Sequence[bytes], *, sources: int = 8192, source: str | None = None, rate: int = 0
) -> Iterator[Flood]:
    """Send these over and over, from forged sources or as if from `source`, as fast as it goes or so many a second."""
    path = world.folder / f"frames-{secrets.token_hex(4)}"
    to, own = (_mac(host) for host in (world.server, world.stranger))
    with path.open("wb") as file:
        file.write(bytes(4))
        for number in range(max(sources, len(datagrams)) if source is None else len(datagrams)):
            address = socket.inet_aton(source) if source else (FORGED + number % sources).to_bytes(4, "big")
            frame = to + own + b"\x08\x00" + _ip(address, datagrams[number % len(datagrams)], 1024 + number % 60000)
            file.write(len(frame).to_bytes(4, "big") + frame)
    world.server.run("ip", "route", "replace", "default", "via", STRANGER[4])
    arguments = json.dumps([str(path), "eth0", MOST_SECONDS, rate])
    process = world.stranger.popen(sys.executable, "-c", _SENDER, arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    running = Flood()
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        line = process.stdout.readline()
        process.wait(10)
        path.unlink()
    running.sent, running.seconds = json.loads(line)


def _mac(host: Namespace) -> bytes:
    text = host.run("cat", "/sys/class/net/eth0/address")
    return bytes.fromhex(text.strip().replace(":", ""))


def _ip(source: bytes, payload: bytes, port: int) -> bytes:
    udp = struct.pack("!HHHH", port, KNOCK_PORT, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + source
    head += socket.inet_aton(SERVER[4])
    total: int = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = 0xFFFF - ((total & 0xFFFF) + (total >> 16))
    return head[:10] + check.to_bytes(2, "big") + head[12:] + udp


def resident(pid: int) -> int:
    """Memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")


def tries_until_in(
    world: ServerWorld,
    profile: Path,
    name: str,
    most: int = 20,
    *,
    wait: float = 1.0,
    source: str | None = None,
    host: Namespace | None = None,
) -> int:
    """How many knocks, each after `wait` seconds without success, a client needs; most + 1 if all are in vain."""
    before = world.log().count(f" {name}: opened ")
    for number in range(1, most + 1):
        world.send(world.packet(profile), source=source, host=host)
        try:
            until(lambda: world.log().count(f" {name}: opened ") > before, wait)
        except AssertionError:
            continue
        return number
    return most + 1
