"""The row `forgery` of the security model: only a registered, unexpired key opens.

Real: everything. The attacker holds the server's public keys, those of its epochs included, captured knocks of
registered clients, their public keys and a client key that is not registered. After each attack nothing has opened and
a real knock opens.
"""

import base64
import re
import secrets
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

import pytest
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base, crypto_shorthash_siphash24

from openme.client.knock import build
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ratchet import epoch_at
from openme.wire import v1, v2
from openme.wire.knock import Knock, pack_target
from support.claims import SSH, ClaimsWorld, only_v1, only_v2
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
    # Of the signature's bits all but those that version 1's shape has at zero.
    shapeless = sum(flip[-1] > 0x10 for flip in flips)
    assert world.log().count("refused: unknown_key") >= 512 - shapeless
    assert 3 <= shapeless <= 7
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


# -- version 2


# Two seeds whose public keys have the same key id.
COLLIDING = [(14099).to_bytes(32, "big"), (47417).to_bytes(32, "big")]


def _epoch_public(world: ClaimsWorld) -> bytes:
    keys = world.profile(world.alice).epoch_keys
    assert keys is not None
    return keys.keys[0]


def _with_filter_mac(world: ClaimsWorld, packet: bytes) -> bytes:
    """The packet with an M that fits: whoever holds E_i can make it."""
    body = packet[: v2.FILTER_MAC_OFFSET] + packet[v2.CIPHERTEXT_OFFSET :]
    mac = crypto_shorthash_siphash24(body, v2.filter_key(_epoch_public(world)))
    return packet[: v2.FILTER_MAC_OFFSET] + mac + packet[v2.CIPHERTEXT_OFFSET :]


def _sealed(world: ClaimsWorld, plaintext: Callable[[bytes, bytes], bytes]) -> bytes:
    """A packet of the attacker's: `plaintext` makes its 109 bytes from E_i and R."""
    epoch_public = _epoch_public(world)
    representative, secret = v2.new_ephemeral()
    schedule = v2.ephemeral_schedule(secret, epoch_public, representative)
    return v2.assemble(representative, schedule, epoch_public, plaintext(epoch_public, representative))


def _knock(world: ClaimsWorld) -> Knock:
    return Knock(world.now_ns(), secrets.token_bytes(16), None)


@only_v2
def test_every_single_bit_flip_of_version_2_as_it_is_and_with_a_filter_mac_that_fits(world: ClaimsWorld) -> None:
    good = world.signed(world.alice)
    packet = int.from_bytes(good, "big")
    flips = [(packet ^ 1 << bit).to_bytes(v2.PACKET_SIZE, "big") for bit in range(8 * v2.PACKET_SIZE)]
    fitting = {_with_filter_mac(world, flip) for flip in flips} - {good}
    assert len(fitting) == 8 * (v2.PACKET_SIZE - v2.FILTER_MAC_SIZE)
    counted = re.compile("refused: (?:decrypt|filter) ")
    attacks = [*flips, *fitting]
    for start in range(0, len(attacks), 200):
        world.send(*attacks[start : start + 200])
        sent = min(start + 200, len(attacks))
        until(partial(lambda sent: len(counted.findall(world.log())) >= sent, sent))
    # What fits no epoch and begins with 0x01, by the packet's chance or by the flip, is tried as version 1.
    as_version_1 = sum(flip[0] == v1.VERSION for flip in flips)
    assert world.log().count("refused: decrypt") == len(fitting) + as_version_1, "the two top bits of R among them"
    world.assert_refuses()
    assert world.opened("alice") == 0
    world.judged(good)
    assert world.opened("alice") == 1


@only_v2
def test_signatures_of_others_in_version_2(world: ClaimsWorld) -> None:
    """As a stranger, and as alice by her key id; with somebody's signature, an empty one, and one that is malleated."""
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    alice = world.profile(world.alice)
    assert alice.public_key is not None
    assert alice.private_key is not None
    public, private = alice.public_key, alice.private_key
    other_epoch = secrets.token_bytes(32)

    def malleated(epoch: bytes, r: bytes) -> bytes:
        text = v2.plaintext_of(_knock(world), private, public, epoch, r)
        s = int.from_bytes(text[-32:], "little") + GROUP_ORDER
        return text[:-32] + s.to_bytes(32, "little")

    def changed(epoch: bytes, r: bytes) -> bytes:
        text = v2.plaintext_of(_knock(world), private, public, epoch, r)
        return text[: v2.TARGET_OFFSET] + pack_target(ip_address("192.0.2.99")) + text[v2.KEY_ID_OFFSET :]

    forged = [
        _sealed(world, lambda e, r: v2.plaintext_of(_knock(world), stranger, stranger.public, e, r)),
        _sealed(world, lambda e, r: v2.plaintext_of(_knock(world), stranger, public, e, r)),
        _sealed(world, lambda e, r: v2.plaintext_of(_knock(world), stranger, public, e, r)[:45] + bytes(64)),
        _sealed(world, malleated),
        # Signed by alice herself, but for another server's key, or for another R: what another server could pass on.
        _sealed(world, lambda _, r: v2.plaintext_of(_knock(world), private, public, other_epoch, r)),
        _sealed(world, lambda e, _: v2.plaintext_of(_knock(world), private, public, e, other_epoch)),
        # The right signature over fields that were changed after it was made, and a version that is none.
        _sealed(world, lambda e, r: b"\x03" + v2.plaintext_of(_knock(world), private, public, e, r)[1:]),
        _sealed(world, changed),
    ]
    _nothing_opens_and_alice_does(world, *forged)
    assert world.log().count("refused: signature") >= 5
    assert world.log().count("refused: unknown_key") == 1


@only_v2
def test_mixed_captures_and_other_servers_epochs(world: ClaimsWorld) -> None:
    mine, other, bobs = world.signed(world.alice), world.signed(world.alice), world.signed(world.bob)
    mixed = [a[:32] + b[32:] for a in (mine, other, bobs) for b in (mine, other, bobs) if a != b]
    mixed += [_with_filter_mac(world, packet) for packet in mixed]
    elsewhere = build(
        world.profile(world.alice), None, world.now_ns(), {_epoch_now(world): crypto_scalarmult_base(b"x" * 32)}
    ).datagram
    _nothing_opens_and_alice_does(world, *mixed, elsewhere, _with_filter_mac(world, elsewhere))


def _epoch_now(world: ClaimsWorld) -> int:
    return epoch_at(world.now_ns(), 7 * 86400)


@only_v2
def test_low_order_points_in_version_2(world: ClaimsWorld) -> None:
    """R of zero maps to a point of low order, whose shared secret everybody knows; the server refuses it."""
    schedule = v2._schedule(bytes(bytearray(32)), _epoch_public(world), bytes(32))
    stranger = ClientPrivateKey(secrets.token_bytes(32))
    text = v2.plaintext_of(_knock(world), stranger, stranger.public, _epoch_public(world), bytes(32))
    _nothing_opens_and_alice_does(world, v2.assemble(bytes(32), schedule, _epoch_public(world), text))
    until(lambda: "refused: low_order" in world.log())


@only_v2
def test_colliding_key_ids(world: ClaimsWorld) -> None:
    """Adding the second is refused; written by hand, each opens with its own signature and not with the other's."""
    first, second = (ClientPrivateKey(seed) for seed in COLLIDING)
    assert first.public.key_id == second.public.key_id
    at = ("--config", world.config)
    world.openme(world.server, *at, "add", "first", "--pubkey", first.public, code=0)
    refused = world.openme(world.server, *at, "add", "second", "--pubkey", second.public, code=1)
    assert "key id" in refused.stderr
    as_second = _sealed(world, lambda e, r: v2.plaintext_of(_knock(world), second, second.public, e, r))
    world.judged(as_second)
    assert "refused: signature" in world.log()
    world.write_config(world.config.read_text() + f"  second: {{ed25519_pubkey: {second.public}, protocols: [v2]}}\n")
    for name, key in (("first", first), ("second", second)):
        world.judged(_sealed(world, partial(_own, world, key)))
        assert world.opened(name) == 1, world.log()


def _own(world: ClaimsWorld, key: ClientPrivateKey, epoch_public: bytes, representative: bytes) -> bytes:
    return v2.plaintext_of(_knock(world), key, key.public, epoch_public, representative)
