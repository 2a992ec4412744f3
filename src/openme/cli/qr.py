"""QR codes for the phone apps."""

import io
import json
import os
import sys
from pathlib import Path

import segno

from openme.config.model import ServerConfig
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
    """Draw the code on stderr: stdout carries the profile."""
    segno.make(content, micro=False, error="l").terminal(out=sys.stderr, compact=True)


def write_qr(content: str, path: Path) -> None:
    """Write the code as PNG or SVG, as the name ends; the file is born 0600. OSError if the disk refuses."""
    buffer = io.BytesIO()
    segno.make(content, micro=False, error="m").save(buffer, kind=path.suffix.lower().lstrip("."), scale=6)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(buffer.getvalue())
