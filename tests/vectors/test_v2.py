"""Known answers for wire version 2: every field of every vector, made and opened; and RFC 9380's map."""

import hashlib
import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import monocypher
import pytest

from openme.keys.ed25519 import parse_private_key
from openme.keys.ratchet import Ratchet, epoch_at
from openme.wire import v2
from openme.wire.base import ReceiptKeys
from openme.wire.knock import Knock
from openme.wire.receipt import open_receipt_untrusted, seal_receipt

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("v2.json").read_text(encoding="utf-8"))["vectors"]
each = pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
PRIME = 2**255 - 19


def raw(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def knock_of(vector: dict[str, Any]) -> Knock:
    target = None if vector["target_ip"] is None else ip_address(vector["target_ip"])
    return Knock(vector["timestamp_ns"], raw(vector, "random_nonce"), target)


def test_there_are_known_answers_for_every_kind_of_target_and_for_steps_of_the_ratchet() -> None:
    assert len(VECTORS) >= 12
    assert {getattr(knock_of(v).target, "version", None) for v in VECTORS} == {None, 4, 6}
    assert {v["epoch"] - v["ratchet_epoch"] for v in VECTORS} >= {0, 1}


@each
def test_the_ratchet_gives_the_epochs_keys(vector: dict[str, Any]) -> None:
    ratchet = Ratchet(604_800, vector["ratchet_epoch"], raw(vector, "ratchet_key"))
    assert ratchet.private_key(vector["epoch"]) == raw(vector, "epoch_private_key")
    assert ratchet.public_keys(vector["epoch"], 1) == (raw(vector, "epoch_public_key"),)
    assert epoch_at(vector["timestamp_ns"], 604_800) == vector["epoch"]


@each
def test_the_client_makes_the_known_packet(vector: dict[str, Any]) -> None:
    packet, receipt = v2.seal(
        raw(vector, "epoch_public_key"),
        parse_private_key(vector["client_seed"]),
        knock_of(vector),
        ephemeral=(raw(vector, "representative"), raw(vector, "ephemeral_secret")),
    )
    assert packet == raw(vector, "packet")
    assert [receipt.id, receipt.key, receipt.nonce] == [
        raw(vector, f"receipt_{part}") for part in ("id", "key", "nonce")
    ]


@each
def test_the_server_opens_the_known_packet(vector: dict[str, Any]) -> None:
    packet, epoch_public = raw(vector, "packet"), raw(vector, "epoch_public_key")
    assert v2.passes_filter_untrusted(packet, v2.filter_key(epoch_public))
    schedule = v2.schedule_untrusted(packet, raw(vector, "epoch_private_key"), epoch_public)
    signed = v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
    client = parse_private_key(vector["client_seed"]).public
    assert str(client) == vector["client_public_key"]
    assert signed.knock == knock_of(vector)
    assert signed.key_id == client.key_id == raw(vector, "key_id")
    assert signed.fields + signed.signature == raw(vector, "plaintext")
    assert v2.signed_by(packet, signed, epoch_public, client)


@each
def test_the_known_receipt(vector: dict[str, Any]) -> None:
    keys = ReceiptKeys(*(raw(vector, f"receipt_{part}") for part in ("id", "key", "nonce")))
    answer = seal_receipt(vector["receipt_json"].encode(), keys)
    assert len(answer) == 4096
    assert hashlib.sha256(answer).hexdigest() == vector["receipt_sha256"]
    receipt = open_receipt_untrusted(answer, keys)
    said = json.loads(vector["receipt_json"])
    assert (receipt.client, str(receipt.ip), list(receipt.ports)) == (said["client"], said["ip"], said["ports"])
    assert (receipt.expires_at, receipt.server_time) == (said["expires_at"], said["server_time"])
    assert receipt.epoch_keys is None


@each
def test_the_map_is_elligator_2_of_the_representative(vector: dict[str, Any]) -> None:
    """The spec's formula in whole numbers, beside the library that we use."""
    point = int.from_bytes(raw(vector, "ephemeral_point"), "little")
    assert elligator_2(int.from_bytes(raw(vector, "representative"), "little") % 2**254) == point
    for top_bits in (0, 0x40, 0x80, 0xC0):
        masked = bytearray(raw(vector, "representative"))
        masked[31] = masked[31] & 0x3F | top_bits
        assert monocypher.elligator_map(bytes(masked)) == raw(vector, "ephemeral_point")


# RFC 9380 appendix J.4.2 (curve25519_XMD:SHA-512_ELL2_NU_): the field element u of a message, and Q.x of its map.
RFC_9380 = [
    (
        "608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd",
        "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b",
    ),
    (
        "46f5b22494bfeaa7f232cc8d054be68561af50230234d7d1d63d1d9abeca8da5",
        "7d56d1e08cb0ccb92baf069c18c49bb5a0dcd927eff8dcf75ca921ef7f3e6eeb",
    ),
    (
        "235fe40c443766ce7e18111c33862d66c3b33267efa50d50f9e8e5d252a40aaa",
        "3fbe66b9c9883d79e8407150e7c2a1c8680bee496c62fabe4619a72b3cabe90f",
    ),
]


@pytest.mark.parametrize(("u", "x"), RFC_9380)
def test_the_map_agrees_with_rfc_9380(u: str, x: str) -> None:
    field = int(u, 16)
    representative = min(field, PRIME - field)  # a number and its negative have the same point
    assert representative < 2**254
    assert int.from_bytes(monocypher.elligator_map(representative.to_bytes(32, "little")), "little") == int(x, 16)


def elligator_2(r: int) -> int:
    """The map of spec wire-v2.md "Elligator 2", to the letter."""
    curve_a = 486662
    w = -curve_a * pow(1 + 2 * r * r, -1, PRIME) % PRIME
    value = (w**3 + curve_a * w * w + w) % PRIME
    square = value == 0 or pow(value, (PRIME - 1) // 2, PRIME) == 1
    return w if square else (-w - curve_a) % PRIME
