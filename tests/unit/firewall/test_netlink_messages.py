"""Bytes to and from the kernel, written out by hand from linux/netlink.h and linux/netfilter/nf_tables.h."""

import errno
import sys

import pytest

from openme.firewall.nft import _kernel_refresh
from openme.firewall.nft_elements import parse_elements, refreshed, removed
from openme.firewall.nft_listing import _comment
from openme.netlink import nftables
from openme.netlink.codec import attribute, attributes, nested
from openme.netlink.nftables import Message, batch
from openme.netlink.sockets import NetlinkError

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes are written out for little-endian machines"
)

KEY = bytes([192, 0, 2, 7])


def test_attributes_are_padded_but_their_length_is_not() -> None:
    assert attribute(3, b"abcde") == bytes.fromhex("09000300 6162636465 000000")
    assert nested(3, b"") == bytes.fromhex("04000380")


def test_attribute_longer_than_its_length_field() -> None:
    attribute(1, bytes(65531))
    with pytest.raises(ValueError, match="65535"):
        attribute(1, bytes(65532))


def test_attributes_come_apart_again() -> None:
    data = attribute(1, b"a") + nested(2, attribute(3, b"four"))
    assert list(attributes(data)) == [(1, b"a"), (2, attribute(3, b"four"))]


@pytest.mark.parametrize("data", ["0400", "03000100", "09000100 61626364", "08000100 61626364 00"])
def test_attributes_that_do_not_add_up(data: str) -> None:
    with pytest.raises(ValueError, match="netlink"):
        list(attributes(bytes.fromhex(data)))


def test_a_batch_is_framed_and_numbered() -> None:
    assert batch([Message(12, 0x400, 1, b"\x04\0\x01\0")], 5) == bytes.fromhex(
        "14000000 1000 0100 05000000 00000000 00 00 000a"
        "18000000 0c0a 0504 06000000 00000000 01 00 0000 04000100"
        "14000000 1100 0100 07000000 00000000 00 00 000a"
    )


def test_refresh_on_kernels_that_take_an_expiration() -> None:
    (only,) = refreshed("t1", "s1", {KEY: 30_000}, "expires")
    assert only == Message(12, 0x400, 1, bytes.fromhex(
        "07000100 74310000 07000200 73310000"
        "2c000380 28000180"
        "0c000180 08000100 c0000207"
        "0c000400 0000000000007530"
        "0c000500 0000000000007530"
    ))  # fmt: skip


def test_refresh_on_kernels_that_do_not() -> None:
    add, delete, again = refreshed("t1", "s1", {KEY: 30_000}, "replace")
    head = "07000100 74310000 07000200 73310000"
    assert add == again == Message(12, 0x400, 1, bytes.fromhex(
        head + "20000380 1c000180 0c000180 08000100 c0000207 0c000400 0000000000007530"
    ))  # fmt: skip
    assert delete == Message(14, 0, 1, bytes.fromhex(head + "14000380 10000180 0c000180 08000100 c0000207"))


def test_removal_puts_the_element_there_first() -> None:
    assert [(item.kind, item.flags) for item in removed("t1", "s1", [KEY])] == [(12, 0x400), (14, 0)]


def test_many_elements_fit_into_their_messages() -> None:
    crowd = {number.to_bytes(16): 30_000 for number in range(2001)}
    items = list(refreshed("openme", "v6_0123456789abcdef0123", crowd, "expires"))
    assert len(items) == 3
    sizes = [len(dict(attributes(item.attributes))[3]) for item in items]
    assert sizes == [52_000, 52_000, 52]


def test_elements_of_a_dump() -> None:
    item = nested(1, nested(1, attribute(1, KEY)) + attribute(4, bytes(8)) + attribute(5, bytes(7) + b"\x09"))
    for_ever = nested(1, nested(1, attribute(1, KEY)))
    assert list(parse_elements({3: item + for_ever})) == [(KEY, 9), (KEY, None)]
    assert list(parse_elements({})) == []


@pytest.mark.parametrize(
    "data",
    [
        nested(2, nested(1, attribute(1, KEY))),
        nested(1, b""),
        nested(1, nested(1, attribute(1, KEY)) + attribute(5, b"1234")),
        nested(1, nested(1, attribute(1, KEY)))[:-1],
    ],
    ids=["another_kind", "no_key", "short_time", "cut"],
)
def test_elements_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(parse_elements({3: data}))


@pytest.mark.parametrize(
    ("answers", "refused"),
    [
        ({6: 0, 7: 0}, None),
        ({6: 0, 7: errno.ENOENT}, errno.ENOENT),
        ({5: errno.EPERM}, errno.EPERM),
        ({6: 0}, errno.EBADMSG),
        ({}, errno.EBADMSG),
    ],
    ids=["all_done", "one_refused", "batch_refused", "one_unanswered", "silence"],
)
def test_a_batch_is_done_only_if_every_message_is(answers: dict[int, int], refused: int | None) -> None:
    if refused is None:
        nftables._check(answers, 5, 2)
    else:
        with pytest.raises(NetlinkError) as caught:
            nftables._check(answers, 5, 2)
        assert caught.value.errno == refused


@pytest.mark.parametrize(
    ("release", "way"),
    [
        ("5.10.0-30-amd64", "replace"),
        ("6.1.0-9-amd64", "replace"),
        ("6.11.9", "replace"),
        ("6.12.0+deb13", "expires"),
        ("6.18.44", "expires"),
        ("7.0", "expires"),
        ("unknown", "replace"),
    ],
)
def test_the_way_to_refresh_follows_the_kernel(release: str, way: str) -> None:
    assert _kernel_refresh(release) == way


@pytest.mark.parametrize(
    ("userdata", "comment"),
    [("0004 61626300", "abc"), ("0101ff 0003 616200", "ab"), ("", ""), ("01", ""), ("00ff 6162", "ab"), ("0101ff", "")],
)
def test_comments_in_user_data(userdata: str, comment: str) -> None:
    assert _comment(bytes.fromhex(userdata)) == comment
