"""What was read below `clients:` of a large config, kept in `state_dir`, so that the next start need not read it again.

    openme parsed clients 1
    seal        32 bytes
    length      4 bytes, then as many of JSON: what else was found below `clients:`
    table       to the end of the file (client_table.py)

The copy stands for the part of the file below `clients:` and for nothing else: keys, ports and settings of the server
are always read from the file itself, and none of them is in the copy. The *seal* is an HMAC over all of the copy, the
file's name, the command line and the program, under a hash of the file, which holds the server's private key. So one
comparison says that the copy is of this very text and by this very program, undamaged, and made by somebody who could
read the file: nobody else can make one that is believed. In every other copy nothing is looked at, and the file is
read.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openme import files
from openme.config.client_table import BadTable, ClientTable, TableClients, ports_from_json, ports_to_json
from openme.config.clients_block import without_clients
from openme.config.faults import ConfigError, ConfigFault
from openme.config.model import DisabledClient, ServerConfig
from openme.config.nodes import PARSER
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPublicKey

FILE_NAME = "parsed_clients"
_UNFINISHED = "new"
MAX_BYTES = 256 * 2**20
_HEAD = b"openme parsed clients 1\n"
_SEAL_SIZE = hashlib.sha256().digest_size
_LENGTH = struct.Struct("=I")
_SEALED = len(_HEAD) + _SEAL_SIZE  # where what is sealed begins
_PERSON = b"openme copy"  # the hash of the file that commands and server compare is another, and of no use here


class BadCopy(Exception):  # noqa: N818  # not an error by itself: the file is read instead
    """There is no copy, or it is not of this file, not whole, not ours."""


def program() -> bytes:
    """What distinguishes this program from every other that may make something else of a config: 32 bytes.

    All of the package's own text counts: a version says little where it is installed from a checkout. Where that cannot
    be read nothing is the same program, not even this one at its next start.
    """
    digest = hashlib.sha256(f"{PARSER}\n{sys.version}".encode())
    folder = Path(__file__).parent.parent
    paths = sorted(folder.rglob("*.py"))
    try:
        for path in paths:
            content = path.read_bytes()
            digest.update(f"\n{path.relative_to(folder)} {len(content)}\n".encode() + content)
    except OSError:
        paths = []
    return digest.digest() if paths else secrets.token_bytes(digest.digest_size)


@dataclass(frozen=True, slots=True)
class Original:
    """What a copy is of: the text of a file, its name, what stands above it (`overrides`), and by whom it is read."""

    text: str
    path: Path
    program: bytes
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def parsed(self) -> ServerConfig:
        """All that it says; ConfigError."""
        return parse_server_config(self.text, self.path, overrides=self.overrides)

    def around_clients(self) -> ServerConfig:
        """What the file says without its clients; BadCopy where there is no telling."""
        rest = without_clients(self.text)
        if rest is None:
            raise BadCopy
        try:
            return parse_server_config(rest, self.path, overrides=self.overrides)
        except ConfigError:
            raise BadCopy from None

    def seal(self, *parts: bytes | memoryview) -> bytes:
        """Of a copy that consists of these parts."""
        key = hashlib.blake2b(self.text.encode(), person=_PERSON).digest()
        asked = json.dumps([str(self.path), sorted(self.overrides.items())]).encode("ascii")
        made = hmac.new(key, self.program + _LENGTH.pack(len(asked)) + asked, "sha256")
        for part in parts:
            made.update(part)
        return made.digest()


def front_of_copy(config: ServerConfig, original: Original) -> bytes | None:
    """What stands in a copy before the table of a config's clients; None if there can be none of this file.

    `config` is what the original says. There can be no copy where the file without its clients does not say the same of
    everything else: anchors may reach from one part into the other.
    """
    try:
        around = original.around_clients()
    except BadCopy:
        return None
    before, notes = config.warnings[: len(around.warnings)], config.warnings[len(around.warnings) :]
    bare = replace(config, clients={}, client_faults=(), disabled=(), orphan_ports=(), warnings=before)
    if bare != around:
        return None
    about = {
        "faults": [[fault.line, fault.key, fault.message, fault.hint] for fault in config.client_faults],
        "disabled": [[item.name, item.public_key.raw.hex(), item.why] for item in config.disabled],
        "orphan_ports": ports_to_json(config.orphan_ports),
        "notes": notes,
    }
    found = json.dumps(about).encode("ascii")
    front = _LENGTH.pack(len(found)) + found
    return _HEAD + original.seal(front, _block_of(config)) + front


def content_of_copy(front: bytes, config: ServerConfig) -> bytes:
    """All of a copy: what `front_of_copy` has made, and the table."""
    return front + _block_of(config)


def with_copied_clients(around: ServerConfig, content: bytes, original: Original) -> ServerConfig:
    """`around`, which is the original without its clients, with those of a copy of it; BadCopy."""
    block = memoryview(content)
    sealed = block[_SEALED:]
    if block[: len(_HEAD)] != _HEAD:
        raise BadCopy
    if not hmac.compare_digest(block[len(_HEAD) : _SEALED], original.seal(sealed)):
        raise BadCopy
    try:
        (length,) = _LENGTH.unpack_from(sealed)
        start = _LENGTH.size + length
        about = json.loads(bytes(sealed[_LENGTH.size : start]))
        table = ClientTable(sealed[start:])
        return _put_together(around, about, table)
    except (BadTable, struct.error, ValueError, KeyError, TypeError):  # sealed, and yet not what we write
        raise BadCopy from None


def parse_by_copy(original: Original) -> ServerConfig:
    """What the original says, by the copy that is in the `state_dir` it names; BadCopy."""
    around = original.around_clients()
    return with_copied_clients(around, read_copy(around.state_dir), original)


def read_copy(state_dir: Path) -> bytes:
    """The content of the file, whatever it is; BadCopy if it cannot be read or is somebody else's."""
    try:
        descriptor = os.open(state_dir / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            is_ours = status.st_uid in {0, os.geteuid()} and not status.st_mode & 0o077
            if not stat.S_ISREG(status.st_mode) or not is_ours or status.st_size > MAX_BYTES:
                raise BadCopy
            return file.read(MAX_BYTES)
    except OSError:
        raise BadCopy from None


def write_copy(state_dir: Path, content: bytes) -> None:
    """Put a copy in the place of the one that is there, 0600; OSError, and there is none, if the disk refuses.

    Whoever calls this is alone with `state_dir`. The disk is not waited for: half a copy is none.
    """
    try:
        files.replace_file(state_dir / FILE_NAME, content, durable=False, own_name=_UNFINISHED)
    except OSError:
        remove_copy(state_dir)
        raise


def remove_copy(state_dir: Path) -> None:
    """See that there is no copy: one of another config is of no use, and names people who may have gone."""
    for name in (FILE_NAME, f".{FILE_NAME}.{_UNFINISHED}"):
        with suppress(OSError):
            (state_dir / name).unlink(missing_ok=True)


def _block_of(config: ServerConfig) -> memoryview:
    if not isinstance(config.clients, TableClients):
        raise TypeError("only of a table is there a copy")
    return config.clients.table.block


def _put_together(around: ServerConfig, about: dict[str, Any], table: ClientTable) -> ServerConfig:
    return replace(
        around,
        clients=TableClients(table),
        client_faults=tuple(ConfigFault(around.path, *fault) for fault in about["faults"]),
        disabled=tuple(_disabled(*item) for item in about["disabled"]),
        orphan_ports=ports_from_json(about["orphan_ports"]),
        warnings=(*around.warnings, *about["notes"]),
    )


def _disabled(name: str, key: str, why: str) -> DisabledClient:
    return DisabledClient(name, ClientPublicKey(bytes.fromhex(key)), why)
