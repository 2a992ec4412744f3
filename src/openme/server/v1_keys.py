"""The version 1 keys that the listener holds."""

from openme.config.model import ServerConfig
from openme.keeper.events import Events, NewConfig
from openme.seam.channel import Outbox
from openme.seam.messages import ForgetV1Key, UseV1Key


class V1Keys:
    """Makes the listener hold the version 1 keys that the config names, while that accepts version 1."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._given: dict[int, bytes] = {}

    def follow(self, events: Events) -> None:
        """Subscribe to the configs that come into force."""
        events.subscribe(NewConfig, lambda event: self.give(event.config))

    def give(self, config: ServerConfig) -> None:
        """Give those that it has not, and take away those that it is to have no more."""
        wanted = {number: key.raw for number, key in enumerate(config.keys) if key is not None}
        if wanted == self._given:
            return
        for number in self._given.keys() - wanted.keys():
            self._outbox.put([ForgetV1Key(number)])
        self._outbox.put([UseV1Key(number, key) for number, key in wanted.items()])
        self._given = wanted
