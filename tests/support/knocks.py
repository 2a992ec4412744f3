"""A server's key, clients and their knocks, built without the product's own client."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import monocypher

from openme.clocks import Now
from openme.config.model import ClientEntry, ServerConfig
from openme.config.server import parse_server_config
from openme.keeper.epochs import Epochs
from openme.keeper.events import Events
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper, Reconfiguration
from openme.keeper.stages import Authenticated, Claimed, Decided, Opened, Refused, Searched
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ratchet import Ratchet
from openme.keys.x25519 import ServerPrivateKey
from openme.listener.listener import Listener
from openme.seam.messages import Order, UseEpochKey, UseV1Key
from openme.server.admission import Admission
from openme.store.base import Outcome, Store
from openme.store.memory import MemoryStore
from openme.wire import v1, v2
from openme.wire.knock import IPAddress, Knock

if TYPE_CHECKING:
    from openme.server.verdicts import Verdicts

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


@dataclass(frozen=True)
class Judgement:
    """What became of a knock up to the claim. `remembered`: what is used up."""

    reason: str
    source: IPAddress | None
    representative: bytes | None
    what: Authenticated | None
    claim: Claimed | None
    grant: Grant | None

    @property
    def client(self) -> ClientEntry | None:
        return None if self.what is None else self.what.client

    @property
    def epoch(self) -> int:
        return 0 if self.what is None else self.what.epoch

    @property
    def remembered(self) -> Knock | None:
        return None if self.claim is None else self.claim.decided.what.knock

    @property
    def opened(self) -> Opened:
        """The same once the firewall has taken its doors."""
        assert self.claim is not None
        assert self.grant is not None
        return Opened(self.claim.decided, self.grant)


class Judge(Keeper):
    """A keeper, a store and a journal, and the stages of admission without doors and without a listener."""

    def __init__(self, parsed: ServerConfig, store: Store) -> None:
        super().__init__(parsed, lambda address: address == OWN)
        self.store = store
        self.journal = Journal()
        self.store.load(round(parsed.replay_window * NS), NOW.unix_ns)

    def follow(self, plan: Reconfiguration) -> None:
        super().follow(plan)
        self.store.set_window(round(plan.config.replay_window * NS))

    def judge_untrusted(self, raw: bytes, now: Now) -> Judgement:
        """One frame, however long the search for its client takes, up to the claim; refusals are told."""
        doors: list[Grant] = []

        def nothing_opens(grants: list[Grant], _: Now) -> set[int]:
            doors.extend(grants)
            return set()

        told: list[Refused] = []
        verdicts = cast("Verdicts", SimpleNamespace(refused=told.append))
        events = Events(lambda _: None)
        self.journal.follow(events)
        stages = Watched(self, self.store, nothing_opens, verdicts, events, lambda: now)
        stages.admit_untrusted([bytes(bytearray(raw))], now)  # a copy, since it may be wiped
        while stages:
            stages.serve_waiting()
        (refused,) = told
        what = next((one for one in stages.seen if isinstance(one, Authenticated)), None)
        claim = next((one for one in stages.seen if isinstance(one, Claimed)), None)
        grant = doors[0] if doors else None
        reason = refused.reason if grant is None else "accepted"
        return Judgement(reason, refused.source, refused.representative, what, claim, grant)


Stage = Searched | Authenticated | Decided | Claimed | Opened | Refused


class Watched(Admission):
    """Admission that notes what a knock was in each of its states."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.seen: list[Stage] = []

    def _note(self, *found: Stage) -> None:
        self.seen.extend(found)

    def authenticate_untrusted(self, frame: bytes) -> Authenticated | Searched | Refused:
        found = super().authenticate_untrusted(frame)
        self._note(found)
        return found

    def search(self, knock: Searched, may_go_on: Callable[[], bool]) -> Authenticated | Refused | None:
        found = super().search(knock, may_go_on)
        if found is not None:
            self._note(found)
        return found

    def decide(self, knock: Authenticated, now: Now) -> Decided | Refused:
        found = super().decide(knock, now)
        self._note(found)
        return found

    def claim(self, decided: Decided, outcome: Outcome, now: Now, *, late: bool) -> Claimed | Refused:
        found = super().claim(decided, outcome, now, late=late)
        self._note(found)
        return found

    def open(self, claimed: Iterable[Claimed | Refused], now: Now) -> list[Opened | Refused]:
        found = super().open(claimed, now)
        self._note(*found)
        return found


def keeper(parsed: ServerConfig | None = None, store: Store | None = None) -> Judge:
    """A keeper with an empty memory on a host whose own address is `OWN`."""
    parsed = config() if parsed is None else parsed
    made = Judge(parsed, MemoryStore() if store is None else store)
    made.epochs = Epochs(ratchet(), parsed.replay_window, parsed.epoch_horizon)
    made.epochs.look(NOW.unix_ns, NOW.monotonic)
    return made


def judged(judge: Judge, datagram: bytes, now: Now = NOW, source: IPAddress = HOME) -> Judgement:
    """What becomes of a datagram that came through the listener."""
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
