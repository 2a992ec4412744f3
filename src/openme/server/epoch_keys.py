"""The epoch keys of a server that starts or runs: opening the ratchet, and erasing what is over."""

import logging
import time
from pathlib import Path

from openme.clocks import Now
from openme.config.locked import locked_directory
from openme.config.model import ServerConfig
from openme.control import asking
from openme.control.requests import NewRatchet, SaveRatchet
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.keeper.epochs import Epochs
from openme.keeper.provided import forget_files, read_files
from openme.keeper.ratchet_file import (
    FILE_NAME,
    DamagedRatchetError,
    finish_erasing,
    new_ratchet,
    read_ratchet,
    set_aside,
    write_ratchet,
)
from openme.keys.ratchet import MAX_STEPS, Ratchet, epoch_at
from openme.moments import rfc3339
from openme.server.stored import moment
from openme.store.base import RatchetNote, Store
from openme.store.places import has_lived
from openme.store.reader import forget_renewals, note_ratchet, read_ratchet_seen
from openme.store.sqlite import make_memory

_NEW_FILES = "every version 2 client needs a new file (openme renew NAME)"

_NAMED = 5  # clients in one line

_log = logging.getLogger("openme.epochs")


def open_epochs(config: ServerConfig, store: Store, now: Now) -> Epochs | None:
    """The epochs of the ratchet in `state_dir`, a new one where there is none; says what the operator must know.

    None if a new ratchet cannot be written, so that version 1 is served all the same. OpenmeError for a ratchet with
    another epoch length than the config's, or one that others can read.
    """
    seen = store.ratchet_seen()
    try:
        finish_erasing(config.state_dir)
    except OSError as error:
        _log.error("an erased key is still on the disk, which refuses to overwrite it: %s", error.strerror)  # one line
    try:
        ratchet = read_ratchet(config.state_dir)
        lost = "is gone"
    except DamagedRatchetError as error:
        ratchet = None
        lost = f"is damaged ({error.message})"
        try:
            set_aside(config.state_dir)
        except OSError as failure:
            _log.error("version 2 is not served: %s, and %s", error.message, failure.strerror)  # one line
            return None
    if ratchet is None:
        ratchet = _made(config, now)
        if ratchet is None:
            return None
        if seen == (None, None) and lost == "is gone" and not _clients_of_version_2(config):
            _log.info("made the epoch keys of wire version 2")
        else:
            store.forget_renewals()
            forget_files(config.state_dir)
            _log.error("the ratchet file %s: made a new one, and %s", lost, _NEW_FILES)
        store.note_ratchet(*_note_of(ratchet))
    else:
        check_length(ratchet, config)
        _compare(ratchet, seen, store)
        _say_without_keys(config, store)
    if (trouble := clock_trouble(ratchet, now.unix_ns)) is not None:
        _log.error("no version 2 knock is accepted: %s; %s", *trouble)
    return Epochs(ratchet, config.replay_window, config.epoch_horizon)


def clock_trouble(ratchet: Ratchet, unix_ns: int) -> tuple[str, str] | None:
    """Why the ratchet and this machine's clock do not go together, and the cure; None if they do."""
    current = epoch_at(unix_ns, ratchet.length)
    first, clock = start_of(ratchet.index, ratchet.length), moment(unix_ns)
    cure = "set the clock; if it is right: openme rotate ratchet, and new files (openme renew NAME)"
    if current < ratchet.index:
        return f"the oldest epoch that there is a key for begins {first}, after this machine's clock ({clock})", cure
    if not ratchet.reaches(current):
        return f"this machine's clock ({clock}) is {MAX_STEPS} epochs and more after the oldest key ({first})", cure
    return None


def _clients_of_version_2(config: ServerConfig) -> list[str]:
    """Clients whose files carry epoch keys, so that there must have been a ratchet."""
    return [client.name for client in config.clients.values() if client.needs_epochs]


def _say_without_keys(config: ServerConfig, store: Store) -> None:
    """Name the clients of whom nothing shows that they have keys of this ratchet, as after it was lost."""
    files, renewals = read_files(config.state_dir), store.renewals()
    without = [
        name
        for name in _clients_of_version_2(config)
        if (key := config.clients[name].public_key.raw) not in files and key not in renewals
    ]
    if without:
        more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
        _log.warning(
            "no client file with the current epoch keys has been made for %s%s: openme renew NAME",
            ", ".join(without[:_NAMED]),
            more,
        )


def _note_of(ratchet: Ratchet) -> RatchetNote:
    return ratchet.index, ratchet.public_key(ratchet.index)


def check_length(ratchet: Ratchet, config: ServerConfig) -> None:
    """OpenmeError if the config says another epoch length than the ratchet was made with."""
    if ratchet.length != config.epoch_length:
        length = format_duration(ratchet.length)
        raise OpenmeError(
            f"{config.path}: server.epoch_length: expected {length}, with which this server's epoch keys were made",
            f"write epoch_length: {length}; for another length stop the server, then make a new ratchet and new client"
            " files: openme rotate ratchet",
        )


def start_of(epoch: int, length: int) -> str:
    """When an epoch begins, as RFC 3339; `never` beyond the calendar."""
    try:
        return rfc3339(epoch * length)
    except (OverflowError, ValueError, OSError):
        return "never"


def replace_ratchet(config: ServerConfig) -> None:
    """Have a new ratchet: made by the server if one runs, else here. OpenmeError if it cannot be written.

    What clients carry of an old one is of no use any more.
    """
    try:
        asking.ask(config.state_dir, NewRatchet(epoch_length=config.epoch_length))
    except asking.NoServerError:
        _made_without_server(config).forget()
    else:
        forget_files(config.state_dir)


def ensure_ratchet(config: ServerConfig) -> tuple[Ratchet, bool]:
    """The ratchet in `state_dir`, made if there is none, and whether it was. For commands, also beside a server.

    A file that was lost under a running server is written by it again. OpenmeError as for `read_ratchet`.
    """
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OpenmeError(f"state_dir {config.state_dir}: {error.strerror}", "run it as root: sudo openme …") from None
    with locked_directory(config.state_dir, config.state_dir / FILE_NAME):
        if not has_lived(config.state_dir):
            make_memory(config.state_dir)  # what is made here is no loss to the server's first start
        ratchet, made = read_ratchet(config.state_dir), False
        if ratchet is None:
            try:
                made = asking.ask(config.state_dir, SaveRatchet()).made
                ratchet = read_ratchet(config.state_dir)
            except asking.NoServerError:
                made = True
        if ratchet is None:
            lived = read_ratchet_seen(config.state_dir)
            ratchet = _made_without_server(config)
            if lived:
                _log.warning("the ratchet file was gone: made a new one, and %s", _NEW_FILES)
        check_length(ratchet, config)
        return ratchet, made


def _made_without_server(config: ServerConfig) -> Ratchet:
    """A new ratchet; what clients carried of an old one is noted no more."""
    ratchet = write_new(config, time.time_ns())
    forget_renewals(config.state_dir)
    forget_files(config.state_dir)
    note_ratchet(config.state_dir, *_note_of(ratchet))
    return ratchet


def write_new(config: ServerConfig, unix_ns: int) -> Ratchet:
    """Put a new ratchet in the place of the one in `state_dir`; OpenmeError if it cannot be written."""
    ratchet = new_ratchet(int(config.epoch_length), unix_ns)
    try:
        write_ratchet(config.state_dir, ratchet)
    except OSError as error:
        raise OpenmeError(f"{config.state_dir}: the epoch keys cannot be written: {error.strerror}") from None
    return ratchet


def _made(config: ServerConfig, now: Now) -> Ratchet | None:
    try:
        return write_new(config, now.unix_ns)
    except OpenmeError as error:
        _log.error("version 2 is not served: %s", error.message)  # one line for the operator
        return None


def _compare(ratchet: Ratchet, seen: tuple[RatchetNote | None, RatchetNote | None], store: Store) -> None:
    """Say so if this is not the ratchet that was there last, at each start until the operator has made it right."""
    last, intended = seen
    found = _note_of(ratchet)
    if found == last:
        return
    if last is None or found == intended:  # nothing is known, or the server ended between the file and our note
        store.note_ratchet(*found)
        return
    epoch, _ = last
    if _leads_to(ratchet, last):
        _log.error(
            "the ratchet file is an old copy: it opens knocks recorded since %s, which had been erased. It is erased"
            " again when knocks come; erase every other copy, and see docs/key-management.md",
            start_of(ratchet.index, ratchet.length),
        )
        return
    store.forget_renewals()
    _log.error(
        "the ratchet is another one than before, which began %s: put the right file back; if there is none: openme"
        " rotate ratchet, and new files (openme renew NAME)",
        start_of(epoch, ratchet.length),
    )


def _leads_to(ratchet: Ratchet, note: RatchetNote) -> bool:
    """Whether the noted key is one of this ratchet's."""
    epoch, public = note
    return ratchet.reaches(epoch) and ratchet.public_key(epoch) == public


def erase_before(first: int, epochs: Epochs, state_dir: Path, store: Store) -> bool:
    """Erase the keys of every epoch before `first`: on the disk, then in memory. False if the disk refuses."""
    later = epochs.ratchet.later(first)
    note = _note_of(later)
    last, _ = store.ratchet_seen()
    # An old copy is known again when it has caught up; another ratchet only on the operator's word.
    is_known = last is None or (first >= last[0] and _leads_to(epochs.ratchet, last))
    if is_known:
        store.intend_ratchet(*note)
    try:
        write_ratchet(state_dir, later)
    except OSError as error:
        _log.error("the keys of past epochs cannot be erased from the disk: %s", error.strerror)  # one line
        return False
    finally:
        later.forget()
    epochs.advance_to(first)
    if is_known:
        store.note_ratchet(*note)
    _log.info("erased the keys before epoch %d, which began %s", first, start_of(first, epochs.ratchet.length))
    return True
