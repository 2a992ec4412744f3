"""Small secret files of the client's, on every system that Python runs on."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, content: str) -> None:
    """Put `content` in the place of `path` in one step, mode 0600, its directory made 0700. OSError if that fails."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
