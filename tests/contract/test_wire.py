"""What every wire version does alike (openme.wire.base), from the client's keys to the signature that is checked."""

from ipaddress import ip_address

import pytest

from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import public_key_of
from openme.wire.base import ServerKey, Unsealed, Version
from openme.wire.knock import BadPacket, Knock
from openme.wire.versions import VERSIONS

PRIVATE, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = public_key_of(PRIVATE)
ALICE, BOB = ClientPrivateKey(bytes([7] * 32)), ClientPrivateKey(bytes([8] * 32))
KNOCK = Knock(1_700_000_000 * 10**9, bytes(range(16)), ip_address("192.0.2.7"))


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


def keys_of(version: Version) -> dict[int, ServerKey]:
    return {number: version.key(number, private) for number, private in ((3, OTHER), (4, PRIVATE))}


def unsealed(version: Version, packet: bytes) -> Unsealed | None:
    for key in version.admitted_untrusted(packet, keys_of(version)):
        try:
            return version.unsealed_untrusted(packet, key)
        except BadPacket:
            continue
    return None


def test_a_knock_gets_from_the_client_to_the_keeper(version: Version) -> None:
    packet, receipt = version.seal(PUBLIC, ALICE, KNOCK)
    assert len(packet) == version.size
    opened = unsealed(version, packet)
    assert opened is not None
    assert opened.receipt == receipt
    signed = version.signed_untrusted(packet, opened.aead_key, opened.aead_nonce, PUBLIC)
    assert signed.knock == KNOCK
    assert signed.signed_by(ALICE.public)
    assert not signed.signed_by(BOB.public)
    assert signed.key_id in {None, ALICE.public.key_id}


def test_wiping_leaves_the_knock_itself(version: Version) -> None:
    packet, _ = version.seal(PUBLIC, ALICE, KNOCK)
    opened = unsealed(version, packet)
    assert opened is not None
    signed = version.signed_untrusted(packet, opened.aead_key, opened.aead_nonce, PUBLIC)
    signed.wipe()
    assert signed.knock == KNOCK


def test_a_packet_is_new_each_time_and_has_a_name_if_it_has_a_receipt(version: Version) -> None:
    one, receipt = version.seal(PUBLIC, ALICE, KNOCK)
    other, _ = version.seal(PUBLIC, ALICE, KNOCK)
    assert one[: version.copy_prefix_size] != other[: version.copy_prefix_size]
    assert (receipt is not None) is bool(version.representative_size)
    if version.representative_size:
        assert one[: version.representative_size] != other[: version.representative_size]


@pytest.mark.parametrize("position", [1, 40, 100, 160])
def test_no_damaged_packet_gets_past_both(version: Version, position: int) -> None:
    packet, _ = version.seal(PUBLIC, ALICE, KNOCK)
    damaged = bytearray(packet)
    damaged[position] ^= 1
    opened = unsealed(version, bytes(damaged))
    if opened is not None:
        signed = version.signed_untrusted(bytes(damaged), opened.aead_key, opened.aead_nonce, PUBLIC)
        assert not signed.signed_by(ALICE.public)


def test_without_a_key_of_the_servers_nothing_is_admitted(version: Version) -> None:
    packet, _ = version.seal(PUBLIC, ALICE, KNOCK)
    assert not version.admitted_untrusted(packet, {})


def test_the_key_of_another_opens_nothing(version: Version) -> None:
    packet, _ = version.seal(public_key_of(bytes(range(2, 34))), ALICE, KNOCK)
    assert unsealed(version, packet) is None


def test_no_version_takes_another_ones_packet(version: Version) -> None:
    for other in VERSIONS:
        if other is not version:
            packet, _ = other.seal(PUBLIC, ALICE, KNOCK)
            assert unsealed(version, packet) is None


def test_a_low_order_key_is_refused(version: Version) -> None:
    with pytest.raises(ValueError, match="low-order"):
        version.seal(bytes(32), ALICE, KNOCK)
