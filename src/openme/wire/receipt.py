"""The receipt of a version 2 knock: what the server says on its health port (spec wire-v2.md "Receipt").

ChaCha20-Poly1305 under the knock's receipt key and nonce, the receipt id as additional data, of JSON padded with spaces
so that the whole answer is 4096 bytes long or a multiple of that.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt
from nacl.exceptions import CryptoError

from openme.keys import sodium
from openme.reasons import Reason
from openme.wire.base import ReceiptKeys
from openme.wire.knock import BadPacket, IPAddress

STEP = 4096
TAG_SIZE = 16
MAX_SIZE = 64 * 1024
EPOCH_KEY_SIZE = 32
_MAX_TEXT = 4096  # characters of the client's name, of a port, and of ports in all


class EpochKeyList(NamedTuple):
    """Public keys of consecutive epochs: `keys[n]`, 32 bytes, belongs to epoch `first + n`."""

    first: int
    keys: tuple[bytes, ...]


class Receipt(NamedTuple):
    """What a server opened: for whom, for which address, which ports, until when; times in Unix seconds.

    `network`: what it is open to besides; None: to the address alone.
    """

    client: str
    ip: IPAddress
    ports: tuple[str, ...]
    expires_at: float
    server_time: float
    epoch_keys: EpochKeyList | None = None
    network: IPv4Network | IPv6Network | None = None


def receipt_text(receipt: Receipt) -> bytes:
    """The JSON of a receipt, without padding. It is put together in one step, so that wiping it leaves no copy."""
    parts = [
        b'{"client": ',
        json.dumps(receipt.client).encode("ascii"),
        b', "ip": ',
        json.dumps(str(receipt.ip)).encode("ascii"),
        b', "ports": ',
        f"[{', '.join(map(json.dumps, receipt.ports))}]".encode("ascii"),
        b', "expires_at": %d, "server_time": %d' % (int(receipt.expires_at), int(receipt.server_time)),
    ]
    if receipt.network is not None:
        parts += [b', "network": ', json.dumps(str(receipt.network)).encode("ascii")]
    if receipt.epoch_keys is not None:
        keys = base64.b64encode(b"".join(receipt.epoch_keys.keys))
        parts += [b', "epoch_keys": {"first": %d, "keys": "' % receipt.epoch_keys.first, keys, b'"}']
    parts.append(b"}")
    return b"".join(parts)


def seal_receipt(text: bytes, keys: ReceiptKeys) -> bytes:
    """The answer on the health port. ValueError if it would be longer than a client reads."""
    size = -(-(len(text) + TAG_SIZE) // STEP) * STEP
    if size > MAX_SIZE:
        raise ValueError("the receipt is too long")
    with sodium.Secret(size - TAG_SIZE) as padded:
        padded.data[: len(text)] = text
        padded.data[len(text) :] = b" " * (len(padded.data) - len(text))
        return sodium.seal_aead(padded, keys.id, keys.nonce, keys.key)


def open_receipt_untrusted(answer: bytes, keys: ReceiptKeys) -> Receipt:
    """What an answer says, if the server that decrypted the knock has made it. BadPacket: `receipt`.

    Anything else, from an empty answer to JSON of another shape, is no receipt.
    """
    if len(answer) > MAX_SIZE:
        raise BadPacket(Reason.RECEIPT)
    try:
        text = crypto_aead_chacha20poly1305_ietf_decrypt(answer, keys.id, keys.nonce, keys.key)
        return _receipt(json.loads(text.decode("utf-8")))
    except (CryptoError, ValueError, TypeError, KeyError, RecursionError):
        raise BadPacket(Reason.RECEIPT) from None


def _receipt(value: dict[str, Any]) -> Receipt:
    said = ip_address(_text(value["ip"]))
    ip = said.ipv4_mapped or said if said.version == 6 else said
    network = None if value.get("network") is None else ip_network(_text(value["network"]))
    if network is not None and ip not in network:
        raise ValueError("network")
    return Receipt(
        client=_text(value["client"]),
        ip=ip,
        ports=tuple(_text(item) for item in _list(value["ports"])),
        expires_at=_number(value["expires_at"]),
        server_time=_number(value["server_time"]),
        epoch_keys=None if value.get("epoch_keys") is None else _epoch_keys(value["epoch_keys"]),
        network=network,
    )


def _epoch_keys(value: dict[str, Any]) -> EpochKeyList:
    first = value["first"]
    if type(first) is not int or not 0 <= first < 2**63:
        raise ValueError("first")
    try:
        raw = base64.b64decode(_text(value["keys"], MAX_SIZE), validate=True)
    except binascii.Error:
        raise ValueError("keys") from None
    if len(raw) % EPOCH_KEY_SIZE:
        raise ValueError("keys")
    return EpochKeyList(first, tuple(raw[i : i + EPOCH_KEY_SIZE] for i in range(0, len(raw), EPOCH_KEY_SIZE)))


def _text(value: object, most: int = _MAX_TEXT) -> str:
    """Text that may go to a terminal: printable, and not endless."""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError("text")
    return value


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list) or len(value) > _MAX_TEXT:
        raise ValueError("list")
    return value


def _number(value: object) -> float:
    """Unix seconds that a calendar knows."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**37:  # NaN is not, either
        raise ValueError("number")
    return float(value)
