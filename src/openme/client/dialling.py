"""Connecting to a port of the server's while its door opens: a `dial` for `Session.reach`. On every system."""

import errno
import os
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from openme.client.addresses import Endpoint, endpoints_of, unknown_host
from openme.client.race import GIVEN_UP, Race

_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})
_TO_ITSELF = "nothing listens there"


class Dialler:
    """Connects to TCP `port` of the server, or of `host` where that is another machine or name; close it afterwards.

    It tries all addresses as `race.Race` says, and gives the first connection that stands: blocking, without Nagle's
    delay, and with TCP's keepalive. Attempts under way outlive a call, since the server may have let them in: the
    next call goes on with them. `problem`: why the last attempt failed, None while none has failed.
    """

    def __init__(self, port: int, host: str | None = None) -> None:
        self._port, self._host = port, host
        self._selector = selectors.DefaultSelector()
        self._begun: dict[socket.socket, float] = {}
        self.problem: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the attempts that are under way."""
        for attempt in list(self._begun):
            self._let_go(attempt).close()
        self._selector.close()

    def __call__(self, endpoints: Sequence[Endpoint], seconds: float) -> socket.socket | None:
        """A connection that stands, or None: after `seconds`, or as soon as each address has refused one.

        UnknownHostError if `host` has no address.
        """
        now = time.monotonic()
        deadline = now + seconds
        if not (addresses := endpoints if self._host is None else _resolved(self._host, self._port)):
            return None
        race = Race(addresses, now)
        while now < deadline:
            for attempt in [attempt for attempt, begun in self._begun.items() if now - begun > GIVEN_UP]:
                self._let_go(attempt).close()
            while (endpoint := race.begin(now)) is not None:
                if not self._begin(endpoint, now):
                    race.failed(now)
            if race.all_begun and not self._begun:
                return None
            for key, _ in self._select(min(race.wake(), deadline) - now):
                attempt = self._let_go(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
                if self._stands(attempt):
                    for late in list(self._begun):
                        self._let_go(late).close()
                    return attempt
                attempt.close()
                race.failed(time.monotonic())
            now = time.monotonic()
        return None

    def _select(self, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._begun:  # which Windows refuses to wait for
            time.sleep(max(0.0, seconds))
            return []
        return self._selector.select(max(0.0, seconds))

    def _begin(self, endpoint: Endpoint, now: float) -> bool:
        """Whether an attempt is under way; where a network or a descriptor lacks there is none."""
        try:
            attempt = socket.socket(endpoint.family, socket.SOCK_STREAM)
        except OSError as error:
            self.problem = error.strerror
            return False
        try:
            attempt.setblocking(False)  # noqa: FBT003  # the standard library's signature
            failure = attempt.connect_ex((endpoint.host, self._port))
        except OSError as error:
            failure, self.problem = error.errno or errno.EINVAL, error.strerror
        if failure not in _UNDER_WAY:
            self.problem = os.strerror(failure)
            attempt.close()
            return False
        self._selector.register(attempt, selectors.EVENT_WRITE)
        self._begun[attempt] = now
        return True

    def _let_go(self, attempt: socket.socket) -> socket.socket:
        self._selector.unregister(attempt)
        del self._begun[attempt]
        return attempt

    def _stands(self, attempt: socket.socket) -> bool:
        """Whether an attempt that is over has given a connection; one that does is as the caller wants it."""
        if failure := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.problem = os.strerror(failure)
            return False
        with suppress(OSError):
            # A port of this machine's own may be the one that the attempt itself goes out from: it has met itself.
            if attempt.getsockname() == attempt.getpeername():
                self.problem = _TO_ITSELF
                return False
        attempt.setblocking(True)  # noqa: FBT003  # the standard library's signature
        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return True


def _resolved(host: str, port: int) -> list[Endpoint]:
    try:
        return endpoints_of(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (socket.gaierror, UnicodeError) as error:
        raise unknown_host(host, error, "the name") from None
