"""What a part of the keeper's shell stands on: a given clock, a firewall that refuses on demand, noted events."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from openme.config.model import ServerConfig
from openme.firewall.base import IPAddress
from openme.keeper.events import Ended, Events, LetIn, Moved, NewConfig
from openme.keeper.grants import Grant
from openme.keeper.keeper import Keeper
from openme.keeper.policy import client_lists
from openme.keeper.rules import rules_for
from openme.keeper.stages import Refused
from openme.ports import PortRange
from openme.seam.channel import ORDER_SIZES, Outbox, channel, received
from openme.seam.messages import Order, unpack_order
from openme.server.config_switch import ConfigSwitch
from openme.server.cutting import Cutting
from openme.server.doors import Doors
from openme.server.exchanges import Exchanges
from openme.server.hidden_ports import HiddenPorts
from openme.server.slices import Slices
from openme.store.memory import MemoryStore
from support.keeper_process import GivenClock, ScriptedFirewall
from support.knocks import HOME, NS, config

if TYPE_CHECKING:
    from openme.keeper.events import Event
    from openme.server.config_watch import ConfigWatch

EventT = TypeVar("EventT", LetIn, Refused, Ended, Moved, NewConfig)


class Ground:
    """Alice and Bob may have 22/tcp, and the rules are in force. A test builds the part on it that it is about."""

    def __init__(self, parsed: ServerConfig | None = None) -> None:
        self.clock = GivenClock()
        self.firewall = ScriptedFirewall(self.clock)
        self.store = MemoryStore()
        self.keeper = Keeper(config() if parsed is None else parsed, lambda _: False)
        self.store.load(round(self.keeper.config.replay_window * NS), self.clock.now.unix_ns)
        self.grants = self.keeper.grants
        self.slices = Slices()
        self.events = Events(self.slices.add)
        self.published: list[Event] = []
        note = self.published.append
        self.events.subscribe(LetIn, note)
        self.events.subscribe(Refused, note)
        self.events.subscribe(Ended, note)
        self.events.subscribe(Moved, note)
        self.events.subscribe(NewConfig, note)
        self.rules = rules_for(self.keeper.config)
        self.firewall.start(self.rules)
        self.firewall.calls.clear()
        self.doors = Doors(self.firewall, self.grants, self.rules, lambda: 30.0, self.events, self.slices, self.clock)
        self.cutting = Cutting(self.firewall, self.slices, self.grants.is_open)
        self.exchanges = Exchanges(self.cutting, self.store, self.keeper.client, self.slices, self.clock)

    def grant(self, name: str = "alice", address: IPAddress = HOME, seconds: float = 30.0) -> Grant:
        """What a knock of this client would be given."""
        client, now = self.keeper.config.clients[name], self.clock.now
        lists = client_lists(client, self.keeper.config.health_port)
        times = (now.unix, now.unix + seconds, now.monotonic + seconds)
        return Grant(client.public_key.raw, name, address, client.ports, lists, *times)

    def let_in(self, name: str = "alice", address: IPAddress = HOME) -> Grant:
        """Open its doors."""
        grant = self.grant(name, address)
        assert self.doors.open([grant], self.clock.now) == {id(grant)}
        return grant

    def work_off(self) -> None:
        """Take all the steps that wait."""
        while self.slices:
            self.slices.advance()

    def told(self, kind: type[EventT]) -> list[EventT]:
        """The events of this kind since the last look."""
        found: list[EventT] = [event for event in self.published if isinstance(event, kind)]
        self.published.clear()
        return found

    def switch(self, file: "GivenFile", hidden: HiddenPorts) -> ConfigSwitch:
        """A switch that follows this file."""
        return ConfigSwitch(
            self.keeper,
            self.grants,
            cast("ConfigWatch", file),
            hidden,
            lambda parsed: rules_for(parsed, hidden.ports),
            self.doors,
            self.exchanges,
            self.events,
            self.clock,
        )

    def open_for(self) -> set[IPAddress]:
        """The addresses that the firewall has a door for."""
        return {door.address for door in self.firewall.doors()}


class Listening:
    """The listener's end of a channel, which a part talks into."""

    def __init__(self, end: socket.socket, outbox: Outbox) -> None:
        self._end = end
        self.outbox = outbox

    def told(self) -> list[Order]:
        """What it has been told since the last look."""
        return [unpack_order(message) for message in received(self._end, ORDER_SIZES, 10_000)]


@contextmanager
def listening() -> Iterator[Listening]:
    """A listener that only listens."""
    theirs, ours = channel()
    with theirs, ours:
        yield Listening(theirs, Outbox(ours))


class GivenFile:
    """Stands for the config file and its watch: what is put here is found at the next look."""

    def __init__(self, parsed: ServerConfig) -> None:
        self.config = parsed
        self.path = Path("config.yaml")
        self.fault: str | None = None
        self.is_reading = False
        self.changed: ServerConfig | None = None
        self.read_anew = 0

    def refresh(self) -> ServerConfig | None:
        """The new config, once."""
        changed, self.changed = self.changed, None
        self.config = changed or self.config
        return changed

    def refuse(self, in_force: ServerConfig, reason: str) -> None:
        """The firewall did not take it."""
        self.config, self.fault = in_force, reason

    def read_again(self) -> None:
        """Somebody wants the file to be read once more."""
        self.read_anew += 1

    def keys_of(self, name: str) -> frozenset[bytes]:
        """The public keys under this name."""
        client = self.config.clients.get(name)
        return frozenset() if client is None else frozenset({client.public_key.raw})

    def revoke(self, name: str, _keys: Iterable[bytes] = ()) -> ServerConfig | None:
        """Have this client out of the config; the new one if one changes."""
        if name not in self.config.clients:
            return None
        left = {other: client for other, client in self.config.clients.items() if other != name}
        self.config = replace(self.config, clients=left)
        return self.config

    def unlist(self, _ports: Iterable[PortRange]) -> ServerConfig:
        """The config in force."""
        return self.config
