"""Clients of a server: their keys, their entries in its config, and knocks made beforehand on all cores."""

import base64
import multiprocessing
import os
import secrets
import time
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_shorthash_siphash24,
    crypto_sign_seed_keypair,
)

from openme.keys.ed25519 import ClientPrivateKey, key_id_of
from openme.wire import v2
from openme.wire.base import Version
from openme.wire.knock import Knock
from openme.wire.versions import by_name

KNOCKS_OF_ONE = 256
"""So many of one client the replay memory takes within two windows."""

Wanted = tuple[int, IPv4Address | None]
"""A client by its number, and the address that its knock names; None: whichever it comes from."""


class Crowd:
    """Clients 0, 1, … of a server."""

    def __init__(self, count: int) -> None:
        self.count = count

    @staticmethod
    def name(number: int) -> str:
        """In the config and in the log."""
        return f"user{number}"

    @staticmethod
    def key(number: int) -> ClientPrivateKey:
        """The same in every run."""
        return ClientPrivateKey(_seed(number))

    def text(self) -> str:
        """Their entries, as `openme add` writes them."""
        return _entries(self.count)


def _seed(number: int) -> bytes:
    return number.to_bytes(31, "big") + b"\x01"


@cache
def _entries(count: int) -> str:
    keys = (base64.b64encode(crypto_sign_seed_keypair(_seed(number))[0]).decode() for number in range(count))
    return "".join(f"  {Crowd.name(number)}:\n    ed25519_pubkey: {key}\n" for number, key in enumerate(keys))


def knocks(wanted: Sequence[Wanted], version: Version, server_key: bytes) -> list[bytes]:
    """Packets that are signed now."""
    share = max(1, -(-len(wanted) // (8 * len(os.sched_getaffinity(0)))))
    parts = [(wanted[start : start + share], version.name, server_key) for start in range(0, len(wanted), share)]
    if len(parts) == 1:
        return _sealed(*parts[0])
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        return [packet for part in pool.starmap(_sealed, parts) for packet in part]


def _sealed(wanted: Sequence[Wanted], version: str, server_key: bytes) -> list[bytes]:
    seal = by_name(version).seal
    return [
        seal(server_key, Crowd.key(client), Knock(time.time_ns(), secrets.token_bytes(16), target))[0]
        for client, target in wanted
    ]


def well_formed(count: int, epoch_public: bytes, client: int) -> list[bytes]:
    """What whoever holds E_i can make: packets with a fitting filter MAC, which open, name a client and are signed by
    nobody. All of one R, since its maker saves the work; no two are alike.
    """
    representative, secret = v2.new_ephemeral()
    schedule = v2.ephemeral_schedule(secret, epoch_public, representative)
    mac_key = v2.filter_key(epoch_public)
    key_id = key_id_of(Crowd.key(client).public.raw)
    head = bytes([v2.VERSION]) + time.time_ns().to_bytes(v2.TIMESTAMP_SIZE, "big")
    rest = bytes(v2.TARGET_SIZE) + key_id + bytes(v2.SIGNATURE_SIZE)
    made = []
    for _ in range(count):
        plaintext = head + secrets.token_bytes(v2.RANDOM_NONCE_SIZE) + rest
        ciphertext = crypto_aead_chacha20poly1305_ietf_encrypt(
            plaintext, representative, schedule.aead_nonce, schedule.aead_key
        )
        made.append(representative + crypto_shorthash_siphash24(representative + ciphertext, mac_key) + ciphertext)
    return made
