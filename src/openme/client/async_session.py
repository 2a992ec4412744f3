"""A client's dealings with one server, in an event loop of asyncio."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from openme.client.addresses import Endpoint, encoded, endpoints_of, unknown_host
from openme.client.blocking import Sockets
from openme.client.driver import HasFileno
from openme.client.errors import ClientError
from openme.client.identity import Identity
from openme.client.knock import Attempt
from openme.client.policy import KNOCKS, REACH_SECONDS, Outcome, Policy, Reached
from openme.client.receipt import CONNECT_SECONDS, ORDERLY, READ_SECONDS, RESET
from openme.config.profile_model import ClientConfig, Profile
from openme.wire.receipt import MAX_SIZE

if TYPE_CHECKING:
    from openme.client.key_file import Passphrase
    from openme.client.turns import Turns

T = TypeVar("T")


class AsyncSession:
    """As `Session`, for a task of asyncio: each method is awaited, and may be cancelled."""

    def __init__(
        self,
        config: ClientConfig,
        name: str | None = None,
        *,
        identity: Identity | None = None,
        passphrase: "Passphrase | None" = None,
    ) -> None:
        self._policy = Policy(Asyncio(), config, name, identity, passphrase)

    @property
    def profile(self) -> Profile:
        """The profile that was chosen."""
        return self._policy.profile

    async def knock(self, ip: str | None = None) -> Attempt:
        """See `Session.knock`."""
        return await self._policy.knock(ip)

    async def check(self, attempt: Attempt) -> Outcome:
        """See `Session.check`."""
        return await self._policy.check(attempt)

    async def status(self) -> Outcome:
        """See `Session.status`."""
        return await self._policy.status()

    @property
    def grant(self) -> float | None:
        """See `Session.grant`."""
        return self._policy.grant

    async def renew(self, attempt: Attempt, *, always: bool = False) -> None:
        """See `Session.renew`."""
        await self._policy.renew(attempt, always=always)

    def keys_end(self) -> int | None:
        """See `Session.keys_end`; does not wait."""
        return self._policy.keys_end()

    def again(self, interval: float | None = None, ip: str | None = None) -> AsyncIterator[Attempt | ClientError]:
        """See `Session.again`."""
        return self._again(self._policy.turns(interval), ip)

    async def _again(self, turns: "Turns", ip: str | None) -> AsyncIterator[Attempt | ClientError]:
        while True:
            await turns.wait()
            try:
                attempt = await self.knock(ip)
            except ClientError as error:
                yield error
            else:
                yield attempt

    async def reach(
        self,
        dial: Callable[[Sequence[Endpoint], float], Awaitable[T | None]],
        ip: str | None = None,
        *,
        look: float = 0.0,
        knocks: int = KNOCKS,
        seconds: float = REACH_SECONDS,
    ) -> Reached[T]:
        """See `Session.reach`; `dial` is awaited."""
        return await self._policy.reach(dial, ip, look=look, knocks=knocks, seconds=seconds)


class Asyncio(Sockets):
    """See `driver.Driver`. A task that is cancelled leaves no socket behind; a thread ends by its own deadline."""

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """See `addresses.resolve`."""
        loop = asyncio.get_running_loop()
        try:
            return endpoints_of(await loop.getaddrinfo(encoded(host), port, type=socket.SOCK_DGRAM))
        except (socket.gaierror, UnicodeError) as error:
            raise unknown_host(host, error) from None

    async def open_endpoints(self, endpoints: Iterable[Endpoint], port: int, seconds: float) -> list[Endpoint]:
        """See `door.open_endpoints`; in the order of `endpoints`."""
        asked = list(endpoints)
        answers = await asyncio.gather(*(self._accepts(endpoint, port, seconds) for endpoint in asked))
        return [endpoint for endpoint, accepts in zip(asked, answers, strict=True) if accepts]

    async def _accepts(self, endpoint: Endpoint, port: int, seconds: float) -> bool:
        try:
            with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)  # noqa: FBT003  # the standard library's signature
                async with asyncio.timeout(seconds):
                    await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, port))
        except OSError:
            return False
        return True

    async def ask(self, endpoint: Endpoint, port: int, receipt_id: bytes, seconds: float) -> bytes:
        """See `receipt.ask`."""
        loop = asyncio.get_running_loop()
        answer = bytearray()
        try:
            with socket.socket(endpoint.family, socket.SOCK_STREAM) as asking:
                asking.setblocking(False)  # noqa: FBT003  # the standard library's signature
                end = loop.time() + seconds
                async with asyncio.timeout(min(CONNECT_SECONDS, seconds)):
                    await loop.sock_connect(asking, (endpoint.host, port))
                # A reset unless all was read: the server takes an orderly end for the word that it was.
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                async with asyncio.timeout_at(min(end, loop.time() + READ_SECONDS)):
                    await loop.sock_sendall(asking, receipt_id)
                    while len(answer) <= MAX_SIZE:
                        chunk = await loop.sock_recv(asking, MAX_SIZE + 1 - len(answer))
                        if not chunk:
                            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ORDERLY)
                            break
                        answer += chunk
        except OSError:
            return b""
        return bytes(answer)

    async def pause(self, seconds: float) -> None:
        """See `driver.Driver`."""
        await asyncio.sleep(seconds)

    async def readable(self, files: Sequence[HasFileno], seconds: float | None) -> None:
        """See `driver.Driver`."""
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        for file in files:
            loop.add_reader(file.fileno(), heard.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await heard.wait()
        finally:
            for file in files:
                loop.remove_reader(file.fileno())

    async def call(self, function: Callable[[], T], interrupt: Callable[[], None] | None = None) -> T:
        """See `driver.Driver`."""
        try:
            return await asyncio.to_thread(function)
        except asyncio.CancelledError:
            if interrupt is not None:
                interrupt()
            raise
