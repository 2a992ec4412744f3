"""What the operator's commands ask the running server, checked before anything is done (the control socket).

    command       fields                   the answer says
    sessions                               who is in
    reload        sha256, lifted           the file; whether a revocation by word alone was `lifted`
    client        sha256, name, keys       the file; `keys` in force under that name, whether one of all is `revoked`
    revoke        sha256, name, keys, cut  the file; `keys` that are out from now on; why doors may be open still
    close         sha256, name, cut        the file; what was done
    reset         sha256, name or all      the file; what was done
    unhide        sha256, ports            the file; what was `shown`
    stored                                 what the database knows of clients
    ratchet                                whether one was `made`
    new_ratchet   epoch_length             nothing

"The file" is four fields: `file`, the name that the server reads; `same`, whether `sha256`, of what the command wrote
or read, is that of what stands there now (None: the command could not read its own); `fault`, why that is not in force;
`reading`, whether it is being read. Fields that a command does not have are absent, and nothing else is allowed but
what an older command sends.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openme.config.content_hash import content_hash
from openme.keeper.revoked_keys import KEY_SIZE
from openme.ports import PortRange, merged, parse_port_spec
from openme.server.config_watch import ConfigWatch

COMMANDS = frozenset(
    ("sessions", "reload", "client", "revoke", "close", "reset", "unhide", "stored", "ratchet", "new_ratchet")
)
_MAX_NAME = 4096  # characters
_MAX_KEYS = 64
_MAX_PORTS = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class RequestError(Exception):
    """A request that the server does not take; its text is the answer's `error`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose fields have the right form. `keys` are 32 bytes each."""

    command: str
    name: str = ""
    keys: frozenset[bytes] = frozenset()
    lifted: frozenset[bytes] = frozenset()
    cut: bool = False
    everybody: bool = False
    sha256: str | None = None
    epoch_length: float | None = None
    ports: tuple[PortRange, ...] = ()


def parse_request(raw: bytes) -> Request:
    """The request in these bytes; RequestError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        raise RequestError("the server did not understand the request")
    if value["command"] not in COMMANDS:
        raise RequestError("the server is of another version than this command: restart it")
    try:
        return _checked(value)
    except (ValueError, TypeError):
        raise RequestError("the server did not understand the request") from None


def about_file(watch: ConfigWatch, sha256: str | None) -> dict[str, Any]:
    """The four fields about the file, for a command that has seen this hash of its own."""
    return {
        "file": str(watch.path),
        "same": None if sha256 is None else content_hash(watch.path) == sha256,
        "fault": watch.fault,
        "reading": watch.is_reading,
    }


def key_texts(keys: Iterable[bytes]) -> list[str]:
    """Public keys in the form in which requests and answers carry them."""
    return [base64.b64encode(key).decode("ascii") for key in sorted(keys)]


def parse_keys(value: object) -> frozenset[bytes]:
    """Public keys as requests and answers carry them; ValueError."""
    if not isinstance(value, list) or len(value) > _MAX_KEYS or not all(isinstance(text, str) for text in value):
        raise ValueError
    try:
        keys = frozenset(binascii.a2b_base64(text, strict_mode=True) for text in value)
    except binascii.Error:
        raise ValueError from None
    if any(len(key) != KEY_SIZE for key in keys):
        raise ValueError
    return keys


def _ports(specs: object) -> tuple[PortRange, ...]:
    if not isinstance(specs, list) or len(specs) > _MAX_PORTS or not all(isinstance(spec, str) for spec in specs):
        raise ValueError
    return merged(item for spec in specs for item in parse_port_spec(spec))


def _checked(value: dict[str, Any]) -> Request:
    name, cut, everybody = value.get("name", ""), value.get("cut", False), value.get("all", False)
    sha256, epoch_length = value.get("sha256"), value.get("epoch_length")
    if not isinstance(name, str) or len(name) > _MAX_NAME or not isinstance(cut, bool):
        raise ValueError
    if not isinstance(everybody, bool):
        raise TypeError
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError
    if epoch_length is not None and (isinstance(epoch_length, bool) or not isinstance(epoch_length, int | float)):
        raise ValueError
    return Request(
        value["command"],
        name,
        parse_keys(value.get("keys", [])),
        parse_keys(value.get("lifted", [])),
        cut,
        everybody,
        sha256,
        epoch_length,
        _ports(value.get("ports", [])),
    )
