"""What happened: one line per accepted knock, refusals as counts at a bounded rate.

A refusal before the signature is checked is a stranger's doing and leaves a count alone (and a line on level debug);
from the signature on the line names the client, but no more than a few of those a minute either. A line at a level that
is off is not made.
"""

import logging
from collections import Counter
from typing import Any

from openme.durations import format_duration
from openme.keeper.events import Ended, Events, LetIn
from openme.keeper.grants import Grant
from openme.keeper.stages import Refused
from openme.reasons import End, Reason
from openme.refusals import RefusalCounts
from openme.steps import Steps
from openme.wire.knock import IPAddress

_NAMED_PER_INTERVAL = 10
_LINES_AT_ONCE = 100  # of grants that end together

_log = logging.getLogger("openme.journal")


class Journal:
    """Counts refusals and writes lines to the `openme.journal` logger, facts beside the text for JSON logs."""

    def __init__(self) -> None:
        self.counts = RefusalCounts()
        self._named: Counter[bool] = Counter()

    def follow(self, events: Events) -> None:
        """Subscribe to what there is a line or a count for."""
        events.subscribe(LetIn, self.let_in)
        events.subscribe(Refused, self.refused)
        events.subscribe(Ended, self.ended)

    def let_in(self, event: LetIn) -> None:
        """A line for a knock that opened doors."""
        if not _log.isEnabledFor(logging.INFO):
            return
        grant, source = event.grant, event.source
        seconds = grant.deadline - event.now.monotonic
        ports = ", ".join(map(str, grant.ports)) or "the health port"
        place = _place(grant)
        came_from = place["ip"] if source == grant.named else str(source)
        elsewhere = "" if source == grant.named else f", knock came from {came_from}"
        where = place["ip"] if grant.network is None else grant.place
        self._line(
            logging.INFO,
            f"{grant.client_name}: opened {ports} for {where} for {format_duration(seconds)}{elsewhere}",
            event="accepted",
            client=grant.client_name,
            **place,
            source=came_from,
            ports=[str(p) for p in grant.ports],
            expires_at=grant.expires_at,
        )

    def ended(self, event: Ended) -> Steps[None]:
        """A line for each grant that is over."""
        for number, (grant, why) in enumerate(event.grants, 1):
            self._closed(grant, why)
            if number % _LINES_AT_ONCE == 0:
                yield

    def _closed(self, grant: Grant, why: End) -> None:
        if not _log.isEnabledFor(logging.INFO):
            return
        self._line(
            logging.INFO,
            f"{grant.client_name}: closed for {grant.place} ({why})",
            event="closed",
            client=grant.client_name,
            **_place(grant),
            why=why,
        )

    def refused(self, event: Refused) -> None:
        """A count, and perhaps a line, for a knock that opened nothing. A firewall that refuses has its own line."""
        if event.source is None:
            self.counts.add(event.reason)
        elif event.client is None:
            self._refused_stranger(event.reason, event.source)
        elif event.reason is not Reason.FIREWALL:
            self._refused_client(event.client, event.reason, event.source, event.detail)

    def _refused_stranger(self, reason: Reason, source: IPAddress) -> None:
        self.counts.add(reason)
        if not _log.isEnabledFor(logging.DEBUG):
            return
        self._line(
            logging.DEBUG, f"refused: {reason} (from {source})", event="refused", reason=reason, source=str(source)
        )

    def _refused_client(self, name: str, reason: Reason, source: IPAddress, detail: str) -> None:
        self.counts.add(reason)
        # Whoever is revoked still has his key, and anybody can resend a knock of his: no line about others is to be
        # lost for that, such as the one that somebody is on the path.
        may_knock = reason is not Reason.DISABLED
        self._named[may_knock] += 1
        level = logging.WARNING if self._named[may_knock] <= _NAMED_PER_INTERVAL else logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        self._line(
            level,
            f"{name}: refused: {reason}{detail} (from {source})",
            event="refused",
            client=name,
            reason=reason,
            source=str(source),
        )

    @property
    def next_at(self) -> float:
        """When `report` has something to say, in monotonic seconds: long ago if at once, `inf` if nothing."""
        return self.counts.next_at

    def report(self, now: float) -> None:
        """Say what was refused, at most once per interval; `now` in monotonic seconds."""
        if self.counts.report(now, _log):
            self._named.clear()

    @staticmethod
    def _line(level: int, text: str, **facts: Any) -> None:  # noqa: ANN401  # JSON values
        _log.log(level, "%s", text, extra={"facts": facts})


def _place(grant: Grant) -> dict[str, str]:
    """The address of a grant and, where it is for one, the network."""
    place = {"ip": str(grant.named)}
    return place if grant.network is None else place | {"network": str(grant.network)}
