"""A server's key, clients and their knocks, built without the product's own client."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import monocypher

from openme.config.model import ServerConfig
from openme.config.server import parse_server_config
from openme.keeper.epochs import Epochs
from openme.keeper.journal import Journal
from openme.keeper.keeper import Judgement, Keeper, Now
from openme.keeper.replay import ReplayMemory
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ratchet import Ratchet
from openme.keys.x25519 import ServerPrivateKey
from openme.listener.listener import Listener
from openme.seam.messages import Order, UseEpochKey, UseV1Key
from openme.wire import v1, v2
from openme.wire.knock import IPAddress, Knock

NS = 10**9
SERVER = ServerPrivateKey(b"\x11" * 32)
ALICE = ClientPrivateKey(b"\xa1" * 32)
BOB = ClientPrivateKey(b"\xb0" * 32)
STRANGER = ClientPrivateKey(b"\x57" * 32)
HOME = IPv4Address("203.0.113.5")
ELSEWHERE = IPv4Address("198.51.100.7")
OWN = IPv4Address("192.0.2.1")
WEEK = 604_800
START = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * NS
NOW = Now(START, 1000.0)
EPOCH = START // (WEEK * NS)


def later(seconds: float, now: Now = NOW) -> Now:
    """Both clocks that much later."""
    return Now(now.unix_ns + round(seconds * NS), now.monotonic + seconds)


def config(
    clients: str = "", server: str = "", ports: str = "{default: [22/tcp]}", *, faulty: bool = False
) -> ServerConfig:
    """A checked config: `clients` in YAML flow (`KEY_A` and `KEY_B` stand for the keys), `server` as further lines."""
    named = clients or "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"
    named = named.replace("KEY_A", f"'{ALICE.public}'").replace("KEY_B", f"'{BOB.public}'")
    text = f"server:\n  private_key: {SERVER.to_base64()}\n"
    text += "".join(f"  {line}\n" for line in server.split("; ") if line)
    parsed = parse_server_config(f"{text}ports: {ports}\nclients: {named}\n", Path("config.yaml"))
    assert bool(parsed.client_faults) == faulty
    return parsed


def nonce(label: object) -> bytes:
    """Sixteen bytes that belong to a label."""
    return hashlib.sha256(str(label).encode()).digest()[:16]


def packet(
    client: ClientPrivateKey = ALICE,
    timestamp_ns: int = START,
    target: str | None = None,
    label: object = "a",
    server_public: bytes = SERVER.public,
) -> bytes:
    """A knock whose randomness comes from `label`."""
    seed = hashlib.sha512(str((label, timestamp_ns, target)).encode()).digest()
    knock = Knock(timestamp_ns, nonce(label), None if target is None else ip_address(target))
    return v1.seal(server_public, client, knock, ephemeral_private=seed[:32], aead_nonce=seed[32:44])


def ratchet(index: int = EPOCH) -> Ratchet:
    """The server's ratchet, a new one each time, since it wipes its keys."""
    made = Ratchet(WEEK, EPOCH - 1, hashlib.sha256(b"ratchet").digest())
    made.advance_to(index)
    return made


def packet_v2(
    client: ClientPrivateKey = ALICE,
    timestamp_ns: int = START,
    target: str | None = None,
    label: object = "a",
    epoch: int = EPOCH,
) -> bytes:
    """A version 2 knock whose randomness comes from `label`."""
    seed = hashlib.sha256(str((label, timestamp_ns, target)).encode()).digest()
    representative, secret = monocypher.elligator_key_pair(seed)
    knock = Knock(timestamp_ns, nonce(label), None if target is None else ip_address(target))
    epoch_public = ratchet(min(epoch, EPOCH)).public_keys(epoch, 1)[0]
    return v2.seal(epoch_public, client, knock, ephemeral=(bytes(representative), bytes(secret)))[0]


def obey(made: Listener, order: Order) -> None:
    """Have a listener do what an order about keys says."""
    made.handlers[type(order)](order)


def listener() -> Listener:
    """A listener that holds the server's version 1 key and the key of this epoch."""
    made = Listener()
    obey(made, UseV1Key(0, SERVER.raw))
    obey(made, UseEpochKey(EPOCH, ratchet().private_key(EPOCH)))
    return made


def frame(datagram: bytes, source: IPAddress = HOME) -> bytes:
    """What the listener would tell the keeper."""
    return listener().frame_untrusted(datagram, source)[0].pack()


def keeper(parsed: ServerConfig | None = None, replay: ReplayMemory | None = None) -> Keeper:
    """A keeper with an empty memory on a host whose own address is `OWN`."""
    parsed = config() if parsed is None else parsed
    memory = ReplayMemory(round(parsed.replay_window * NS)) if replay is None else replay
    made = Keeper(parsed, memory, Journal(), lambda address: address == OWN)
    made.epochs = Epochs(ratchet(), parsed.replay_window, parsed.epoch_horizon)
    made.epochs.look(NOW.unix_ns, NOW.monotonic)
    return made


def judged(judge: Keeper, datagram: bytes, now: Now = NOW, source: IPAddress = HOME) -> Judgement:
    """The judgement on a datagram that came through the listener."""
    return judge.judge_untrusted(frame(datagram, source), now)


@contextmanager
def lines(name: str, level: int = logging.DEBUG) -> Iterator[list[logging.LogRecord]]:
    """The records that a logger is given in the block."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign,assignment]  # a list is all the handling there is
    logger = logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
