"""When a door that is kept open is knocked at again, what failures do, and that nothing is left when the block ends."""

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from openme.client import in_one_call
from openme.client.addresses import Endpoint
from openme.client.blocking import Blocking, finish
from openme.client.errors import ClientError, NotSentError, ShutError
from openme.client.grant import grant_seconds
from openme.client.keeping_open import KeptOpen, _EndedError, _Rule, _Stoppable
from openme.client.knock import Attempt, Sent
from openme.client.known import PastKnock
from openme.client.policy import Outcome, State
from openme.client.receipt import Proof
from openme.client.roaming import Roaming, Sources
from openme.config.profile_model import ClientConfig, Profile
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import Receipt

if TYPE_CHECKING:
    from openme.client.policy import Policy

HERE = Endpoint(socket.AF_INET, "127.0.0.1")
PROFILE = Profile("home", "host.example", bytes(32))
CLOSED = "closed"


class Clock(Blocking):
    """Time that passes by pauses alone; the driver ends what never ends after `until` seconds."""

    def __init__(self, until: float) -> None:
        self.time, self.until = 1000.0, 1000.0 + until

    def system_tells(self) -> None:
        pass

    def boot_clock(self) -> float:
        return self.time

    async def pause(self, seconds: float) -> None:
        self.time += seconds
        if self.time > self.until:
            raise TimeoutError


class Server:
    """A policy whose knocks end as told: seconds of the grant, None for no receipt, CLOSED, or an error."""

    profile = PROFILE

    def __init__(self, driver: Any, *results: float | str | Exception | None) -> None:
        self.driver, self.results = driver, list(results)
        self.at: list[float] = []
        self.takes = 0.0
        self.moves: dict[float, Sources] = {0: frozenset({ip_address("192.0.2.1")})}

    def sources(self) -> Sources:
        return self.moves[max(at for at in self.moves if at <= self.driver.boot_clock() - 1000)]

    def roaming(self) -> Roaming:
        return Roaming(self.driver, self.sources)

    async def knock(self, _ip: str | None) -> Attempt:
        self.at.append(self.driver.boot_clock() - 1000)
        if isinstance(self.results[0], Exception):
            raise self.results.pop(0)  # type: ignore[misc]  # it is one
        return Attempt((Sent(HERE, None),), ())

    async def check(self, attempt: Attempt) -> Outcome:
        if self.takes:
            self.driver.time += self.takes
        result = self.results[0] if len(self.results) == 1 else self.results.pop(0)
        if result == CLOSED:
            return Outcome((HERE,), (), attempt=attempt)
        if result is None:
            return Outcome((HERE,), (HERE,), attempt=attempt)
        past = PastKnock(HERE.host, None, 0, 0, ReceiptKeys(b"", b"", b""))
        # The server's clock is an hour off.
        receipt = Receipt("alice", ip_address("192.0.2.1"), ("22/tcp",), 3600 + float(cast("float", result)), 3600)
        return Outcome((HERE,), (HERE,), (Proof(HERE, past, receipt),), attempt=attempt, must_prove=True)


def knocked_at(
    until: float, *results: float | str | Exception | None, told: Callable[[ClientError], None] | None = None
) -> tuple[list[float], _Rule]:
    """When a door with these results is knocked at within so many seconds."""
    clock = Clock(until)
    server = Server(clock, *results)
    rule = _Rule(lambda _driver: cast("Policy", server), None, told)
    finish(rule.begin(clock))
    with pytest.raises(TimeoutError):
        finish(rule.keep(clock))
    return server.at, rule


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ((30,), [0, 18, 36, 54]),
        ((10, 100), [0, 6]),  # the second grant is longer: after it comes 66
        ((None,), [0, 25, 50]),  # nothing proves how long
        ((0,), [n / 2 for n in range(121)]),  # a server without patience is not knocked at without end
        ((30, NotSentError("away"), NotSentError("away"), 30), [0, 18, 23, 28, 46]),
        ((4, CLOSED, 30), [0, 2.4, 3.4, 21.4, 39.4, 57.4]),
        ((1, CLOSED, 100), [0, 0.6, 1.1]),
    ],
)
def test_it_knocks_again_before_each_grant_ends_and_sooner_where_that_failed(
    results: tuple[float | str | Exception | None, ...], expected: list[float]
) -> None:
    at, _ = knocked_at(60, *results)
    assert at == pytest.approx(expected)


def test_a_grant_counts_from_its_knock_on_however_long_the_receipt_takes() -> None:
    clock = Clock(40)
    server = Server(clock, 30)
    server.takes = 5.0
    rule = _Rule(lambda _driver: cast("Policy", server), None, None)
    finish(rule.begin(clock))
    with pytest.raises(TimeoutError):
        finish(rule.keep(clock))
    assert server.at == pytest.approx([0, 18, 36])


def test_of_several_grants_the_shortest_counts() -> None:
    past = PastKnock(HERE.host, None, 0, 0, ReceiptKeys(b"", b"", b""))
    grants = (Receipt("alice", ip_address("192.0.2.1"), (), 100.0 + lasts, 100.0) for lasts in (30, 10, 20))
    proofs = [*(Proof(HERE, past, receipt) for receipt in grants), Proof(HERE, past, None)]
    assert (grant_seconds(proofs), grant_seconds(proofs[3:])) == (10, None)


def test_a_threads_pause_lasts_unless_the_block_ends() -> None:
    ended = threading.Event()
    driver = _Stoppable(ended)
    begin = driver.monotonic()
    finish(driver.pause(0.05))
    assert driver.monotonic() - begin >= 0.04
    ended.set()
    with pytest.raises(_EndedError):
        finish(driver.pause(1e6))


def test_in_another_network_it_knocks_at_once_also_where_the_last_knock_has_failed() -> None:
    here, there = (frozenset({ip_address(f"192.0.2.{n}")}) for n in (1, 2))
    clock = Clock(60)
    server = Server(clock, 1000, NotSentError("away"), 1000)
    server.moves = {0: here, 12: frozenset(), 18: there, 31: here}
    rule = _Rule(lambda _driver: cast("Policy", server), None, None)
    finish(rule.begin(clock))
    with pytest.raises(TimeoutError):
        finish(rule.keep(clock))
    assert server.at == pytest.approx([0, 20, 25, 35])


def test_a_problem_is_told_and_stands_until_a_knock_opens_again() -> None:
    told: list[ClientError] = []
    away = NotSentError("away")
    _, rule = knocked_at(20, 30, away, 30, told=told.append)
    assert rule.problem is away
    assert told == [away]
    assert rule.outcome is not None
    assert rule.outcome.is_open
    _, rule = knocked_at(30, 30, away, 30, told=told.append)
    assert rule.problem is None


def test_a_later_knock_that_finds_the_door_shut_says_so_and_keeps_the_last_open_outcome() -> None:
    _, rule = knocked_at(21, 30, CLOSED)
    assert isinstance(rule.problem, ShutError)
    assert rule.problem.outcome is not None
    assert rule.problem.outcome.state is State.CLOSED
    assert rule.outcome is not None
    assert rule.outcome.is_open


def kept(*results: float | str | Exception | None, told: Callable[[ClientError], None] | None = None) -> KeptOpen:
    """A door in real time."""
    return KeptOpen(_Rule(lambda driver: cast("Policy", Server(driver, *results)), None, told))


def renewing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "openme-keep-open"]


def test_what_fails_before_the_block_keeps_it_from_beginning() -> None:
    door = kept(CLOSED)
    with pytest.raises(ShutError, match=r"^host\.example: the door stayed shut"), door:
        raise AssertionError
    assert renewing() == []
    with pytest.raises(RuntimeError, match="enter the block first"):
        _ = door.outcome


def test_the_thread_ends_with_the_block_in_the_middle_of_a_pause() -> None:
    door = kept(1e6)
    for _ in range(2):
        with door as given:
            assert (given is door, len(renewing())) == (True, 1)
            with pytest.raises(RuntimeError, match="already"), door:
                pass
        assert renewing() == []


def test_the_task_ends_with_the_block() -> None:
    async def main() -> None:
        for _ in range(2):
            async with kept(1e6) as door:
                assert door.outcome.is_open
                with pytest.raises(RuntimeError, match="already"):
                    await door.__aenter__()
                assert len(asyncio.all_tasks()) == 2
            assert len(asyncio.all_tasks()) == 1
        with pytest.raises(ShutError):
            async with kept(CLOSED):
                raise AssertionError

    asyncio.run(main())


class CallersError(Exception):
    """An error of the caller's own."""


def test_what_the_caller_raises_while_it_is_told_comes_at_the_end_of_the_block() -> None:
    called = threading.Event()

    def told(_problem: ClientError) -> None:
        called.set()
        raise CallersError

    with pytest.raises(CallersError), kept(0, NotSentError("away"), told=told):
        assert called.wait(20)
    door = kept(0, NotSentError("away"), told=told)
    called.clear()

    def fail_after_it() -> None:
        with door:
            assert called.wait(20)
            for thread in renewing():
                thread.join(20)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # the block's own error is not hidden
        fail_after_it()
    with door:
        pass  # and what failed in one block is not told of the next

    async def main() -> None:
        failed = asyncio.Event()

        def noted(_problem: ClientError) -> None:
            failed.set()
            raise CallersError

        with pytest.raises(CallersError):
            async with kept(0, NotSentError("away"), told=noted):
                await asyncio.wait_for(failed.wait(), 20)
        failed.clear()

        async def fail_after_it() -> None:
            async with kept(0, NotSentError("away"), told=noted):
                await asyncio.wait_for(failed.wait(), 20)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_after_it()

    asyncio.run(main())


# -- which profile is meant


def test_a_profile_stands_in_place_of_the_files_and_the_others_of_the_file_stay(tmp_path: Path) -> None:
    other = PROFILE._replace(name="other")
    config = ClientConfig(tmp_path / "config.yaml", {"home": PROFILE, "other": other})
    changed = PROFILE._replace(ip="source")
    meant, name = in_one_call.meant(changed, config)
    assert (meant, name) == (config._replace(profiles={"home": changed, "other": other}), "home")
    assert in_one_call.meant("other", config) == (config, "other")
    assert in_one_call.meant(None, config) == (config, None)


def test_a_path_is_the_file_that_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ClientConfig(tmp_path / "alice.yaml", {"home": PROFILE})
    files = {config.path: config}
    monkeypatch.setattr(in_one_call, "load_profiles", files.__getitem__)
    assert in_one_call.meant("home", config.path) == (config, "home")


@pytest.mark.parametrize(
    ("opened", "must_prove", "words"),
    [((), False, "stayed shut"), ((HERE,), True, "does not prove to be the server")],
)
def test_only_an_open_door_is_no_error(opened: tuple[Endpoint, ...], must_prove: bool, words: str) -> None:  # noqa: FBT001
    attempt = Attempt((Sent(HERE, None),), ())
    outcome = Outcome((HERE,), opened, attempt=attempt, must_prove=must_prove)
    with pytest.raises(ShutError, match=words) as raised:
        in_one_call.opened(PROFILE, attempt, outcome)
    assert (raised.value.outcome, raised.value.attempt) == (outcome, attempt)
    fine = outcome._replace(opened=(HERE,), must_prove=False)
    assert in_one_call.opened(PROFILE, attempt, fine) is fine
