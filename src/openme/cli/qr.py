"""QR codes for the phone apps."""

import io
import json
import sys

import segno

from openme.config.model import ServerConfig
from openme.errors import OpenmeError
from openme.keys.ed25519 import ClientPrivateKey, encode_base64


def phone_json(profile: str, config: ServerConfig, private: ClientPrivateKey) -> str:
    """What the existing phone apps scan: one JSON object."""
    return json.dumps(
        {
            "profile": profile,
            "host": config.host,
            "udp_port": config.udp_port,
            "server_pubkey": encode_base64(config.public_key),
            "client_privkey": private.to_base64(),
            "client_pubkey": str(private.public),
        },
        separators=(",", ":"),
    )


def print_qr(content: str) -> None:
    """Draw the code on stderr: stdout carries the profile. OSError if it cannot be written."""
    _code(content, "l").terminal(out=sys.stderr, compact=True)
    sys.stderr.flush()


def image(content: str, suffix: str) -> bytes:
    """The code as PNG or SVG, as the suffix says (with its dot). OpenmeError if it is too much for a QR code."""
    buffer = io.BytesIO()
    _code(content, "m").save(buffer, kind=suffix.lower().lstrip("."), scale=6)
    return buffer.getvalue()


def check(content: str) -> None:
    """OpenmeError if `print_qr` could not draw it: before anything is done."""
    _code(content, "l")


def _code(content: str, error: str) -> segno.QRCode:
    try:
        return segno.make_qr(content, error=error)
    except segno.DataOverflowError:
        raise OpenmeError("the profile is too long for a QR code", "give it a shorter name: --profile") from None
