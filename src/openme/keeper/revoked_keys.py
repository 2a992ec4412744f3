"""The keys that were revoked: `revoked` in `state_dir`, and `revoked.copy` beside it.

    openme revoked keys 1
    KEY TIME NAME
    ...
    sha256 HEX

A line a key: the public key in base64, when it was revoked (RFC 3339), and the client's name then, to the end of the
line. The last line is SHA-256 over all lines before it, so that half a file, or one with a slip in it, is not taken for
a shorter list. Both files are replaced in one step each, mode 0600, and hold the same; a key that either names is
revoked. So whatever happens between the two steps, and to one of the two files, leaves a revoked client out.
"""

import base64
import binascii
import hashlib
import os
import shlex
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from openme.config.client_index import Fewer
from openme.config.faults import ConfigFault
from openme.config.locked import locked_directory, replace_file
from openme.config.model import MOST_DISABLED, DisabledClient, ServerConfig
from openme.config.section import shown
from openme.errors import OpenmeError
from openme.moments import rfc3339
from openme.ports import merged

FILE_NAME = "revoked"
COPY_NAME = "revoked.copy"
WHY = "its key is revoked"
"""Why a client opens nothing, as the log has it."""
KEY_SIZE = 32  # bytes, RFC 8032 section 5.1.5
_HEAD = "openme revoked keys 1"
_CHECK = "sha256 "
_MAX_BYTES = 64 * 2**20


class Revocation(NamedTuple):
    """When a key was revoked (RFC 3339), and whose it was then."""

    name: str
    at: str


@dataclass(frozen=True, slots=True)
class RevokedKeys:
    """What is known: revocations by 32-byte public key.

    `is_there`: whether there is a file at all. `damage`: what is wrong with one of the two, in a line; None if nothing.
    """

    keys: Mapping[bytes, Revocation]
    is_there: bool
    damage: str | None = None


class _BadFile(Exception):  # noqa: N818  # not an error by itself: the other file may do
    """One of the two files is not what it should be."""


def read_revoked(state_dir: Path) -> RevokedKeys:
    """The revoked keys; none where neither file is there. OpenmeError when no file can be read."""
    path = state_dir / FILE_NAME
    found: dict[bytes, Revocation] = {}
    faults = []
    missing = 0
    before = None
    for name in (COPY_NAME, FILE_NAME):  # the second one's lines win
        try:
            content = _content(state_dir / name)
            if content is not None and content != before:
                found |= _parsed(content)
        except _BadFile as bad:
            faults.append(str(bad))
            continue
        except ValueError:
            faults.append(f"{state_dir / name}: not a list of revoked keys, or half of one")
            continue
        missing += content is None
        before = content
    good = 2 - missing - len(faults)
    if not good and faults:
        raise OpenmeError(
            f"{faults[-1]}: who was revoked is not known",
            f"put {path} back as it was; without it: take every revoked client out of the config, then remove"
            f" {path} and {state_dir / COPY_NAME}",
        )
    damage = faults[0] if faults else None
    if damage is None and good and not path.exists():
        damage = f"{path}: is gone"
    return RevokedKeys(found, bool(good), damage)


def revoke_keys(state_dir: Path, keys: Iterable[bytes], name: str, unix: float) -> None:
    """Have these keys among the revoked ones, on the disk, when this returns. OpenmeError if that cannot be.

    A key that is there already keeps its line.
    """
    _make(state_dir)
    path = state_dir / FILE_NAME
    with locked_directory(state_dir, path):
        known = read_revoked(state_dir)
        revocation = Revocation("".join(c if c.isprintable() else "?" for c in name), rfc3339(unix))
        new = {key: revocation for key in keys if key not in known.keys}
        if new or known.damage is not None:
            _write(state_dir, {**known.keys, **new})


def lift_key(state_dir: Path, key: bytes) -> bool:
    """Take a key out of the revoked ones; whether it was one. OpenmeError if that cannot be: it is one still."""
    with locked_directory(state_dir, state_dir / FILE_NAME):
        known = read_revoked(state_dir)
        if key not in known.keys:
            return False
        _write(state_dir, {k: v for k, v in known.keys.items() if k != key})
        return True


def without_revoked(config: ServerConfig, revoked: Mapping[bytes, Revocation]) -> ServerConfig:
    """The config in which an entry with a revoked key is disabled, as one with a fault is: its ports stay hidden."""
    disabled = revoked_names(config, revoked)
    if not disabled:
        return config
    ports = [r for name in disabled for r in config.clients[name].ports]
    keys = [config.clients[name].public_key.raw for name in disabled]
    gone = (DisabledClient(name, config.clients[name].public_key, WHY) for name in disabled)
    less = replace(
        config,
        clients=Fewer(config.clients, disabled),
        disabled=(*config.disabled, *gone)[:MOST_DISABLED],
        client_faults=(*config.client_faults, *(_fault(config, name, revoked) for name in disabled)),
        orphan_ports=merged((*config.orphan_ports, *ports)),
    )
    # The same ports are named as before.
    return less.with_index(config.index.without(keys), config.named_ports)


def revoked_names(config: ServerConfig, revoked: Mapping[bytes, Revocation]) -> Collection[str]:
    """The names of the clients whose key is among the revoked ones, in the order of the file."""
    found = [client for key in revoked if (client := config.index.by_key(key)) is not None]
    return [client.name for client in sorted(found, key=lambda client: client.line)]


def cure(name: str, key: object) -> str:
    """The command that lifts the revocation of a client's key (its text form)."""
    return f"openme add {shlex.quote(name)} --pubkey {shlex.quote(str(key))}"


def _fault(config: ServerConfig, name: str, revoked: Mapping[bytes, Revocation]) -> ConfigFault:
    client = config.clients[name]
    message = f"its key was revoked ({revoked[client.public_key.raw].at}) and opens nothing; to let it in again: "
    return ConfigFault(config.path, client.line, f"clients.{shown(name)}", message + cure(name, client.public_key))


def _make(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OpenmeError(f"state_dir {state_dir}: {error.strerror}", "run it as root: sudo openme …") from None


def _write(state_dir: Path, keys: Mapping[bytes, Revocation]) -> None:
    lines = [_HEAD, *(f"{base64.b64encode(key).decode('ascii')} {r.at} {r.name}" for key, r in keys.items())]
    body = "".join(f"{line}\n" for line in lines).encode()
    content = body + f"{_CHECK}{hashlib.sha256(body).hexdigest()}\n".encode()
    # The server, which may be another user than who runs the command, is to read it.
    owner = state_dir.stat()
    for name in (FILE_NAME, COPY_NAME):
        replace_file(state_dir / name, content, owner, state_dir / name)


def _content(path: Path) -> bytes | None:
    """What stands in one of the files, None if it is not there; _BadFile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _BadFile(f"{path}: cannot be read: {(error.strerror or 'failed').lower()}") from None
    try:
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _BadFile(f"{path}: expected a regular file")
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise _BadFile(f"{path}: cannot be read: {(error.strerror or 'failed').lower()}") from None


def _parsed(content: bytes) -> dict[bytes, Revocation]:
    """ValueError for anything that `_write` does not write."""
    end = content.rfind(_CHECK.encode())
    body, check = content[:end], content[end:]
    if check != f"{_CHECK}{hashlib.sha256(body).hexdigest()}\n".encode():
        raise ValueError
    head, *lines = body.decode("utf-8").removesuffix("\n").split("\n")
    if head != _HEAD:
        raise ValueError
    found = {}
    for line in lines:
        text, at, name = line.split(" ", 2)
        key = binascii.a2b_base64(text, strict_mode=True)
        if len(key) != KEY_SIZE:
            raise ValueError
        found[key] = Revocation(name, at)
    return found
