"""`openme.keep_open`: a door that stays open as long as a block of code runs, with threads or in asyncio.

It knocks again by time, before the grant ends, and as soon as this machine is in another network. The rule is a
coroutine over a driver, as the policy is.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from openme.client.blocking import Blocking, finish
from openme.client.errors import ClientError
from openme.client.grant import LEAST_SECONDS, grant_seconds, renewal_seconds
from openme.client.in_one_call import meant, opened
from openme.client.policy import Outcome, Policy
from openme.config.profile_model import ClientConfig, Profile

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from openme.client.driver import Driver
    from openme.client.identity import Identity
    from openme.client.key_file import Passphrase

RETRY_SECONDS = 5.0
"""Until the next try after one that failed; a grant that is over sooner has a shorter time."""


def keep_open(
    profile: str | Profile | None = None,
    *,
    config: ClientConfig | Path | None = None,
    ip: str | None = None,
    identity: "Identity | None" = None,
    passphrase: "Passphrase | None" = None,
    on_problem: Callable[[ClientError], None] | None = None,
) -> "KeptOpen":
    """What keeps the door open while a `with` or `async with` block runs; its arguments are those of `knock`.

    The block begins once the door is open; ShutError, and whatever `knock` raises, come before it. After that nothing
    is raised into the block: why a later knock failed is `problem` of what the block is given, and is handed to
    `on_problem`, in the thread or task that knocks.
    """
    file, name = meant(profile, config)
    return KeptOpen(_Rule(lambda driver: Policy(driver, file, name, identity, passphrase), ip, on_problem))


class KeptOpen:
    """A door that is kept open; see `keep_open`. It can be entered again once it was left.

    At the end of the block its thread or task has ended, within three seconds, and the grant runs out on the server.
    What is none of this library's errors, as from `on_problem`, ends the renewing and is raised there, unless the
    block has raised by itself.
    """

    def __init__(self, rule: "_Rule") -> None:
        self._rule = rule
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def outcome(self) -> Outcome:
        """What became of the last knock that opened. RuntimeError before there is one."""
        if self._rule.outcome is None:
            raise RuntimeError("the door was not opened yet: enter the block first")
        return self._rule.outcome

    @property
    def problem(self) -> ClientError | None:
        """Why the last knock did not open the door again; None if it did."""
        return self._rule.problem

    # -- with a thread

    def __enter__(self) -> Self:
        self._refuse_twice()
        self._ended.clear()
        self._failure = None
        driver = _Stoppable(self._ended)
        finish(self._rule.begin(driver))
        self._thread = threading.Thread(target=self._run, args=(driver,), name="openme-keep-open", daemon=True)
        self._thread.start()
        return self

    def _run(self, driver: "Driver") -> None:
        try:
            finish(self._rule.keep(driver))
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001  # raised at the end of the block
            self._failure = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None and error is None:
            raise self._failure

    # -- with a task

    async def __aenter__(self) -> Self:
        import asyncio  # noqa: PLC0415  # not with a thread

        from openme.client.async_session import Asyncio  # noqa: PLC0415

        self._refuse_twice()
        driver = Asyncio()
        await self._rule.begin(driver)
        self._task = asyncio.create_task(self._rule.keep(driver), name="openme-keep-open")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        import asyncio  # noqa: PLC0415  # it is there

        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (failure := task.exception()) is not None and error is None:
            raise failure

    def _refuse_twice(self) -> None:
        if self._thread is not None or self._task is not None:
            raise RuntimeError("this door is kept open already")


class _Rule:
    """When to knock again, and what became of it."""

    def __init__(
        self,
        policy: Callable[["Driver"], Policy],
        ip: str | None,
        on_problem: Callable[[ClientError], None] | None,
    ) -> None:
        self._make, self._ip, self._on_problem = policy, ip, on_problem
        self.outcome: Outcome | None = None
        self.problem: ClientError | None = None

    async def begin(self, driver: "Driver") -> None:
        """Open the door. Whatever `knock` raises."""
        self._policy = self._make(driver)
        self._roaming = self._policy.roaming()
        self._due = driver.boot_clock()
        await self._knock(driver)

    async def keep(self, driver: "Driver") -> None:
        """Knock again before each grant's end, for ever."""
        while True:
            await self._roaming.wait(self._due)
            try:
                await self._knock(driver)
            except ClientError as error:
                # A network that is gone for a while must not end what is to keep a door open.
                self._due = driver.boot_clock() + _until_next_try(self._grant)
                self.problem = error
                if self._on_problem is not None:
                    self._on_problem(error)

    async def _knock(self, driver: "Driver") -> None:
        begun = driver.boot_clock()
        attempt = await self._policy.knock(self._ip)
        self.outcome = opened(self._policy.profile, attempt, await self._policy.check(attempt))
        self._grant = grant_seconds(self.outcome.proofs)
        self._due = begun + renewal_seconds(self._grant)
        self.problem = None


def _until_next_try(grant: float | None) -> float:
    """Seconds after a knock that failed; `grant`: of the one before."""
    return RETRY_SECONDS if grant is None else max(LEAST_SECONDS, min(RETRY_SECONDS, grant / 4))


class _EndedError(Exception):
    """The block has ended."""


class _Stoppable(Blocking):
    """The blocking driver, whose pauses end with the block.

    The kernel is not heard, since a wait for it would not end so: the network is looked at every few seconds.
    """

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def system_tells(self) -> None:
        """See `driver.Driver`."""

    async def pause(self, seconds: float) -> None:
        """See `driver.Driver`. _EndedError once the block has ended."""
        if self._ended.wait(seconds):
            raise _EndedError
