"""Who has knocked, and when last."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from openme.config.model import ClientEntry
from openme.firewall.base import Steps
from openme.keeper.events import Events, LetIn
from openme.store.base import Seen

_NAMES_AT_ONCE = 1000


class History:
    """The last knock of each client that let it in, by public key; it begins with what the store knows."""

    def __init__(self, seen: Mapping[bytes, Seen]) -> None:
        self._last = {key: (seen.name, seen.at) for key, seen in seen.items()}

    def follow(self, events: Events) -> None:
        """Subscribe to the knocks that let somebody in."""
        events.subscribe(LetIn, self.let_in)

    def let_in(self, event: LetIn) -> None:
        """Note a knock."""
        self._last[event.grant.client_key] = (event.grant.client_name, event.now.unix)

    def __iter__(self) -> Iterator[bytes]:
        """The public keys of those who have knocked."""
        return iter(self._last)

    def at(self, client_key: bytes) -> float:
        """When this client knocked last, in Unix seconds. KeyError for one who never has."""
        return self._last[client_key][1]

    def keys_of(self, name: str) -> Iterable[bytes]:
        """The public keys of those who were called so when they knocked last."""
        return {key for key, (known_as, _) in self._last.items() if known_as == name}

    def by_name(self, client: Callable[[bytes], ClientEntry | None]) -> Steps[dict[str, float]]:
        """When each one who is a client still knocked last, in Unix seconds, by today's name."""
        last: dict[str, float] = {}
        for number, (key, (_, at)) in enumerate(list(self._last.items()), 1):
            if (known := client(key)) is not None:
                last[known.name] = at
            if number % _NAMES_AT_ONCE == 0:
                yield
        return last
