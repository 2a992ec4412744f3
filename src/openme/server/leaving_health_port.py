"""A service gets the health port while openme listens there: openme leaves it, and it is hidden as others are."""

import logging
from collections.abc import Callable
from math import inf

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.keeper.events import Events, NewConfig
from openme.processes.listener_reports import Reports
from openme.seam.channel import Outbox
from openme.seam.messages import LeaveHealthPort
from openme.server.config_switch import LAST_RETRY
from openme.server.health_port import why_not_ours, worded

_ASKING_INTERVAL = 1.0  # seconds between two orders to leave it

_log = logging.getLogger("openme.keeper")


class LeavingHealthPort:
    """Asks the listener to leave it, and once it has, puts a config in force by which it is another's."""

    def __init__(self, reports: Reports, outbox: Outbox, use: Callable[[ServerConfig, Now], bool]) -> None:
        """`use` puts a config in force, and says whether it is."""
        self._reports = reports
        self._outbox = outbox
        self._use = use
        self._config: ServerConfig | None = None
        self._next_asking = float("-inf")
        self._next_leaving = float("-inf")

    def follow(self, events: Events) -> None:
        """Subscribe to the configs that come into force."""
        events.subscribe(NewConfig, lambda event: self.note(event.config))

    def note(self, config: ServerConfig) -> None:
        """See whether a group or client of this config names the port that openme listens on."""
        if not config.listens:
            self._config = None
            return
        if self._config is None and not config.health_port_is_named:
            return
        if self._config is None:
            self._reports.has_left_health_port = False  # what the listener says unasked counts for nothing
        self._config = config

    def tick(self, now: Now) -> None:
        """Ask, or follow what the answer was."""
        config = self._config
        if config is None or now.monotonic < self.next_at:
            return
        if not self._reports.has_left_health_port:
            self._next_asking = now.monotonic + _ASKING_INTERVAL  # again: its answer may be lost in a flood
            self._outbox.put([LeaveHealthPort()])
            return
        self._next_leaving = now.monotonic + LAST_RETRY
        config = config.with_health_port(listens=False)
        if self._use(config, now):
            _log.warning("%s", worded(config, why_not_ours(config) or "it was named by a group or client"))

    @property
    def next_at(self) -> float:
        """When `tick` has something to do, in monotonic seconds: long ago if at once, `inf` if nothing."""
        if self._config is None:
            return inf
        return self._next_leaving if self._reports.has_left_health_port else max(self._next_leaving, self._next_asking)
