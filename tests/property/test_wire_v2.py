"""Wire version 2 as the product does it against a second one, written from the spec: both directions, any content."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_base

from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v2
from openme.wire.knock import IPAddress, Knock
from support import independent_v2

secrets = st.binary(min_size=32, max_size=32)
timestamps = st.integers(-(2**63), 2**63 - 1)
nonces = st.binary(min_size=16, max_size=16)
targets: st.SearchStrategy[IPAddress | None] = st.one_of(
    st.none(),
    st.integers(1, 2**32 - 1).map(IPv4Address),
    st.integers(1, 2**128 - 1).map(IPv6Address).filter(lambda a: a.ipv4_mapped is None),
)


def target_bytes(target: IPAddress | None) -> bytes:
    if target is None:
        return bytes(16)
    return bytes(10) + b"\xff\xff" + target.packed if target.version == 4 else target.packed


@settings(max_examples=60, deadline=None)
@given(st.tuples(secrets, secrets, secrets), timestamps, nonces, targets)
@example((b"\1" * 32, b"\2" * 32, b"\3" * 32), -1, bytes(16), None)
def test_what_a_second_implementation_makes_is_opened(
    keys: tuple[bytes, bytes, bytes], timestamp: int, nonce: bytes, target: IPAddress | None
) -> None:
    server, client, seed = keys
    epoch_public = crypto_scalarmult_base(server)
    fields = b"\x02" + timestamp.to_bytes(8, "big", signed=True) + nonce + target_bytes(target)
    packet, receipt = independent_v2.sealed(epoch_public, client, fields, independent_v2.ephemeral(seed))
    assert v2.passes_filter_untrusted(packet, v2.filter_key(epoch_public))
    schedule = v2.schedule_untrusted(packet, server, epoch_public)
    assert (schedule.receipt.id, schedule.receipt.key, schedule.receipt.nonce) == receipt
    signed = v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)
    assert signed.knock == Knock(timestamp, nonce, target)
    public = ClientPrivateKey(client).public
    assert signed.key_id == public.key_id
    assert v2.signed_by(packet, signed, epoch_public, public)


@settings(max_examples=60, deadline=None)
@given(secrets, secrets, timestamps, nonces, targets)
def test_a_second_implementation_opens_what_is_made(
    server: bytes, client: bytes, timestamp: int, nonce: bytes, target: IPAddress | None
) -> None:
    epoch_public, key = crypto_scalarmult_base(server), ClientPrivateKey(client)
    knock = Knock(timestamp, nonce, target)
    packet, receipt = v2.seal(epoch_public, key, knock, ephemeral=v2.new_ephemeral())
    opened = independent_v2.opened(packet, server, key.public.raw)
    fields = b"\x02" + timestamp.to_bytes(8, "big", signed=True) + nonce + target_bytes(target)
    assert opened.plaintext[:41] == fields
    assert opened.receipt == (receipt.id, receipt.key, receipt.nonce)


@pytest.mark.parametrize("times", range(8))
def test_a_point_with_any_low_order_component_gives_the_same_shared_secret(times: int) -> None:
    """What the generator may draw: R covers the whole curve, and X25519 on the other side clears the rest."""
    server = b"\x06" * 32
    for number in range(1, 200):
        secret = bytes([number]) * 32
        u = independent_v2.shifted(int.from_bytes(crypto_scalarmult_base(secret), "little"), times)
        if found := independent_v2.representatives(u):
            break
    else:
        pytest.fail("half of all points are in the image of the map")
    for representative in found:
        packet = representative.to_bytes(32, "little") + bytes(133)
        theirs = v2.schedule_untrusted(packet, server, crypto_scalarmult_base(server))
        ours = v2.ephemeral_schedule(secret, crypto_scalarmult_base(server), packet[:32])
        assert theirs == ours
