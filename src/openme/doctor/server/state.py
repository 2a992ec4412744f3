"""The state directory and its disk, and what of the keys stands there."""

import os
import time
from collections.abc import Iterator

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server
from openme.errors import OpenmeError
from openme.keeper.provided import read_files
from openme.keeper.ratchet_file import DamagedRatchetError, read_ratchet
from openme.keeper.revoked_keys import read_revoked
from openme.keys.ratchet import epoch_at
from openme.server.epoch_keys import check_length, clock_trouble
from openme.server.state_dir import is_open_to_others
from openme.server.stored import disk_fault, renewals

MISSING = "state_dir_missing"
OPEN = "state_dir_open"
DISK = "disk"
RATCHET = "ratchet"
NO_EPOCH = "no_epoch"
CLIENT_KEYS = "client_keys_ended"
REVOKED = "revoked_list"
LEAST_BYTES = 16 << 20
"""Of free space: some days of what a busy server writes."""
_MOST_NAMED = 5


def directory(server: Server) -> Iterator[Finding]:
    """Whether it is there. What else keeps a server from using it is a look of its own."""
    state_dir = server.config.state_dir
    if not state_dir.exists():
        yield Finding(
            MISSING,
            f"state_dir {state_dir} is not there: the replay memory and the epoch keys are lost, or were never made",
            "if it was moved, put it back or correct state_dir; else openme serve makes a new one, and clients need new"
            " files (openme renew NAME)",
        )


def mode(server: Server) -> Iterator[Finding]:
    """Whether it is closed to others."""
    state_dir = server.config.state_dir
    try:
        is_open = is_open_to_others(state_dir)
    except OpenmeError:
        return
    if is_open:
        yield Finding(OPEN, f"others can look into state_dir {state_dir}", f"sudo chmod 700 {state_dir}")


def disk(server: Server) -> Iterator[Finding]:
    """Whether what must be written can be."""
    state_dir = server.config.state_dir
    if not state_dir.exists():
        raise NotLookedError("there is no state_dir")
    if (fault := disk_fault(state_dir)) is not None:
        yield Finding(DISK, f"{state_dir} cannot be written: {fault}", "make room, or mount it for writing")
        return
    room = os.statvfs(state_dir)
    if room.f_bavail * room.f_frsize < LEAST_BYTES:
        left = room.f_bavail * room.f_frsize >> 10
        yield Finding(DISK, f"the disk of {state_dir} is full: {left} KiB are left", "make room on it")
    elif room.f_files and not room.f_favail:
        yield Finding(
            DISK, f"the disk of {state_dir} takes no more files", "remove some: df -i shows how many there are"
        )


def epoch_keys(server: Server) -> Iterator[Finding]:
    """Whether version 2 knocks can be read now."""
    config = server.config
    if not config.has_epochs:
        raise NotLookedError("server.protocols does not accept v2")
    try:
        ratchet = read_ratchet(config.state_dir)
        if ratchet is not None:
            check_length(ratchet, config)
    except DamagedRatchetError as error:
        yield Finding(
            RATCHET, error.message, "a restart makes a new one, and clients need new files (openme renew NAME)"
        )
        return
    except OpenmeError as error:
        yield Finding(RATCHET, error.message, error.hint or "docs/key-management.md")
        return
    if ratchet is None:
        yield Finding(
            RATCHET,
            f"there are no epoch keys in {config.state_dir}",
            "a restart makes new ones, and clients need new files (openme renew NAME)",
        )
        return
    trouble = clock_trouble(ratchet, time.time_ns())
    ratchet.forget()
    if trouble is not None:
        yield Finding(NO_EPOCH, f"no version 2 knock is accepted: {trouble[0]}", trouble[1])


def client_keys(server: Server) -> Iterator[Finding]:
    """Clients whose epoch keys have ended, by all that is known of them."""
    config = server.config
    if not config.has_epochs:
        raise NotLookedError("server.protocols does not accept v2")
    files, fetched = read_files(config.state_dir), renewals(config.state_dir)
    epoch = epoch_at(time.time_ns(), int(config.epoch_length))
    ended = []
    for client in config.clients.values():
        last = max(files.get(client.public_key.raw, -1), fetched.get(client.public_key.raw, -1))
        if client.has_epochs and 0 <= last < epoch:
            ended.append(client.name)
    if ended:
        more = f" and {len(ended) - _MOST_NAMED} more" if len(ended) > _MOST_NAMED else ""
        yield Finding(
            CLIENT_KEYS,
            f"the epoch keys of {', '.join(ended[:_MOST_NAMED])}{more} have ended",
            "give them new files: openme renew NAME",
        )


def revoked(server: Server) -> Iterator[Finding]:
    """Whether the two copies of the list of revoked keys can be read."""
    try:
        damage = read_revoked(server.config.state_dir).damage
        cure = "restart the server, which writes it anew from the other copy"
    except OpenmeError as error:
        damage, cure = error.message, error.hint or "docs/key-management.md"
    if damage is not None:
        yield Finding(REVOKED, damage, cure)
