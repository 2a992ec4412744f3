"""What is stored, for the server that starts and for commands, whether a server runs or not."""

import base64
import errno
import logging
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.control import asking
from openme.control.requests import Stored, StoredReply
from openme.errors import OpenmeError
from openme.firewall.base import Steps
from openme.moments import rfc3339
from openme.store.base import Seen, Store, StoreError
from openme.store.reader import read_renewals, read_seen
from openme.store.sqlite import make_memory

REFUSES_CHANGES = {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""What a disk says that takes no changes but can be read."""

_AT_ONCE = 200  # clients of one step

_log = logging.getLogger("openme.server")


def prepare_memory(config: ServerConfig, *, is_new: bool) -> None:
    """Give a new server its empty replay memory, as `init` does.

    A config with clients that speak nothing but version 2 is of a server that has lived: their files carry keys of a
    ratchet that was here. Where the disk refuses, the start goes on as one without a memory.
    """
    knows_clients = any(client.needs_epochs for client in config.clients.values())
    if is_new and not knows_clients:
        try:
            make_memory(config.state_dir)
        except StoreError as error:
            _log.error("%s", error.message)  # one line for the operator


def say_memory(store: Store, now: Now) -> None:
    """Say what of the replay memory was lost, and at each start whom that keeps out for how long."""
    if store.damage is not None:
        _log.error("the replay memory was damaged (%s) and has been set aside", store.damage)
    floor_ns = store.floor_ns
    if floor_ns is None:
        return
    if store.loss is not None:
        _log.error(
            "the replay memory may be incomplete (%s): no knock signed before %s is accepted any more",
            store.loss,
            moment(floor_ns),
        )
    if floor_ns > now.unix_ns:
        _log.error(
            "nobody gets in before %s: the replay memory was lost, and knocks dated up to then may have been used"
            " already; if this machine's clock is right: openme reset --all",
            moment(floor_ns),
        )


def moment(unix_ns: int) -> str:
    """A signed time as people read it."""
    try:
        return rfc3339(unix_ns / 10**9)
    except (OverflowError, ValueError, OSError):
        return "a time beyond the calendar"


def stored_reply(store: Store) -> Steps[StoredReply]:
    """The server's answer to a command that would read the database, which the server keeps to itself. StoreError."""
    seen: list[tuple[Any, ...]] = []
    for part in store.seen_in_parts(_AT_ONCE):
        seen += [(_text(key), one.name, one.at, str(one.source)) for key, one in part.items()]
        yield
    renewals: list[tuple[Any, ...]] = []
    for key, last in store.renewals().items():
        renewals.append((_text(key), last))
        if len(renewals) % _AT_ONCE == 0:
            yield
    return StoredReply(seen=seen, failing=store.failing, renewals=renewals)


def last_knocks(state_dir: Path) -> dict[bytes, Seen]:
    """The last accepted knock of every client, by public key; empty if there is none yet."""
    value = _asked(state_dir)
    if value is None:
        return read_seen(state_dir)
    return {base64.b64decode(key): Seen(name, at, ip_address(source)) for key, name, at, source in value.seen}


def renewals(state_dir: Path) -> dict[bytes, int]:
    """The last epoch whose key a client was given with a receipt, by 32-byte public key."""
    value = _asked(state_dir)
    if value is None:
        return read_renewals(state_dir)
    return {base64.b64decode(key): last for key, last in value.renewals}


def disk_fault(state_dir: Path) -> str | None:
    """Why the running server cannot write what it must, and so erases nothing; None if it can, or none runs."""
    value = _asked(state_dir)
    if value is not None and value.failing:
        return value.failing
    try:
        read_only = os.statvfs(state_dir).f_flag & os.ST_RDONLY
    except OSError:
        return None
    return os.strerror(errno.EROFS) if read_only else None


def _asked(state_dir: Path) -> StoredReply | None:
    try:
        return asking.ask(state_dir, Stored())
    except (OpenmeError, OSError):
        return None


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")
