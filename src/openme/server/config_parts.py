"""A config on its way from the process that has read it to the one that uses it, in parts that take a moment each."""

import pickle
from dataclasses import replace
from itertools import islice
from typing import IO, TYPE_CHECKING

from openme.config.client_index import ClientIndex
from openme.config.model import ServerConfig
from openme.errors import OpenmeError
from openme.firewall.base import Steps

if TYPE_CHECKING:
    from openme.config.model import ClientEntry

AT_ONCE = 100
"""Clients of one part: two milliseconds."""


def write_parts(outcome: ServerConfig | OpenmeError, file: IO[bytes]) -> None:
    """Write what has come of reading, with what is known of all clients together."""
    if isinstance(outcome, OpenmeError):
        pickle.dump(OpenmeError(outcome.message, outcome.hint), file, pickle.HIGHEST_PROTOCOL)
        return
    head = replace(outcome, clients={}).with_index(ClientIndex(), outcome.named_ports)
    pickle.dump(head, file, pickle.HIGHEST_PROTOCOL)
    clients = iter(outcome.clients.items())
    while part := list(islice(clients, AT_ONCE)):
        pickle.dump(part, file, pickle.HIGHEST_PROTOCOL)
    pickle.dump([], file, pickle.HIGHEST_PROTOCOL)


def read_parts(file: IO[bytes]) -> Steps[ServerConfig | OpenmeError]:
    """What our own process has written, a part a step. EOFError or UnpicklingError if it is not whole."""
    head: ServerConfig | OpenmeError = pickle.load(file)  # noqa: S301  # our own child's, in memory that nobody else has
    if isinstance(head, OpenmeError):
        return head
    clients: dict[str, ClientEntry] = {}
    index = ClientIndex()
    while part := pickle.load(file):  # noqa: S301  # as above
        clients.update(part)
        index.add(entry for _, entry in part)
        yield
    return replace(head, clients=clients).with_index(index, head.named_ports)
