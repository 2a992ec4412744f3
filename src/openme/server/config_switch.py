"""A changed config comes into force: in the firewall, then for the next knock, then for the doors that are open."""

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.config.server_keys import NEED_RESTART
from openme.firewall.base import FirewallError, IPAddress, Rules, Steps
from openme.keeper.events import Ended, Events, Moved, NewConfig
from openme.keeper.grants import Change, Grant, Grants
from openme.keeper.keeper import Keeper, Reconfiguration
from openme.server.config_watch import ConfigWatch
from openme.server.doors import Doors
from openme.server.exchanges import Exchanges
from openme.server.garbage import set_aside
from openme.server.hidden_ports import HiddenPorts

FIRST_RETRY = 0.5
"""Seconds until a config that the firewall refused is tried again; twice as long each time."""
LAST_RETRY = 64.0
_NOT_FOLLOWED = "the changed config is not in the firewall"

_log = logging.getLogger("openme.keeper")


class ConfigSwitch:
    """In force is what the firewall took. The rest of a change follows from that, the last of it in steps."""

    def __init__(  # noqa: PLR0917  # what a config changes, each once
        self,
        keeper: Keeper,
        grants: Grants,
        watch: ConfigWatch,
        hidden: HiddenPorts,
        rules_for: Callable[[ServerConfig], Rules],
        doors: Doors,
        exchanges: Exchanges,
        events: Events,
        clocks: Callable[[], Now],
    ) -> None:
        """`rules_for` tells the rules that a config is in force with."""
        self._keeper = keeper
        self._grants = grants
        self._watch = watch
        self._hidden = hidden
        self._rules_for = rules_for
        self._doors = doors
        self._exchanges = exchanges
        self._events = events
        self._clocks = clocks
        self._retry_at: float | None = None
        self._retry_after = FIRST_RETRY

    def follow(self, now: Now) -> None:
        """See whether the file or the list of revoked keys has changed, or whether a refused config is due again."""
        if self._retry_at is not None and now.monotonic >= self._retry_at:
            self._retry_at = None
            self._watch.read_again()
        config = self._watch.refresh()
        if config is not None and self.use(config, now):
            _log.info("config in force: %d clients", len(config.clients))

    @property
    def next_at(self) -> float:
        """When `follow` has something to do though no file has changed, in monotonic seconds; `inf` if nothing."""
        return min(inf if self._retry_at is None else self._retry_at, self._watch.next_at)

    def use(self, config: ServerConfig, now: Now) -> bool:
        """Put a config in force: in the firewall, and if that takes it for the next knock and for open doors.

        False, and the config before stays in force, if the firewall refuses.
        """
        config = self._keep_what_needs_a_restart(config)
        kept = self._hidden.ports
        self._hidden.note(config)
        first, rest = self._whose_doors_follow(config)
        plan = self._keeper.plan(config, now, self._rules_for(config), first)
        has_new_rules = plan.rules != self._doors.rules
        try:
            self._doors.use(plan.rules, plan.change.open)
        except FirewallError as error:
            self._hidden.take_back(kept)
            self._stay(config, error, now)
            return False
        if self._watch.fault is None:
            # Else this is the last good config, less somebody perhaps, while a refused file waits for its next try.
            self._retry_at, self._retry_after = None, FIRST_RETRY
        self._hidden.took(config)
        self._switch(plan, Change(close=plan.change.close) if has_new_rules else plan.change, now, rest)
        return True

    def _stay(self, refused: ServerConfig, error: FirewallError, now: Now) -> None:
        """The firewall has refused the rules of a config: the one before stays in force, but for clients that went.

        The reason may be the config or the moment (somebody changes the ruleset, memory is short), which nobody can
        tell apart; so it is tried again, ever more rarely.
        """
        config = self._keeper.config.less_those_gone_in(refused)
        self._watch.refuse(config, error.message)
        self._retry_at = now.monotonic + self._retry_after
        self._retry_after = min(2 * self._retry_after, LAST_RETRY)
        first, rest = self._whose_doors_follow(config)
        plan = self._keeper.plan(config, now, self._doors.rules, first)
        self._switch(plan, plan.change, now, rest)

    def _keep_what_needs_a_restart(self, config: ServerConfig) -> ServerConfig:
        current = self._keeper.config
        for name in NEED_RESTART:
            if getattr(config, name) != getattr(current, name):
                _log.warning("%s has changed: this takes effect when the server is restarted", name)
        # A port that was left is not taken back; a file says nothing of it.
        listens = False if config.listens is False else current.listens
        kept = replace(config, **{name: getattr(current, name) for name in NEED_RESTART}, listens=listens)
        return kept.with_index(config.index, config.named_ports)

    # -- the doors

    def _whose_doors_follow(self, config: ServerConfig) -> tuple[list[IPAddress], list[IPAddress]]:
        """The addresses whose doors follow a changed config at once, and those whose doors do so afterwards, in steps.

        Who has gone comes first. Where that is all that has changed of clients, nobody else is looked at.
        """
        most = self._doors.at_once
        addresses = self._grants.addresses()
        if len(addresses) <= most:
            return addresses, []
        away = config.index.missing(self._grants.clients())
        first = [grant.address for key in away for grant in self._grants.of_client(key)]
        if config.index.is_part_of(self._keeper.config.index):
            return first[:most], first[most:]
        if len(first) < most:
            return first + addresses[: most - len(first)], addresses
        return first[:most], first[most:] + addresses

    def _switch(self, plan: Reconfiguration, change: Change, now: Now, rest: list[IPAddress]) -> None:
        """Judge by this plan from now on, whose rules are in force, and do to the doors what is left to do."""
        before = self._keeper.config
        self._keeper.follow(plan)
        # Whoever is told may find that the listener is gone, which ends the turn: by then the doors are as they should.
        self._doors.change(change, now, _NOT_FOLLOWED)
        self._tell(plan)
        if plan.config is not before:  # else it was refused, and nobody has gone
            self._events.publish(NewConfig(plan.config, now))
        ended = [grant for grant, _ in plan.ended]
        if rest:
            self._doors.follow_in_steps(self._follow_later(rest, ended))
        self._exchanges.end_by_change(before.index, plan.config.index, ended, now)
        set_aside()

    def _follow_later(self, addresses: list[IPAddress], ended: list[Grant]) -> Steps[None]:
        """Have the doors for these addresses follow the config in force, which may be a later one by then."""
        for start in range(0, len(addresses), self._doors.at_once):
            yield
            now = self._clocks()
            part = addresses[start : start + self._doors.at_once]
            plan = self._keeper.plan(self._keeper.config, now, self._doors.rules, part)
            self._keeper.settle(plan)
            self._doors.change(plan.change, now, _NOT_FOLLOWED)
            self._tell(plan)
            ended += (grant for grant, _ in plan.ended)

    def _tell(self, plan: Reconfiguration) -> None:
        if plan.ended:
            self._events.publish(Ended(plan.ended))
        if plan.moved:
            self._events.publish(Moved(plan.moved))
