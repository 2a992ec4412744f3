"""The receipt: what it says, how long it is, and that nothing else is one."""

import base64
import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_aead_chacha20poly1305_ietf_encrypt

from openme.wire.base import ReceiptKeys
from openme.wire.knock import BadPacket
from openme.wire.receipt import (
    MAX_SIZE,
    STEP,
    EpochKeyList,
    Receipt,
    open_receipt_untrusted,
    receipt_text,
    seal_receipt,
)

ROOT = Path(__file__).parents[3]
KEYS = ReceiptKeys(b"i" * 16, b"k" * 32, b"n" * 12)
EPOCH_KEYS = EpochKeyList(2951, tuple(bytes([number]) * 32 for number in range(53)))
RECEIPT = Receipt("alice", ip_address("203.0.113.5"), ("22/tcp", "8080-8090/udp"), 1_795_000_030, 1_795_000_000)
VALUE: dict[str, Any] = json.loads(receipt_text(RECEIPT))


def answer_of(text: bytes) -> bytes:
    """What a server that says just this sends."""
    return crypto_aead_chacha20poly1305_ietf_encrypt(text, KEYS.id, KEYS.nonce, KEYS.key)


def said(**changed: object) -> bytes:
    """A receipt with other values; a value `...` takes the key away."""
    value = VALUE | changed
    return answer_of(json.dumps({key: held for key, held in value.items() if held is not ...}).encode())


def refused(answer: bytes, keys: ReceiptKeys = KEYS) -> None:
    with pytest.raises(BadPacket, match="receipt"):
        open_receipt_untrusted(answer, keys)


# -- what it says


def test_it_says_what_the_spec_lists_and_nothing_else() -> None:
    assert VALUE == {
        "client": "alice",
        "ip": "203.0.113.5",
        "ports": ["22/tcp", "8080-8090/udp"],
        "expires_at": 1_795_000_030,
        "server_time": 1_795_000_000,
    }
    full = json.loads(receipt_text(RECEIPT._replace(epoch_keys=EPOCH_KEYS)))
    assert full.keys() == VALUE.keys() | {"epoch_keys"}
    assert full["epoch_keys"] == {"first": 2951, "keys": base64.b64encode(b"".join(EPOCH_KEYS.keys)).decode()}


@pytest.mark.parametrize("ip", ["203.0.113.5", "2001:db8::7"])
@pytest.mark.parametrize("keys", [None, EPOCH_KEYS])
def test_what_was_said_is_read(ip: str, keys: EpochKeyList | None) -> None:
    receipt = Receipt("ålice", ip_address(ip), (), 5.0, 3.0, keys)
    assert open_receipt_untrusted(seal_receipt(receipt_text(receipt), KEYS), KEYS) == receipt


@pytest.mark.parametrize(("ip", "network"), [("203.0.113.5", "203.0.113.0/24"), ("2001:db8::7", "2001:db8::/64")])
def test_a_network_that_was_opened_is_said_and_read(ip: str, network: str) -> None:
    receipt = Receipt("alice", ip_address(ip), (), 5.0, 3.0, EPOCH_KEYS, ip_network(network))
    assert json.loads(receipt_text(receipt))["network"] == network
    assert open_receipt_untrusted(seal_receipt(receipt_text(receipt), KEYS), KEYS) == receipt
    assert len(seal_receipt(receipt_text(receipt), KEYS)) == STEP


@pytest.mark.parametrize(
    "network", ["203.0.113.5/24", "198.51.100.0/24", "2001:db8::/64", "net", 7, ["203.0.113.0/24"]]
)
def test_a_network_that_is_none_or_not_the_addresss_is_no_receipt(network: object) -> None:
    refused(said(network=network))


def test_every_member_is_in_the_spec() -> None:
    """Also the ones that are openme's own (wire-v2.md "Receipt")."""
    receipt = Receipt("alice", ip_address("203.0.113.5"), (), 5.0, 3.0, EPOCH_KEYS, ip_network("203.0.113.0/24"))
    _, _, page = (ROOT / "docs/spec/wire-v2.md").read_text(encoding="utf-8").partition("\n## Receipt")
    section = page.partition("\n## ")[0]
    said = json.loads(receipt_text(receipt))
    assert "network" in said
    assert [name for name in said if f'"{name}"' not in section and f"`{name}`" not in section] == []


def test_a_mapped_address_is_the_ipv4_address_and_unknown_words_are_passed_over() -> None:
    receipt = open_receipt_untrusted(said(ip="::ffff:203.0.113.5", epoch_keys=None, motd=["new", {}]), KEYS)
    assert receipt == RECEIPT


# -- its size


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 4096), (1, 4096), (4079, 4096), (4080, 4096), (4081, 8192), (8176, 8192), (8177, 12288), (65520, 65536)],
)
def test_the_answer_is_padded_with_spaces_to_the_next_4096_bytes(text: int, size: int) -> None:
    sealed = seal_receipt(b"{" * text, KEYS)
    assert len(sealed) == size
    inside = crypto_aead_chacha20poly1305_ietf_decrypt(sealed, KEYS.id, KEYS.nonce, KEYS.key)
    assert inside == b"{" * text + b" " * (size - 16 - text)


def test_a_receipt_with_a_years_keys_fits_the_first_step() -> None:
    receipt = Receipt("a" * 64, ip_address("2001:db8:1:2:3:4:5:6"), ("8080-8090/tcp",) * 20, 1e10, 1e10, EPOCH_KEYS)
    assert len(seal_receipt(receipt_text(receipt), KEYS)) == STEP


def test_no_receipt_is_longer_than_a_client_reads() -> None:
    with pytest.raises(ValueError, match="too long"):
        seal_receipt(b"x" * (MAX_SIZE - 15), KEYS)
    body = receipt_text(RECEIPT)
    assert open_receipt_untrusted(answer_of(body.ljust(MAX_SIZE - 16)), KEYS) == RECEIPT
    refused(answer_of(body.ljust(MAX_SIZE - 15)))


# -- what is none


@pytest.mark.parametrize(
    "keys",
    [
        ReceiptKeys(b"j" * 16, KEYS.key, KEYS.nonce),
        ReceiptKeys(KEYS.id, b"l" * 32, KEYS.nonce),
        ReceiptKeys(KEYS.id, KEYS.key, b"o" * 12),
    ],
)
def test_another_id_key_or_nonce_opens_nothing(keys: ReceiptKeys) -> None:
    refused(seal_receipt(receipt_text(RECEIPT), KEYS), keys)


def test_every_changed_byte_and_every_cut_is_noticed() -> None:
    sealed = said()
    for at in range(len(sealed)):
        refused(bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]]))
        refused(sealed[:at])
    refused(sealed + b" ")


@pytest.mark.parametrize("answer", [b"", b"x", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(15), bytes(16), bytes(4096)])
def test_what_others_say_on_that_port_is_no_receipt(answer: bytes) -> None:
    refused(answer)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" " * 4000, b"null", b"5", b'"text"', b"[]", b"[{}]", b"{}", b"{", b"\xff\xfe", b"\x00", b"NaN"),
        *(b"{}{}", b"[" * 60_000, b'{"ip":' * 9000, b"1" * 5000, b'{"client": "\\ud800"}'),
    ],
)
def test_what_is_not_json_of_that_shape_is_none(text: bytes) -> None:
    refused(answer_of(text))


@pytest.mark.parametrize("key", ["client", "ip", "ports", "expires_at", "server_time"])
@pytest.mark.parametrize("value", [..., None, {}, [[]], [5], True, "\x1b[2J"])
def test_every_key_is_needed_in_its_own_kind(key: str, value: object) -> None:
    refused(said(**{key: value}))


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "a\nb", "\x00", "a\u202eb", "\u200b", "\x7f", "\ud800", "a" * 4097, "\u2028"]
)
def test_text_that_a_terminal_would_obey_is_refused(text: str) -> None:
    refused(said(client=text))
    refused(said(ports=["22/tcp", text]))


@pytest.mark.parametrize("ip", ["", "nowhere", "203.0.113.5/32", "203.0.113.5\n", "203.0.113.256", 3405803781, "::g"])
def test_what_is_no_address_is_refused(ip: object) -> None:
    refused(said(ip=ip))


@pytest.mark.parametrize("number", [True, False, "5", -1, 2**37, 1e12, 10**400, float("inf"), float("nan"), -0.5])
@pytest.mark.parametrize("key", ["expires_at", "server_time"])
def test_a_time_is_a_number_that_a_calendar_knows(key: str, number: object) -> None:
    refused(said(**{key: number}))


def test_the_largest_times_are_read() -> None:
    assert open_receipt_untrusted(said(expires_at=2**37 - 1, server_time=0), KEYS).expires_at == 2**37 - 1


def test_too_many_ports_are_refused() -> None:
    assert len(open_receipt_untrusted(said(ports=["1"] * 4096), KEYS).ports) == 4096
    refused(said(ports=["1"] * 4097))


# -- epoch keys


ONE = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize("first", [..., None, -1, 2**63, 1.0, True, "5", [], 10**400])
def test_the_first_epoch_is_a_whole_number(first: object) -> None:
    value = {"keys": ONE} if first is ... else {"first": first, "keys": ONE}
    refused(said(epoch_keys=value))


@pytest.mark.parametrize(
    "keys",
    [..., None, 5, [ONE], "=", ONE[:-1], ONE + "\n", " " + ONE, ONE.replace("A", "-"), "AAAA", "é" * 4]
    + [base64.b64encode(bytes(size)).decode() for size in (1, 31, 33, 63, 65)],
)
def test_epoch_keys_are_32_bytes_each_in_base64(keys: object) -> None:
    value = {"first": 1} if keys is ... else {"first": 1, "keys": keys}
    refused(said(epoch_keys=value))


@pytest.mark.parametrize("value", ["", [], [1], 0, True, "keys", {}])
def test_epoch_keys_of_another_kind_are_refused(value: object) -> None:
    refused(said(epoch_keys=value))


@pytest.mark.parametrize("count", [0, 1, 53, 400])
def test_as_many_epoch_keys_as_there_are_are_read(count: int) -> None:
    keys = EpochKeyList(2**63 - 1, tuple(bytes([number % 256]) * 32 for number in range(count)))
    text = receipt_text(Receipt("a", RECEIPT.ip, (), 1.0, 1.0, keys))
    assert open_receipt_untrusted(seal_receipt(text, KEYS), KEYS).epoch_keys == keys
