"""What openme is compared with: the arithmetic of a knock alone, one sync alone, and a loop of nothing but syncs."""

import hmac
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import monocypher
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_shorthash_siphash24,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.signing import SigningKey

from bench.figures import median
from bench.timing import timed
from bench.world import DISK, PEER
from openme.wire import v2
from support.netns import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

ECHO_PORT = 54155
_RECORD = bytes(4096 + 24)  # a page of SQLite's log and its head
_MARK = bytes(88)


def arithmetic(rounds: int) -> dict[str, float]:
    """Seconds of each step of a version 2 knock at the server, each once, with the libraries that openme uses."""
    private = secrets.token_bytes(32)
    public = crypto_scalarmult_base(private)
    representative, ephemeral = v2.new_ephemeral()
    client, signing = crypto_sign_seed_keypair(bytes(32))[0], SigningKey(bytes(32))
    transcript = secrets.token_bytes(125)
    signed = bytes(signing.sign(transcript))
    shared = crypto_scalarmult(ephemeral, public)
    key, nonce, mac_key = secrets.token_bytes(32), secrets.token_bytes(12), secrets.token_bytes(16)
    ciphertext = crypto_aead_chacha20poly1305_ietf_encrypt(bytes(v2.PLAINTEXT_SIZE), representative, nonce, key)
    packet = representative + bytes(8) + ciphertext
    point = bytes(monocypher.elligator_map(representative))
    assert crypto_scalarmult(private, point) == shared
    steps: dict[str, Callable[[], object]] = {
        "SipHash": lambda: crypto_shorthash_siphash24(packet[:32] + packet[40:], mac_key),
        "Elligator 2": lambda: monocypher.elligator_map(representative),
        "X25519": lambda: crypto_scalarmult(private, point),
        "HKDF": lambda: _hkdf(shared, v2.SCHEDULE_SIZE),
        "AEAD": lambda: crypto_aead_chacha20poly1305_ietf_decrypt(packet[40:], representative, nonce, key),
        "Ed25519": lambda: crypto_sign_open(signed, client),
    }
    return {name: median(timed(step, rounds)) for name, step in steps.items()}


def _hkdf(secret: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256."""
    key = hmac.digest(bytes(32), secret, "sha256")
    made, block = b"", b""
    while len(made) < size:
        block = hmac.digest(key, block + b"information" + bytes([len(made) // 32 + 1]), "sha256")
        made += block
    return made[:size]


@dataclass(frozen=True)
class Syncs:
    """Median seconds of one fdatasync(2): of a log that grows by a record, of a mark that is written in place."""

    log: float
    mark: float


class Disk:
    """The two files that a knock is made durable in, with nothing around them."""

    def __init__(self, folder: Path) -> None:
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._mark = os.open(folder / "mark", os.O_WRONLY | os.O_CREAT, 0o600)
        self.write_mark()

    def write_log(self) -> None:
        """Append and sync."""
        os.write(self._log, _RECORD)
        os.fdatasync(self._log)

    def write_mark(self) -> None:
        """Overwrite and sync."""
        os.pwrite(self._mark, _MARK, 0)
        os.fdatasync(self._mark)


def syncs(rounds: int) -> Syncs:
    """On the disk that the server's state is on."""
    with tempfile.TemporaryDirectory(dir=DISK) as folder:
        disk = Disk(Path(folder))
        return Syncs(median(timed(disk.write_log, rounds)), median(timed(disk.write_mark, rounds)))


@contextmanager
def echo_after_syncs(host: Namespace) -> Iterator[tuple[str, int]]:
    """Answers each datagram when log and mark are on the disk; where to send them."""
    with host.entered():
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.bind(("", ECHO_PORT))
    with tempfile.TemporaryDirectory(dir=DISK) as folder:
        child = os.fork()
        if child == 0:
            try:
                disk = Disk(Path(folder))
                while True:
                    datagram, sender = ear.recvfrom(64)
                    if not datagram:
                        break
                    disk.write_log()
                    disk.write_mark()
                    ear.sendto(datagram, sender)
            finally:
                os._exit(0)
        ear.close()
        try:
            yield PEER, ECHO_PORT
        finally:
            with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", ECHO_PORT))
            os.waitpid(child, 0)
