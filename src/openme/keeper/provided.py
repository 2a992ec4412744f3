"""Until when the client files that were made carry epoch keys: `files.json` in `state_dir`.

A file of its own, since commands write it while a server has the database. Nothing depends on it but what `openme
epochs` shows.
"""

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from openme.config.locked import locked_directory, replace_file

FILE_NAME = "files.json"


def read_files(state_dir: Path) -> dict[bytes, int]:
    """The last epoch whose key a client's newest file has, by 32-byte public key; empty if nothing is known."""
    value: Any = None
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads((state_dir / FILE_NAME).read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        return {}
    return {_key(text): last for text, last in value.items() if isinstance(last, int) and _key(text)}


def note_file(state_dir: Path, client_key: bytes, last: int) -> None:
    """A client's file was made with keys up to epoch `last`. OpenmeError if that cannot be noted."""
    path = state_dir / FILE_NAME
    with locked_directory(state_dir, path):
        files = read_files(state_dir) | {client_key: last}
        value = {base64.b64encode(key).decode("ascii"): epoch for key, epoch in files.items()}
        replace_file(path, (json.dumps(value, indent=1) + "\n").encode(), None, path)


def forget_files(state_dir: Path) -> None:
    """There is a new ratchet: the keys in all files are of no use any more."""
    with suppress(OSError):
        (state_dir / FILE_NAME).unlink()


def _key(text: str) -> bytes:
    with suppress(ValueError):
        return base64.b64decode(text, validate=True)
    return b""
