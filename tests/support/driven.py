"""Drivers for tests of the client: with a clock of their own, and an answer to what a network would say."""

from collections.abc import Callable
from typing import Any

from openme.client.addresses import Endpoint
from openme.client.blocking import Blocking
from openme.wire.knock import IPAddress


class Driven(Blocking):
    """The blocking driver, of which a test gives what it must: the server's addresses, our own, times and pauses.

    `pause` passes no time of the machine's; `paused` has what was asked for.
    """

    def __init__(
        self,
        *endpoints: Endpoint,
        own: IPAddress | None = None,
        now_ns: Callable[[], int] | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._endpoints, self._own, self._now_ns, self._monotonic = endpoints, own, now_ns, monotonic
        self.paused: list[float] = []

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        return list(self._endpoints) or await super().resolve(host, port)

    def source(self, endpoint: Endpoint, port: int) -> IPAddress:
        return super().source(endpoint, port) if self._own is None else self._own

    def now_ns(self) -> int:
        return super().now_ns() if self._now_ns is None else self._now_ns()

    def monotonic(self) -> float:
        return super().monotonic() if self._monotonic is None else self._monotonic()

    def system_tells(self) -> None:
        """Nobody: what changes is looked for, as on other systems."""

    async def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def never(*_: Any, **__: Any) -> Any:
    """What must not be called."""
    raise AssertionError("called")
