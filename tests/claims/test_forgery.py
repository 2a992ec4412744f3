"""The row `forgery` of the security model: only a registered, unexpired key opens (version 1).

Real: everything. The attacker holds the server's public key, captured knocks of registered clients, their public keys
and a client key that is not registered. After each attack nothing has opened and a real knock opens.

Colliding key ids belong to version 2.
"""

import base64
import re
import secrets
from functools import partial

import pytest
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v1
from openme.wire.knock import Knock
from support.claims import SSH, ClaimsWorld, only_v1
from support.netns import until
from support.server import ServerWorld

pytestmark = pytest.mark.root

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD = 2**255 - 19
SIGNED = v1.SIGNATURE_OFFSET


def _forge(world: ClaimsWorld, key: ClientPrivateKey, signature: bytes | None = None) -> bytes:
    profile = world.profile(world.alice)
    knock = Knock(world.now_ns(), secrets.token_bytes(16), None)
    packet = v1.seal(
        profile.server_pubkey,
        key,
        knock,
        ephemeral_private=secrets.token_bytes(32),
        aead_nonce=secrets.token_bytes(12),
    )
    return packet if signature is None else packet[:SIGNED] + signature


def _nothing_opens_and_alice_does(world: ClaimsWorld, *packets: bytes) -> None:
    world.assert_refuses(*packets)
    assert world.opened("alice") == world.opened("bob") == 0
    assert not world.is_in("alice")
    world.assert_opens(world.alice)


@only_v1
def test_an_unknown_key(world: ClaimsWorld) -> None:
    _nothing_opens_and_alice_does(world, *[_forge(world, ClientPrivateKey(secrets.token_bytes(32))) for _ in range(50)])
    assert "refused: unknown_key" in world.log()


@only_v1
def test_every_single_bit_flip(world: ClaimsWorld) -> None:
    packet = int.from_bytes(world.signed(world.alice), "big")
    flips = [(packet ^ 1 << bit).to_bytes(v1.PACKET_SIZE, "big") for bit in range(8 * v1.PACKET_SIZE)]
    assert len(set(flips)) == 1320
    counted = re.compile("refused: (?:decrypt|filter|unknown_key) ")
    for start in range(0, len(flips), 60):  # few enough that strangers are not let go for want of time
        world.send(*flips[start : start + 60])
        sent = min(start + 60, len(flips))
        until(partial(lambda sent: len(counted.findall(world.log())) >= sent, sent))
    assert world.log().count("refused: unknown_key") >= 512
    world.assert_refuses()
    assert world.opened("alice") == 0
    # The original is still good: refusing its altered copies has not used it up.
    world.judged(packet.to_bytes(v1.PACKET_SIZE, "big"))
    assert world.opened("alice") == 1
    assert world.tcp(world.client, SSH) == "open"


def test_truncated_and_extended(world: ClaimsWorld) -> None:
    packet = world.signed(world.alice)
    shorter = [packet[:size] for size in range(v1.PACKET_SIZE)]
    longer = [packet + bytes(more) for more in (1, 2, 16, 165, 1235)] + [b"\0" + packet, packet + packet]
    _nothing_opens_and_alice_does(world, *shorter, *longer)
    until(lambda: world.log().count("refused: length") == len(shorter) + len(longer))


@only_v1
def test_malleated_signatures(world: ClaimsWorld) -> None:
    """S and S + L fit the same equation; with R unchanged only the smaller may count."""
    malleated = []
    for _ in range(5):
        packet = world.signed(world.alice)
        s = int.from_bytes(packet[-32:], "little")
        higher = [s + times * GROUP_ORDER for times in range(1, 15)]
        malleated += [packet[:-32] + high.to_bytes(32, "little") for high in higher if high < 2**256]
        malleated.append(packet[:-32] + (GROUP_ORDER - s).to_bytes(32, "little"))
        malleated.append(packet[:SIGNED] + bytes([packet[SIGNED]]) + packet[SIGNED + 1 : -32] + bytes(32))
    assert len(malleated) > 50
    _nothing_opens_and_alice_does(world, *malleated)


@only_v1
def test_signatures_that_some_libraries_accept(world: ClaimsWorld) -> None:
    """R and S of nothing, the identity, points of small order: good for any message under a bad verifier."""
    identity = (1).to_bytes(32, "little")
    halves = [bytes(32), identity, *_small_order(), b"\xff" * 32, GROUP_ORDER.to_bytes(32, "little")]
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    signatures = [first + second for first in halves for second in (bytes(32), identity, b"\xff" * 32)]
    _nothing_opens_and_alice_does(world, *[_forge(world, stranger, signature) for signature in signatures])


@only_v1
def test_splices_of_captured_knocks(world: ClaimsWorld) -> None:
    """Any field of one knock in another: a registered client's signature stands for its own 101 bytes alone."""
    mine, other, bobs = world.signed(world.alice), world.signed(world.alice), world.signed(world.bob)
    edges = (0, 1, v1.AEAD_NONCE_OFFSET, v1.CIPHERTEXT_OFFSET, SIGNED, SIGNED + 32, v1.PACKET_SIZE)
    splices = set()
    for donor in (other, bobs):
        for i, start in enumerate(edges):
            for end in edges[i + 1 :]:
                splices.add(mine[:start] + donor[start:end] + mine[end:])
    splices -= {mine, other, bobs}
    assert len(splices) > 20
    _nothing_opens_and_alice_does(world, *splices)


@only_v1
def test_a_registered_clients_signature_over_somebody_elses_fields(world: ClaimsWorld) -> None:
    """The attacker can seal what he likes for the server; what he cannot make is the signature over it."""
    captured = world.signed(world.alice)
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    forged = [_forge(world, stranger, captured[SIGNED:]) for _ in range(10)]
    # A knock sealed with a known key agreement, so that plaintext and tag fit, under the captured ephemeral key.
    ephemeral = secrets.token_bytes(32)
    profile = world.profile(world.alice)
    shared = crypto_scalarmult(ephemeral, profile.server_pubkey)
    resealed = v1.assemble(
        crypto_scalarmult_base(ephemeral),
        v1._hkdf_32(shared),
        captured[v1.AEAD_NONCE_OFFSET : v1.CIPHERTEXT_OFFSET],
        v1.pack_plaintext(Knock(world.now_ns(), secrets.token_bytes(16), None)),
        lambda _: captured[SIGNED:],
    )
    _nothing_opens_and_alice_does(world, *forged, resealed)


@only_v1
def test_low_order_ephemeral_keys(world: ClaimsWorld) -> None:
    """Whoever makes the shared secret known still lacks the signature; the server refuses before that."""
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    forged = [
        v1.assemble(
            point.to_bytes(32, "little"),
            v1._hkdf_32(bytes(32)),
            bytes(12),
            v1.pack_plaintext(Knock(world.now_ns(), bytes(16), None)),
            stranger.sign,
        )
        for point in (0, 1, FIELD - 1, FIELD, FIELD + 1)
    ]
    _nothing_opens_and_alice_does(world, *forged)
    assert world.log().count("refused: low_order") == len(forged)


def _small_order() -> list[bytes]:
    """The eight points of small order, and encodings of them that are not canonical."""
    eighth = int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd83d3d706a17c7", 16)
    raw = eighth.to_bytes(32, "big")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    values = [0, 1, FIELD - 1, y, FIELD - y, FIELD, FIELD + 1]
    return [(value | sign << 255).to_bytes(32, "little") for value in values for sign in (0, 1)]


@only_v1
def test_bad_public_keys_put_into_the_file_by_hand(world: ClaimsWorld) -> None:
    """Such a client is disabled, loudly, and takes nobody with it; no signature is good under its key."""
    keys = [
        *_small_order(),
        (FIELD + 2).to_bytes(32, "little"),
        (FIELD + 18).to_bytes(32, "little"),
        b"\xff" * 32,
        (2).to_bytes(32, "little"),  # not on the curve
    ]
    text = world.config.read_text()
    for number, key in enumerate(keys):
        text += f"  weak{number}:\n    ed25519_pubkey: {base64.b64encode(key).decode()}\n"
    world.write_config(text)
    # Under a key of small order R = S·B fits any message for a verifier that multiplies by the cofactor.
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    identity = (1).to_bytes(32, "little")
    forged = [_forge(world, stranger, first + bytes(32)) for first in (*_small_order(), identity)]
    _nothing_opens_and_alice_does(world, *forged)
    for number in range(len(keys)):
        assert f"weak{number}" in world.log()
        assert f"weak{number}: opened" not in world.log()
    assert world.log().count("client disabled") == len(keys)
    assert ServerWorld.openme(world, world.server, "--config", world.config, "check-config").returncode == 1
    world.restart()
    _nothing_opens_and_alice_does(world, *forged)
