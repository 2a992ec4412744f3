"""A config on its way from the process that has read it to the one that uses it, which takes it over in a moment."""

import pickle
from dataclasses import dataclass, replace
from typing import IO

from openme.config.client_table import ClientTable, TableClients
from openme.config.model import ServerConfig
from openme.errors import OpenmeError


@dataclass(frozen=True, slots=True)
class WasRead:
    """What has come of reading a large config: one whose clients are a table, or why there is none.

    `by_copy`: the table is that of the copy in `state_dir`. If it is not, `front` is what a copy of it begins with
    (`parsed_copy`), None where there can be none. `copy_fault`: why the disk has not taken one.
    """

    outcome: ServerConfig | OpenmeError
    by_copy: bool = False
    front: bytes | None = None
    copy_fault: str | None = None


def hand_over(read: WasRead, file: IO[bytes]) -> None:
    """Write it for `take_over`."""
    if isinstance(read.outcome, OpenmeError):
        block = b""
        outcome: ServerConfig | OpenmeError = OpenmeError(read.outcome.message, read.outcome.hint)
    elif isinstance(read.outcome.clients, TableClients):
        block = bytes(read.outcome.clients.table.block)
        outcome = replace(read.outcome, clients={})
    else:
        raise TypeError("only a table is handed over")
    pickle.dump((replace(read, outcome=outcome), block), file, pickle.HIGHEST_PROTOCOL)


def take_over(file: IO[bytes]) -> WasRead:
    """What our own process has written. EOFError or UnpicklingError if it is not whole."""
    read: WasRead
    read, block = pickle.load(file)  # noqa: S301  # our own child's, in memory that nobody else has
    if isinstance(read.outcome, OpenmeError):
        return read
    return replace(read, outcome=replace(read.outcome, clients=TableClients(ClientTable(memoryview(block)))))
