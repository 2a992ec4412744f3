"""What happens to knocks, doors and the config, told to whoever subscribes: the log, the history, the state file.

| event       | published by             | when                                                                |
|-------------|--------------------------|---------------------------------------------------------------------|
| `LetIn`     | `server.admission`       | a knock has opened doors                                            |
| `Refused`   | `server.admission`       | a knock has opened nothing (it is a state of `keeper.stages`)       |
| `Ended`     | `server.doors`           | grants are over, early or at their time                             |
| `Moved`     | `server.config_switch`   | open doors have followed a changed config: name, ports or network   |
| `NewConfig` | `server.config_switch`   | a config has come into force                                        |

A subscriber is called in the order of subscription, in the keeper's own process, while the next knock waits. So whoever
has much to do returns steps, which are taken between knocks (`server.slices`).
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.keeper.grants import Grant
from openme.keeper.stages import Refused
from openme.reasons import End
from openme.steps import Steps
from openme.wire.knock import IPAddress


@dataclass(frozen=True, slots=True)
class LetIn:
    """A knock from `source` has opened the doors of a grant."""

    grant: Grant
    source: IPAddress
    now: Now


@dataclass(frozen=True, slots=True)
class Ended:
    """Grants that are over, all at once."""

    grants: tuple[tuple[Grant, End], ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """Grants that go on as others: as they were, and as they are. Of several that became one each is named."""

    grants: tuple[tuple[Grant, Grant], ...]


@dataclass(frozen=True, slots=True)
class NewConfig:
    """What decides from now on."""

    config: ServerConfig
    now: Now


Event = LetIn | Refused | Ended | Moved | NewConfig
EventT = TypeVar("EventT", LetIn, Refused, Ended, Moved, NewConfig)


class Events:
    """Who is told of what."""

    def __init__(self, later: Callable[[Steps[None]], None]) -> None:
        """`later` takes on the steps that a subscriber returns."""
        self._later = later
        self._subscribers: defaultdict[type[Any], list[Callable[[Any], Steps[None] | None]]] = defaultdict(list)

    def subscribe(self, kind: type[EventT], subscriber: Callable[[EventT], Steps[None] | None]) -> None:
        """Call `subscriber` with every event of a kind, behind those who came before.

        It must not raise, unless ChannelClosedError from telling the listener: that ends the server, so that those
        behind it are not told. So a publisher has done what it tells.
        """
        self._subscribers[kind].append(subscriber)

    def publish(self, event: Event) -> None:
        """Tell everybody who has subscribed to events of this kind."""
        for subscriber in self._subscribers[type(event)]:
            steps = subscriber(event)
            if steps is not None:
                self._later(steps)
