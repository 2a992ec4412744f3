"""What a session does outside itself: time, sockets, and calls that may wait for something else.

The policy is coroutines over these operations. `blocking.Blocking` does each before it returns, so that `finish` runs
a coroutine without an event loop; `asynchronous.Asyncio` waits in one.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from openme.client.addresses import Endpoint
from openme.wire.knock import IPAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openme.client.boot_timer import BootTimer
    from openme.netlink.sockets import Subscription

T = TypeVar("T")


class HasFileno(Protocol):
    """What one can wait for."""

    def fileno(self) -> int:
        """Its descriptor."""


class Driver(Protocol):
    """The operations. OSError wherever the system refuses, unless another is named."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""

    def monotonic(self) -> float:
        """Seconds from some moment on, which nobody turns."""

    def boot_clock(self) -> float:
        """As `monotonic`, and going on while the machine sleeps where the system counts that."""

    def source(self, endpoint: Endpoint, port: int) -> IPAddress:
        """The address from which this machine sends to there."""

    def send(self, endpoint: Endpoint, port: int, datagram: bytes) -> None:
        """Send one UDP datagram."""

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """See `addresses.resolve`."""

    async def open_endpoints(self, endpoints: Iterable[Endpoint], port: int, seconds: float) -> list[Endpoint]:
        """See `door.open_endpoints`. Never OSError."""

    async def ask(self, endpoint: Endpoint, port: int, receipt_id: bytes, seconds: float) -> bytes:
        """See `receipt.ask`. Never OSError."""

    async def pause(self, seconds: float) -> None:
        """Let that time pass."""

    def system_tells(self) -> "tuple[Subscription, BootTimer] | None":
        """Who hears of changes of the network, and a timer that counts the machine's sleep; None without either."""

    async def readable(self, files: "Sequence[HasFileno]", seconds: float | None) -> None:
        """Until there is something to read from one of these, or that time has passed."""

    async def call(self, function: Callable[[], T], interrupt: Callable[[], None] | None = None) -> T:
        """What a function gives that may block: on a disk, an agent, a page. Whatever it raises.

        `interrupt` makes one end that waits in another thread, for when nobody wants what it gives any more.
        """
