"""Whether this host balances load by IPVS: its services are ports in use that no socket waits for.

The kernel lists them in /proc/net/ip_vs, which is there once the module is.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

IP_VS = Path("/proc/net/ip_vs")
NETLINK_GENERIC = 16
NLCTRL_NOTIFY = 1 << 0x10 - 1  # the group `notify` of the family nlctrl, as a bit (linux/genetlink.h)
FAMILY = b"IPVS\0"
MOST_READ = 4096  # the services stand behind three lines of headings
SERVICES = (b"TCP ", b"UDP ", b"SCTP ", b"FWM ")


class VirtualServices:
    """The services of the network namespace where it is made; afterwards it opens no file and needs no privilege.

    `path` stands for the kernel's list in tests.
    """

    def __init__(self, path: Path = IP_VS) -> None:
        self._listing: int | None = None
        self._news: socket.socket | None = None
        self._arrived = False
        # Asked to be told first, so that a module that comes in between is not missed.
        with suppress(OSError):
            self._news = _told_of_families()
        with suppress(OSError):
            self._listing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._listing is not None:
            os.close(self._listing)
        if self._news is not None:
            self._news.close()

    def exist(self) -> bool:
        """Whether there are any now. Also where the module came later, so that its list is out of reach."""
        if self._listing is not None:
            try:
                return has_services(os.pread(self._listing, MOST_READ, 0))
            except OSError:
                return False
        self._arrived = self._arrived or self._has_arrived()
        return self._arrived

    def _has_arrived(self) -> bool:
        """Read the kernel's news of families that come and go."""
        while self._news is not None:
            try:
                news, _, _, sender = self._news.recvmsg(65536)
            except BlockingIOError:
                return False
            except OSError:  # some were lost
                continue
            # Any local process may send to a netlink socket; port id 0 is the kernel alone.
            if sender[0] == 0 and FAMILY in news:
                return True
        return False


def has_services(listing: bytes) -> bool:
    """Whether a beginning of /proc/net/ip_vs shows a service."""
    return any(line.startswith(SERVICES) for line in listing.splitlines())


def _told_of_families() -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_GENERIC
    )
    try:
        made.bind((0, NLCTRL_NOTIFY))
    except OSError:
        made.close()
        raise
    return made
