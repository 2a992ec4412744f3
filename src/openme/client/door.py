"""Is the door open: told by TCP alone, on the health port, which answers only after a knock."""

import errno
import selectors
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from openme.client.addresses import Endpoint

if TYPE_CHECKING:
    from openme.client.driver import Driver

FIRST_ATTEMPT = 0.05  # seconds for the first connection attempt, which may overtake the opening of the door
ATTEMPT_SECONDS = 1.0  # a connection attempt that nothing answers is given up after this
PAUSE = 0.02  # seconds between two attempts: a port that refuses at once is not asked as fast as it answers
CHECK_SECONDS = 5.0  # how long a door is given to open after a knock
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})


def open_endpoints(endpoints: Iterable[Endpoint], port: int, timeout: float = ATTEMPT_SECONDS) -> list[Endpoint]:
    """Those of the endpoints whose `port` accepts a connection; all are tried at once."""
    opened: list[Endpoint] = []
    deadline = time.monotonic() + timeout
    sockets: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        try:
            for endpoint in endpoints:
                sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
                sockets.append(sock)
                sock.setblocking(False)  # noqa: FBT003  # the standard library's signature
                try:
                    begun = sock.connect_ex((endpoint.host, port)) in _UNDER_WAY
                except OSError:
                    continue
                if not begun:
                    # No network, no route: such a socket has no error left to ask for later.
                    continue
                selector.register(sock, selectors.EVENT_WRITE, endpoint)
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    sock = key.fileobj  # type: ignore[assignment]  # only sockets are registered
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        opened.append(key.data)
                    selector.unregister(sock)
        finally:
            for sock in sockets:
                sock.close()
    return opened


async def wait_open(
    driver: "Driver", endpoints: list[Endpoint], port: int, seconds: float = CHECK_SECONDS
) -> list[Endpoint]:
    """The endpoints whose `port` opens within that many seconds; returns as soon as all of them are open.

    A knock and the first SYN travel together, so the first attempt may well be too early: attempts are short and begin
    anew, instead of waiting for TCP's own retry after a second.
    """
    deadline = driver.monotonic() + seconds
    opened: list[Endpoint] = []
    attempt = FIRST_ATTEMPT
    while len(opened) < len(endpoints) and (left := deadline - driver.monotonic()) > 0:
        closed = [endpoint for endpoint in endpoints if endpoint not in opened]
        opened += await driver.open_endpoints(closed, port, min(attempt, left))
        if len(opened) < len(endpoints):
            await driver.pause(PAUSE)
            # Once one family is open the other had its time: half a second more, not the whole of it.
            if opened:
                deadline = min(deadline, driver.monotonic() + 0.5)
        attempt = min(attempt * 2, ATTEMPT_SECONDS)
    return [endpoint for endpoint in endpoints if endpoint in opened]
