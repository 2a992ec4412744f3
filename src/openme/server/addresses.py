"""Which addresses are this host's own: the kernel is asked, and its answer kept until something changes.

An answer that is not there, or makes no sense, leaves the question open, and whoever asked refuses.
"""

import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from openme.netlink.routes import RouteQuestions, route_changes
from openme.wire.knock import IPAddress

if TYPE_CHECKING:
    from openme.netlink.sockets import Subscription

_MOST = 65_536  # answers kept; clients name their own address or one of a few


class OwnAddresses:
    """Asks the kernel; needs no privileges. Sends nothing to any network, and never waits."""

    def __init__(self, interfaces: Callable[[], Iterable[tuple[int, str]]] = socket.if_nameindex) -> None:
        """`interfaces` lists the host's interfaces, index and name."""
        self._interfaces = interfaces
        self._known: dict[IPAddress, bool] = {}
        self._changes: Subscription | None = None
        with suppress(OSError):  # without it the kernel is asked each time
            self._changes = route_changes()
        self._questions = RouteQuestions()

    def close(self) -> None:
        """Give the sockets back."""
        self._questions.close()
        if self._changes is not None:
            self._changes.close()

    def __call__(self, address: IPAddress) -> bool | None:
        """Whether a packet to `address` would stay here or go to a whole network; False without a route.

        None when the kernel did not tell: no door may open then.
        """
        if self._changes is None:
            return self._ask(address)
        # The kernel tells of a change before whoever made it can go on, so that none is missed here.
        if any(True for _ in self._changes.news()):
            self._known.clear()
        if (known := self._known.get(address)) is not None:
            return known
        answer = self._ask(address)
        if answer is not None:
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[address] = answer
        return answer

    def _ask(self, address: IPAddress) -> bool | None:
        try:
            if not (address.is_link_local and address.version == 6):
                return self._questions.stays(address.packed, None)
            # Means something on one link only, so that the kernel finds no route unless it is told which.
            found = [self._questions.stays(address.packed, index) for index, _ in self._interfaces()]
        except (OSError, ValueError, struct.error):
            return None
        return True if True in found else None if None in found else False
