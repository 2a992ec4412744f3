"""What the listener says of itself, both ends: numbers on its side (`Reporter`), words on the keeper's (`Reports`).

The listener has no log: whoever takes it over must not be able to write a line of his own into the operator's, nor keep
one of the keeper's out of it. What he can do is count wrongly, in words that stand below.
"""

import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from types import TracebackType

from openme.reasons import Reason
from openme.refusals import REPORT_INTERVAL, RefusalCounts
from openme.seam.channel import ChannelClosedError, send
from openme.seam.handlers import Handlers
from openme.seam.messages import (
    SOURCE_SIZE,
    Delivered,
    Dropped,
    Frame,
    LeftHealthPort,
    Mistake,
    NoHealthPort,
    NoLandlock,
    NoSeccomp,
    NoSeccompLibrary,
    OutOfMemory,
    Ready,
    ReceivingFailed,
    Report,
    Sender,
    Serving,
    Shortfall,
    unpack_report_untrusted,
)
from openme.wire.knock import BadPacket, IPAddress

TELL_INTERVAL = 1.0  # seconds until the keeper has the counts; it says them once a minute
MOST_LINES = 10_000  # refusals in a second that get a line each on level debug: more than one process works on
_LINES_INTERVAL = 1.0  # seconds
MOST_DELIVERED = 4096  # between two turns of the keeper's loop
_MAX_ERRNO = 4095  # the kernel's own bound

_MISTAKE_BASE = 1_000_000  # a line's number is smaller than this

_SOURCE = Path(__file__).parents[1]
# Listed when this is imported, so that both processes have the same list and need no file for it.
_MODULES = sorted(str(path) for path in _SOURCE.rglob("*.py"))

_log = logging.getLogger("openme.listener")
_keeper_log = logging.getLogger("openme.keeper")


def worded(shortfall: Shortfall, why: str | None = None) -> str:
    """What a sandbox does not enforce here, for the operator; `why`, if that is known better than by its number."""
    if isinstance(shortfall, NoSeccompLibrary):
        return "sandbox: seccomp is not in force, libseccomp is missing; install it: apt-get install libseccomp2"
    reason = why or (_strerror(shortfall.errno) if shortfall.errno else "not available here")
    if isinstance(shortfall, NoSeccomp):
        return f"sandbox: seccomp is not in force ({reason})"
    return f"sandbox: Landlock is not in force ({reason}): files are protected by their modes alone"


def _strerror(number: int) -> str:
    return os.strerror(min(number, _MAX_ERRNO))


# -- the listener's end


def tells_each() -> bool:
    """Whether each refusal is to be told with its source: the log is on level debug."""
    return _log.isEnabledFor(logging.DEBUG)


class Reporter:
    """Tells the keeper what was refused: as sums, once a second; on level debug each one, with its source."""

    def __init__(
        self,
        keeper: socket.socket,
        *,
        each: bool | None = None,
        dropped: Callable[[], Mapping[Reason, int]] | None = None,
    ) -> None:
        """`each`: whether each refusal is told; None: if the log that we had before we parted is on level debug.

        `dropped`: what the kernel filter has dropped since it was last asked, if there is one.
        """
        self.counts = RefusalCounts()
        self._keeper = keeper
        self._each = tells_each() if each is None else each
        self._dropped = dropped
        self._lines = _Allowance(MOST_LINES)
        self._untold: Counter[Reason] = Counter()
        self._failure: int | None = None
        self._last_told = float("-inf")
        self._last_look = float("-inf")
        self._look_is_due = False

    def refused(self, reason: Reason, source: IPAddress | None = None) -> None:
        """Count a refusal under one of `seam.messages.REFUSALS`. ChannelClosedError if the keeper is gone."""
        self.counts.add(reason)
        if (
            not self._each
            or source is None
            or not self._lines.take(time.monotonic())
            or not self._send(Dropped(reason, 1, source))
        ):
            self._untold[reason] += 1

    def delivered(self, knock: bytes) -> None:
        """Tell that the receipt of this knock (its R) was fetched; a keeper too busy to hear it counts it as not."""
        self._send(Delivered(knock[:SOURCE_SIZE]))

    def no_health_port(self, error: OSError) -> None:
        """Nobody can be told on the health port what a knock has opened."""
        self._send(NoHealthPort(error.errno or 0))

    def receiving_failed(self, error: OSError) -> None:
        """The knock socket has an error and no datagram."""
        self._failure = error.errno or 0

    def report(self, now: float) -> None:
        """Tell the sums, unless that was less than a second ago; `now` in monotonic seconds."""
        self._look(now)
        if now < self._tells_at:
            return
        self._last_told = now
        if self._failure is not None and self._send(ReceivingFailed(self._failure)):
            self._failure = None
        for reason, count in list(self._untold.items()):
            if self._send(Dropped(reason, count)):
                del self._untold[reason]

    def _look(self, now: float) -> None:
        if self._dropped is None:
            return
        # Whoever was woken before the second was over comes again when it is: then nothing waits for the next knock.
        self._look_is_due = now - self._last_look < TELL_INTERVAL
        if self._look_is_due:
            return
        self._last_look = now
        for reason, count in self._dropped().items():
            self.counts.add(reason, count)
            self._untold[reason] += count

    @property
    def next_at(self) -> float:
        """When `report` has something to tell or to look for, in monotonic seconds: long ago if at once, `inf`: never.

        The kernel wakes nobody for what it drops. So that is looked for as often as the keeper says it.
        """
        if self._dropped is None:
            return self._tells_at
        return min(self._tells_at, self._last_look + (TELL_INTERVAL if self._look_is_due else REPORT_INTERVAL))

    @property
    def _tells_at(self) -> float:
        has_untold = bool(self._untold) or self._failure is not None
        return self._last_told + TELL_INTERVAL if has_untold else inf

    def _send(self, report: Report) -> bool:
        return send(self._keeper, report.pack())


def tell(keeper: socket.socket, reports: Iterable[Report]) -> None:
    """Tell the keeper, if it is still there."""
    try:
        for report in reports:
            send(keeper, report.pack())
    except (ChannelClosedError, OSError):
        return


def last_words(error: BaseException) -> Report:
    """Why a listener ends that should not have."""
    if isinstance(error, MemoryError):
        return OutOfMemory()
    return Mistake(place_of(error.__traceback__))


def place_of(traceback: TracebackType | None) -> int:
    """The innermost line of openme's own in a traceback as a number: `1_000_000 * module + line`, zero for none."""
    place = 0
    modules = {path: number for number, path in enumerate(_MODULES, 1)}
    while traceback is not None:
        number = modules.get(traceback.tb_frame.f_code.co_filename, 0)
        if number:
            place = number * _MISTAKE_BASE + traceback.tb_lineno
        traceback = traceback.tb_next
    return place


def _place(number: int) -> str:
    module, line = divmod(number, _MISTAKE_BASE)
    if not 0 < module <= len(_MODULES):
        return "an unknown place"
    return f"{Path(_MODULES[module - 1]).relative_to(_SOURCE)} line {line}"


# -- the keeper's end


class Reports:
    """Words what the listener says, at a bounded rate: a line a minute for what can come often, one ever for the rest.

    On level debug a refusal that came with its source gets a line of its own, up to 10,000 in a second.
    """

    def __init__(self, guardian: int | None = None, *, no_filter: str | None = None) -> None:
        """`guardian`: its process id, if it is to be watched. `no_filter`: why there is no kernel filter, if so."""
        self.counts = RefusalCounts()
        self.shortfalls = () if no_filter is None else (no_filter,)
        """What an operator who looks is to know of, as long as this server runs."""
        self._guardian = guardian
        self._lines = _Allowance(MOST_LINES)
        self._said: set[type[Report]] = set()
        self._failure: str | None = None
        self._nonsense = 0
        self._last = float("-inf")
        self.is_ready = False
        """Whether the listener waits for its keys."""
        self.is_serving = False
        """Whether it lets strangers in."""
        self.has_left_health_port = False
        """Whether it says that it listens there no more."""
        self._delivered: deque[bytes] = deque(maxlen=MOST_DELIVERED)
        self._now = float("-inf")
        self._handlers = Handlers(
            Sender.LISTENER,
            {
                Dropped: self._on_dropped,
                Delivered: lambda report: self._delivered.append(report.knock),
                Ready: self._on_ready,
                Serving: self._on_serving,
                LeftHealthPort: self._on_left_health_port,
                ReceivingFailed: self._on_receiving_failed,
                **dict.fromkeys((NoSeccompLibrary, NoSeccomp, NoLandlock), self._on_shortfall),
                NoHealthPort: self._on_no_health_port,
                OutOfMemory: self._on_out_of_memory,
                Mistake: self._on_mistake,
            },
            but={Frame},
        )

    def on_report_untrusted(self, raw: bytes, now: float) -> None:
        """Take one message of the listener's; `now` in monotonic seconds."""
        try:
            report = unpack_report_untrusted(raw)
        except BadPacket:
            self._nonsense += 1
            return
        self._now = now
        self._handlers.take(report)

    def take_delivered(self) -> list[bytes]:
        """The knocks whose receipt was fetched since the last look, by the first 16 bytes of R."""
        delivered = list(self._delivered)
        self._delivered.clear()
        return delivered

    def _on_ready(self, _report: Ready) -> None:
        self.is_ready = True

    def _on_serving(self, _report: Serving) -> None:
        self.is_serving = True

    def _on_left_health_port(self, _report: LeftHealthPort) -> None:
        self.has_left_health_port = True

    def _on_receiving_failed(self, report: ReceivingFailed) -> None:
        self._failure = _strerror(report.errno)

    def _is_first(self, report: Report) -> bool:
        """Whether none of this type has come before: a line each, however often somebody says it."""
        is_first = type(report) not in self._said
        self._said.add(type(report))
        return is_first

    def _on_shortfall(self, report: Shortfall) -> None:
        if self._is_first(report):
            _log.warning("%s", worded(report))

    def _on_no_health_port(self, report: NoHealthPort) -> None:
        if self._is_first(report):
            _log.error(
                "the health port is taken since this start (%s): there are no receipts, and `knock --check` and"
                " `status` reach somebody else; find out who it is (sudo ss -ltnp), end it, and restart openme",
                _strerror(report.errno),
            )

    def _on_out_of_memory(self, report: OutOfMemory) -> None:
        if self._is_first(report):
            _log.error("the listener has reached its limit of memory and ends")

    def _on_mistake(self, report: Mistake) -> None:
        if self._is_first(report):
            _log.error("the listener ends by an internal error, at %s: please report it", _place(report.place))

    def _on_dropped(self, report: Dropped) -> None:
        if not report.count:
            self._nonsense += 1
            return
        self.counts.add(report.reason, report.count)
        if report.source is not None and _log.isEnabledFor(logging.DEBUG) and self._lines.take(self._now):
            facts = {"event": "refused", "reason": report.reason, "source": str(report.source)}
            _log.debug("refused: %s (from %s)", report.reason, report.source, extra={"facts": facts})

    @property
    def next_at(self) -> float:
        """When `tick` has something to say of the listener, in monotonic seconds; `inf` if nothing.

        Of the guardian's end nobody knows beforehand.
        """
        own = self._last + REPORT_INTERVAL if self._failure or self._nonsense else inf
        return min(own, self.counts.next_at)

    def tick(self, now: float) -> None:
        """Say what has gathered, at most once a minute; and that the guardian is gone, once."""
        self._look_for_guardian()
        if now < self.next_at:
            return
        self.counts.report(now, _log)
        if now - self._last < REPORT_INTERVAL or not (self._failure or self._nonsense):
            return
        self._last = now
        if self._failure:
            _log.warning("receiving knocks failed: %s", self._failure)
            self._failure = None
        if self._nonsense:
            _log.error(
                "the listener has sent %d reports that no honest listener sends: it may have been taken over,"
                " see docs/privilege-separation.md",
                self._nonsense,
            )
            self._nonsense = 0

    def _look_for_guardian(self) -> None:
        if self._guardian is None:
            return
        try:
            gone, _ = os.waitpid(self._guardian, os.WNOHANG)
        except ChildProcessError:
            gone = self._guardian
        if gone:
            self._guardian = None
            _keeper_log.error(
                "the guardian was killed: a listener that hangs would keep the knock port when this server ends;"
                " restart the server soon"
            )


def how_it_ended(status: int | None) -> str:
    """A wait status in words; None: it has not ended."""
    if status is None:
        return "does not end"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = {s.value: s.name for s in signal.Signals}
        return f"was killed by {known.get(number, f'signal {number}')}"
    return f"ended with {os.waitstatus_to_exitcode(status)}"


class _Allowance:
    """So many in each second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._since = float("-inf")

    def take(self, now: float) -> bool:
        """Whether there is one left; `now` in monotonic seconds."""
        if now - self._since >= _LINES_INTERVAL:
            self._since, self._used = now, 0
        self._used += 1
        return self._used <= self._most
