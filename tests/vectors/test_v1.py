"""Known answers for wire version 1: packets that an existing client made, opened and built again."""

import base64
import hashlib
import hmac
import json
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_scalarmult

from openme.keys.ed25519 import parse_private_key, parse_public_key
from openme.keys.x25519 import parse_server_private_key, parse_server_public_key
from openme.listener.listener import Listener
from openme.seam.messages import UseV1Key
from openme.wire import v1
from openme.wire.knock import BadPacket, Knock, unpack_target

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("v1.json").read_text(encoding="utf-8"))["vectors"]
each = pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))


def packet_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["packet"])


def knock_of(vector: dict[str, Any]) -> Knock:
    target = ip_address(vector["target_ip"])
    wildcard = target.is_unspecified
    return Knock(vector["timestamp_ns"], bytes.fromhex(vector["random_nonce"]), None if wildcard else target)


def test_there_are_known_answers_with_and_without_a_target() -> None:
    assert len(VECTORS) >= 6
    targets = {knock_of(v).target for v in VECTORS}
    assert None in targets
    assert {t.version for t in targets if t is not None} == {4, 6}


@each
def test_a_known_packet_opens_with_the_servers_key(vector: dict[str, Any]) -> None:
    key = v1.aead_key_untrusted(packet_of(vector), parse_server_private_key(vector["server_private_key"]).raw)
    assert key.hex() == vector["shared_key"]
    assert v1.open_untrusted(packet_of(vector), key) == knock_of(vector)


@each
def test_the_shared_key_is_hkdf_of_the_x25519_output(vector: dict[str, Any]) -> None:
    private = base64.b64decode(vector["server_private_key"])
    secret = crypto_scalarmult(private, packet_of(vector)[1:33])
    extracted = hmac.new(b"", secret, hashlib.sha256).digest()  # RFC 5869 with no salt
    expanded = hmac.new(extracted, b"openme-v1-chacha20poly1305\x01", hashlib.sha256).digest()
    assert expanded.hex() == vector["shared_key"]


@each
def test_the_known_signature_is_the_clients_alone(vector: dict[str, Any]) -> None:
    own = parse_public_key(vector["client_public_key"])
    assert v1.signed_by(packet_of(vector), own)
    others = [parse_public_key(v["client_public_key"]) for v in VECTORS]
    assert [key for key in others if v1.signed_by(packet_of(vector), key)] == [own]


@each
def test_building_from_the_known_parts_gives_the_known_packet(vector: dict[str, Any]) -> None:
    packet = packet_of(vector)
    plaintext = v1.pack_plaintext(knock_of(vector))
    assert plaintext.hex() == vector["plaintext"] or unpack_target(bytes.fromhex(vector["plaintext"])[24:]) is None
    client = parse_private_key(vector["client_seed"])
    key, known = bytes.fromhex(vector["shared_key"]), bytes.fromhex(vector["plaintext"])
    assert v1.assemble(packet[1:33], key, packet[33:45], known, client.sign) == packet


@each
def test_the_plaintext_of_a_known_target_is_identical(vector: dict[str, Any]) -> None:
    known = bytes.fromhex(vector["plaintext"])
    packed = v1.pack_plaintext(knock_of(vector))
    assert packed[:24] == known[:24]
    if knock_of(vector).target is not None:
        assert packed == known


@each
def test_what_is_sealed_for_the_known_keys_opens_again(vector: dict[str, Any]) -> None:
    client, knock = parse_private_key(vector["client_seed"]), knock_of(vector)
    public = parse_server_public_key(vector["server_public_key"])
    packet = v1.seal(public, client, knock, ephemeral_private=b"\x42" * 32, aead_nonce=b"\x07" * 12)
    key = v1.aead_key_untrusted(packet, base64.b64decode(vector["server_private_key"]))
    assert len(packet) == 165
    assert v1.open_untrusted(packet, key) == knock
    assert v1.signed_by(packet, client.public)


@each
def test_the_listener_frames_a_known_packet(vector: dict[str, Any]) -> None:
    listener = Listener()
    order = UseV1Key(0, base64.b64decode(vector["server_private_key"]))
    listener.handlers[UseV1Key](order)
    frame, _ = listener.frame_untrusted(packet_of(vector), IPv4Address("203.0.113.5"))
    assert (frame.packet, frame.aead_key.hex()) == (packet_of(vector), vector["shared_key"])


@each
def test_another_servers_key_does_not_open_it(vector: dict[str, Any]) -> None:
    packet = packet_of(vector)
    with pytest.raises(BadPacket, match=r"^decrypt$"):
        v1.open_untrusted(packet, v1.aead_key_untrusted(packet, b"\x01" * 32))


@each
def test_both_forms_of_the_private_key_load_as_the_same_key(vector: dict[str, Any]) -> None:
    seed = base64.b64decode(vector["client_seed"])
    public = base64.b64decode(vector["client_public_key"])
    short = parse_private_key(vector["client_seed"])
    long = parse_private_key(base64.b64encode(seed + public).decode())
    assert short == long
    assert short.public.raw == public
    assert base64.b64decode(long.to_base64()) == seed + public


@each
def test_the_public_halves_and_the_fingerprint_are_the_known_ones(vector: dict[str, Any]) -> None:
    assert parse_public_key(vector["client_public_key"]).fingerprint == vector["client_fingerprint"]
    server = parse_server_private_key(vector["server_private_key"])
    assert server.public == base64.b64decode(vector["server_public_key"])
