"""From datagram to frame: M decides which version it is, keys come and go, and nothing is left of those that went."""

import hashlib
from functools import cache
from ipaddress import ip_address

import pytest

from openme.keys.x25519 import ServerPrivateKey
from openme.listener.listener import Listener
from openme.seam.messages import (
    ForgetEpochKey,
    ForgetV1Key,
    Frame,
    UseEpochKey,
    UseV1Key,
)
from openme.wire import v1, v2
from openme.wire.knock import BadPacket
from support import independent_v2
from support.knocks import ALICE, EPOCH, HOME, SERVER, START, listener, nonce, obey, packet, packet_v2, ratchet

OLD_SERVER = ServerPrivateKey(b"\x12" * 32)
PUBLIC = ratchet().public_keys(EPOCH, 1)[0]


def reason(made: Listener, datagram: bytes) -> str:
    with pytest.raises(BadPacket) as caught:
        made.frame_untrusted(datagram, HOME)
    return caught.value.reason


def frame(made: Listener, datagram: bytes) -> Frame:
    return made.frame_untrusted(datagram, HOME)[0]


def give(made: Listener, epoch: int) -> None:
    obey(made, UseEpochKey(epoch, ratchet(min(epoch, EPOCH)).private_key(epoch)))


@cache
def beginning_with_0x01() -> bytes:
    """A version 2 knock whose R begins like a version 1 packet: one in 256 does."""
    for number in range(5000):
        pair = independent_v2.ephemeral(hashlib.sha256(str(number).encode()).digest())
        if pair[0][0] == v1.VERSION:
            fields = b"\x02" + START.to_bytes(8, "big") + nonce(number) + bytes(16)
            return independent_v2.sealed(PUBLIC, ALICE.seed, fields, pair)[0]
    raise AssertionError("none in 5000")


# -- which version it is


def test_a_version_2_knock_becomes_a_frame_with_its_epoch_and_its_receipts_keys() -> None:
    datagram = packet_v2()
    made, receipt = listener().frame_untrusted(datagram, HOME)
    assert (made.version, made.source, made.epoch, made.packet) == (2, HOME, EPOCH, datagram)
    assert v2.open_untrusted(datagram, made.aead_key, made.aead_nonce).key_id == ALICE.public.key_id
    opened = independent_v2.opened(datagram, ratchet().private_key(EPOCH), ALICE.public.raw)
    assert receipt is not None
    assert (receipt.id, receipt.key, receipt.nonce) == opened.receipt


def test_a_version_1_knock_becomes_a_frame_without_a_receipt() -> None:
    made, receipt = listener().frame_untrusted(packet(), ip_address("2001:db8::7"))
    assert (made.version, made.epoch, str(made.source), made.packet) == (1, 0, "2001:db8::7", packet())
    assert v1.open_untrusted(packet(), made.aead_key).random_nonce == nonce("a")
    assert receipt is None


def test_m_decides_and_not_the_first_byte() -> None:
    datagram = beginning_with_0x01()
    assert datagram[0] == 0x01
    made = listener()
    assert made.version_untrusted(datagram) == 2
    assert frame(made, datagram).version == 2


def test_what_fits_the_filter_is_version_2_and_nothing_else() -> None:
    """A version 1 packet with a right M in it is a version 2 packet that does not decrypt."""
    old = packet()
    both = old[:32] + independent_v2.filter_mac(PUBLIC, old) + old[40:]
    made = listener()
    assert made.version_untrusted(both) == 2
    assert reason(made, both) == "decrypt"


def shaped() -> bytearray:
    """Bytes that are no version 2 knock, and look like version 1 in all that noise can be told by."""
    made = bytearray(packet_v2())
    made[0], made[32], made[164] = 0x01, 0x7F, 0x10
    return made


def test_what_fits_no_filter_is_version_1_by_its_shape() -> None:
    made = listener()
    assert made.version_untrusted(bytes(shaped())) == 1
    assert reason(made, bytes(shaped())) == "decrypt"


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (0, 2), (0, 0x81), (32, 0x80), (32, 0xFF), (164, 0x11), (164, 0x90), (164, 0xFF)]
)
def test_what_fits_no_filter_and_has_not_its_shape_is_of_no_version(offset: int, value: int) -> None:
    datagram = shaped()
    datagram[offset] = value
    assert reason(listener(), bytes(datagram)) == "filter"


@pytest.mark.parametrize("datagram", [b"", b"\x01", packet()[:-1], packet_v2()[:-1], packet_v2() + b"x"])
def test_another_length_is_of_no_version(datagram: bytes) -> None:
    made = listener()
    with pytest.raises(BadPacket, match="length"):
        made.version_untrusted(datagram)
    assert reason(made, datagram) == "length"


def test_without_a_version_1_key_version_1_is_off() -> None:
    made = Listener()
    give(made, EPOCH)
    assert reason(made, packet()) == "filter"
    assert frame(made, beginning_with_0x01()).version == 2


def test_without_an_epoch_key_version_2_is_off() -> None:
    made = Listener()
    obey(made, UseV1Key(0, SERVER.raw))
    assert reason(made, packet_v2(label="not 1")) == "filter"
    assert reason(made, bytes(shaped())) == "decrypt"
    assert frame(made, packet()).version == 1


def test_a_new_listener_takes_nothing() -> None:
    assert [reason(Listener(), datagram) for datagram in (packet(), packet_v2())] == ["filter", "filter"]


def test_a_low_order_r_is_refused() -> None:
    number = independent_v2.representatives(1)[0]
    raw = number.to_bytes(32, "little") + bytes(133)
    assert reason(listener(), raw[:32] + independent_v2.filter_mac(PUBLIC, raw) + raw[40:]) == "low_order"


# -- epochs


def test_two_live_epochs_are_told_apart() -> None:
    made = listener()
    give(made, EPOCH + 1)
    now, next_one = packet_v2(), packet_v2(epoch=EPOCH + 1)
    assert [frame(made, datagram).epoch for datagram in (now, next_one)] == [EPOCH, EPOCH + 1]
    obey(made, ForgetEpochKey(EPOCH))
    assert reason(made, now) == "filter"
    assert frame(made, next_one).epoch == EPOCH + 1


def test_a_forgotten_key_is_wiped_in_its_place() -> None:
    made = Listener()
    private = ratchet().private_key(EPOCH)
    obey(made, UseEpochKey(EPOCH, private))
    obey(made, ForgetEpochKey(EPOCH))
    assert private == bytes(32)


def test_a_key_that_takes_anothers_place_wipes_it() -> None:
    made = Listener()
    old, new = (bytes(bytearray(ratchet().private_key(EPOCH + n))) for n in (1, 0))
    obey(made, UseEpochKey(EPOCH, old))
    obey(made, UseEpochKey(EPOCH, new))
    assert old == bytes(32)
    assert frame(made, packet_v2()).epoch == EPOCH


def test_forgetting_what_is_not_there_changes_nothing() -> None:
    made = listener()
    obey(made, ForgetEpochKey(EPOCH + 5))
    obey(made, ForgetV1Key(7))
    assert frame(made, packet_v2()).version == 2
    assert frame(made, packet()).version == 1


def test_only_orders_about_keys_reach_the_keys() -> None:
    assert set(listener().handlers) == {UseV1Key, ForgetV1Key, UseEpochKey, ForgetEpochKey}


# -- version 1's keys


def test_two_version_1_keys_are_accepted_while_a_change_is_under_way() -> None:
    made = Listener()
    obey(made, UseV1Key(0, SERVER.raw))
    obey(made, UseV1Key(1, OLD_SERVER.raw))
    new, old = packet(), packet(server_public=OLD_SERVER.public)
    assert [frame(made, datagram).packet for datagram in (new, old)] == [new, old]
    obey(made, ForgetV1Key(1))
    assert frame(made, new).packet == new
    assert reason(made, old) == "decrypt"
    obey(made, ForgetV1Key(0))
    assert reason(made, new) == "filter"


def test_a_changed_version_1_key_takes_the_place_of_the_one_with_its_number() -> None:
    made = Listener()
    obey(made, UseV1Key(0, OLD_SERVER.raw))
    obey(made, UseV1Key(0, SERVER.raw))
    assert frame(made, packet()).version == 1
    assert reason(made, packet(server_public=OLD_SERVER.public)) == "decrypt"
