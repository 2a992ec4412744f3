"""The driver that has done each operation when it returns, and what runs the policy over it."""

import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from openme.client.addresses import Endpoint, local_address, resolve
from openme.client.door import open_endpoints
from openme.client.driver import HasFileno
from openme.client.receipt import ask
from openme.wire.knock import IPAddress

if TYPE_CHECKING:
    from openme.client.boot_timer import BootTimer
    from openme.netlink.sockets import Subscription

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine over a blocking driver gives, or the exception that it raises."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine over a blocking driver has waited for something else")


class Sockets:
    """The part that never waits, so that both drivers have it alike: clocks, and UDP."""

    def now_ns(self) -> int:
        """See `Driver`."""
        return time.time_ns()

    def monotonic(self) -> float:
        """See `Driver`."""
        return time.monotonic()

    def boot_clock(self) -> float:
        """See `Driver`."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    def source(self, endpoint: Endpoint, port: int) -> IPAddress:
        """See `Driver`: a UDP socket knows it once it is connected, and sends nothing for that."""
        with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
            sock.connect((endpoint.host, port))
            return local_address(sock)

    def send(self, endpoint: Endpoint, port: int, datagram: bytes) -> None:
        """See `Driver`."""
        with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
            sock.connect((endpoint.host, port))
            sock.send(datagram)

    def system_tells(self) -> "tuple[Subscription, BootTimer] | None":
        """See `Driver`."""
        if not hasattr(socket, "AF_NETLINK"):
            return None
        try:
            from openme.client.boot_timer import BootTimer  # noqa: PLC0415  # Linux alone has it
            from openme.netlink.routes import route_changes  # noqa: PLC0415

            return route_changes(), BootTimer()
        except (AttributeError, ImportError, OSError):  # a sandbox without such sockets, a Python without ctypes
            return None


class Blocking(Sockets):
    """See `driver.Driver`."""

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """See `addresses.resolve`."""
        return resolve(host, port)

    async def open_endpoints(self, endpoints: Iterable[Endpoint], port: int, seconds: float) -> list[Endpoint]:
        """See `door.open_endpoints`."""
        return open_endpoints(endpoints, port, seconds)

    async def ask(self, endpoint: Endpoint, port: int, receipt_id: bytes, seconds: float) -> bytes:
        """See `receipt.ask`."""
        return ask(endpoint, port, receipt_id, seconds)

    async def pause(self, seconds: float) -> None:
        """See `Driver`."""
        time.sleep(seconds)  # noqa: ASYNC251  # that it blocks is this driver's nature

    async def readable(self, files: Sequence[HasFileno], seconds: float | None) -> None:
        """See `Driver`."""
        import select  # noqa: PLC0415  # for a knock that goes on

        select.select(files, [], [], seconds)  # that it blocks is this driver's nature

    async def call(self, function: Callable[[], T], interrupt: Callable[[], None] | None = None) -> T:  # noqa: ARG002
        """See `Driver`; there is no other thread."""
        return function()
