"""Whether this host balances load by IPVS: its services are ports in use that no socket waits for.

The kernel lists them in /proc/net/ip_vs, which is there once the module is. It tells when the module comes, and of the
services nothing.
"""

import os
import socket
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from openme.netlink.families import family_changes

if TYPE_CHECKING:
    from openme.netlink.sockets import Subscription

IP_VS = Path("/proc/net/ip_vs")
FAMILY = b"IPVS\0"
MOST_READ = 4096  # the services stand behind three lines of headings
SERVICES = (b"TCP ", b"UDP ", b"SCTP ", b"FWM ")
LOOK_INTERVAL = 0.5
"""Seconds between two looks at the kernel's list, where there is one."""


class VirtualServices:
    """The services of the network namespace where it is made; afterwards it opens no file and needs no privilege.

    `path` stands for the kernel's list in tests.
    """

    def __init__(self, path: Path = IP_VS) -> None:
        self._listing: int | None = None
        self._news: Subscription | None = None
        self._arrived = False
        # Asked to be told first, so that a module that comes in between is not missed.
        with suppress(OSError):
            self._news = family_changes()
        with suppress(OSError):
            self._listing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._listing is not None:
            os.close(self._listing)

    def exist(self) -> bool:
        """Whether there are any now. Also where the module came later, so that its list is out of reach."""
        if self._listing is not None:
            try:
                return has_services(os.pread(self._listing, MOST_READ, 0))
            except OSError:
                return False
        self._arrived = self._has_arrived() or self._arrived
        return self._arrived

    @property
    def news(self) -> socket.socket | None:
        """Readable until `exist` has been asked, when the module may have come; None where that tells nothing new."""
        return None if self._news is None or self._listing is not None else self._news.socket

    @property
    def interval(self) -> float:
        """Seconds after which `exist` may say otherwise though `news` was not readable; `inf`: never."""
        return inf if self._listing is None else LOOK_INTERVAL

    def _has_arrived(self) -> bool:
        """Read the kernel's news of families that come and go."""
        # What was lost tells nothing: a module that came is asked for again at the next start.
        has_arrived = False
        for news in () if self._news is None else self._news.news():  # all of it, or it stays readable
            has_arrived = has_arrived or (news is not None and FAMILY in news)
        return has_arrived


def has_services(listing: bytes) -> bool:
    """Whether a beginning of /proc/net/ip_vs shows a service."""
    return any(line.startswith(SERVICES) for line in listing.splitlines())
