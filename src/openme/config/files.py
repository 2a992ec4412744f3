"""Reading configuration files that hold secrets: who may see them is checked on the opened file, not on its name."""

import errno
import os
import stat
from pathlib import Path

from openme.config.faults import ConfigError, ConfigFault
from openme.config.nodes import MAX_CHARACTERS

MAX_BYTES = 4 * MAX_CHARACTERS  # UTF-8 needs at most four bytes a character


def file_error(path: Path, message: str, hint: str | None = None) -> ConfigError:
    """An error about the file as a whole."""
    return ConfigError(ConfigFault(path, 0, "", message, hint))


def check_server_file(status: os.stat_result, path: Path, user: int) -> tuple[str, ...]:
    """Warnings about owner and mode of a server's file; ConfigError if anybody else may read or change it.

    `user` is the effective user id. Group-readable is how an existing package leaves the file (spec config.md), so
    that alone is a warning.
    """
    if status.st_uid not in (0, user):
        raise file_error(
            path,
            "expected root or the user running this as owner: whoever owns the file can change it",
            f"chown root {path}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o027:
        raise file_error(
            path, f"expected mode 0600, found {mode:04o}: others can read or write it", f"chmod 600 {path}"
        )
    if mode & 0o040:
        return (f"{path}: its group can read the private key (mode {mode:04o}); cure: chmod 600 {path}",)
    return ()


def check_client_file(status: os.stat_result, path: Path, *, private_key: bool, commands: bool) -> None:
    """ConfigError if others may read a file with a private key in it, or write one whose commands we would run."""
    mode = stat.S_IMODE(status.st_mode)
    if private_key and mode & 0o077:
        raise file_error(
            path, f"expected mode 0600 for a private key, found {mode:04o}: others can read it", f"chmod 600 {path}"
        )
    if commands and mode & 0o022:
        raise file_error(
            path, f"expected mode 0600 beside post_knock, found {mode:04o}: others can write it", f"chmod 600 {path}"
        )


def open_regular(path: Path, missing_hint: str) -> int:
    """A descriptor to read a regular file with. A pipe or device is refused without waiting for it; ConfigError."""
    flags = os.O_RDONLY
    for name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # Windows has the first alone
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise file_error(path, "no such file", missing_hint) from None
    except PermissionError:
        raise file_error(path, "cannot be read: permission denied", "run this as root or as the file's owner") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else "not a path"
        raise file_error(path, f"cannot be read: {reason}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise file_error(path, "expected a regular file")
    return descriptor


def read_text(descriptor: int, path: Path) -> str:
    """All of an opened file as text, without a byte order mark; ConfigError if it is too long or not UTF-8."""
    chunks = []
    size = 0
    while True:
        try:
            chunk = os.read(descriptor, 2**20)
        except OSError as error:
            raise file_error(path, f"cannot be read: {os.strerror(error.errno or errno.EIO).lower()}") from None
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise file_error(path, f"expected at most {MAX_BYTES // 2**20} MiB")
    raw = b"".join(chunks)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(ConfigFault(path, line, "", "expected UTF-8 text")) from None
