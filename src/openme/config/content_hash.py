"""Whether two processes, perhaps in two mount namespaces, mean the same file: by what stands in it.

Names, inodes and devices do not tell: a file that is mounted alone into a container has another name there, and goes on
being the old one when an edit renames a new file over it.
"""

import hashlib
import os
import stat
from pathlib import Path

from openme.config.files import MAX_BYTES


def content_hash(path: Path) -> str | None:
    """SHA-256 of the file's bytes in hexadecimal; None where it cannot be read as a config could."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_size > MAX_BYTES:
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
