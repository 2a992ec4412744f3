"""Where the system tells what changes: one look a change, none in between, and what counts as another network."""

import asyncio
import select
import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import pytest

from openme.client.async_session import Asyncio
from openme.client.blocking import Blocking, finish
from openme.client.boot_timer import BootTimer
from openme.client.driver import HasFileno
from openme.client.roaming import Roaming, Sources
from openme.client.turns import Turns
from openme.netlink.codec import attribute, framed
from openme.netlink.routes import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDRMSG,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    RTMSG,
    RTN_UNICAST,
    is_another_network,
)

if TYPE_CHECKING:
    from openme.client.driver import Driver

RTM_NEWADDR = 20
HERE, THERE = ip_address("192.168.1.5"), ip_address("10.0.0.7")
HOME, AWAY = frozenset({HERE}), frozenset({THERE})


def address(kind: int, *which: bytes) -> bytes:
    body = IFADDRMSG.pack(socket.AF_INET, 24, 0, 0, 2)
    return framed(kind, 0, 0, body + b"".join(map(attribute, (IFA_ADDRESS, IFA_LOCAL), which)))


def route(kind: int, length: int, route_type: int = RTN_UNICAST) -> bytes:
    return framed(kind, 0, 0, RTMSG.pack(socket.AF_INET, length, 0, 0, 254, 3, 0, route_type, 0))


GONE = address(RTM_DELADDR, HERE.packed, HERE.packed)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (GONE, True),
        (address(RTM_DELADDR, THERE.packed, HERE.packed), True),
        (address(RTM_DELADDR, THERE.packed, THERE.packed), False),
        (address(RTM_NEWADDR, HERE.packed, HERE.packed), False),
        (route(RTM_NEWROUTE, 0), True),
        (route(RTM_DELROUTE, 0), True),
        (route(RTM_DELROUTE, 24), False),
        (route(RTM_NEWROUTE, 0, 7), False),
        (route(RTM_NEWROUTE, 24) + route(RTM_NEWROUTE, 0), True),
        (framed(16, 0, 0, bytes(16)), False),
        (b"\x01", True),
        (framed(RTM_DELROUTE, 0, 0, b"\x02"), True),
        (b"", False),
    ],
)
def test_what_the_kernel_tells_of_another_network(message: bytes, *, says: bool) -> None:
    assert is_another_network(message, {HERE.packed}) is says


class Kernel(Blocking):
    """Says what a test has it say, one change after the other, at its times; counts how often it is waited for."""

    def __init__(self, *changes: tuple[float, bytes | None, Sources]) -> None:
        self.changes = [*changes]
        self.now = 0.0
        self.current: Sources = HOME
        self.waits = 0
        self.slept = 0.0  # once, at the end of the next wait
        self.alarm = 0.0
        self.socket = self
        self.queue: list[bytes | None] = []

    def boot_clock(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def system_tells(self) -> Any:
        return self, self

    def fileno(self) -> int:
        return 0

    def set(self, moment: float) -> None:
        self.alarm = moment

    async def readable(self, files: Sequence[HasFileno], seconds: float | None) -> None:
        self.waits += 1
        end = self.alarm if seconds is None else self.now + seconds
        if self.changes and self.changes[0][0] <= end:
            at, message, self.current = self.changes.pop(0)
            self.now = max(self.now, at)
            self.queue.append(message)
        else:
            self.now, self.slept = end + self.slept, 0.0
        assert files

    async def pause(self, seconds: float) -> None:
        raise AssertionError(f"looked every {seconds} s")

    def news(self) -> Iterator[bytes | None]:
        while self.queue:
            yield self.queue.pop()


def waited(kernel: Kernel, *moments: float) -> list[float]:
    roaming = Roaming(cast("Driver", kernel), lambda: kernel.current)
    found = []
    for moment in moments:
        finish(roaming.wait(moment))
        found.append(kernel.now)
    return found


def test_while_nothing_changes_nothing_is_looked_at() -> None:
    kernel = Kernel()
    assert waited(kernel, 25, 50) == [25, 50]
    assert kernel.waits == 2


def test_another_address_ends_the_wait_once_it_has_settled() -> None:
    kernel = Kernel(
        (3, GONE, frozenset()),
        (3.1, address(RTM_NEWADDR, THERE.packed, THERE.packed), AWAY),
        (3.2, route(RTM_NEWROUTE, 0), AWAY),
    )
    assert waited(kernel, 25) == [pytest.approx(3.7)]


def test_the_same_address_in_another_network_ends_it_too_even_if_there_was_none_for_a_while() -> None:
    kernel = Kernel((3, GONE, frozenset()), (9, address(RTM_NEWADDR, HERE.packed, HERE.packed), HOME))
    assert waited(kernel, 25, 50) == [9.5, 50]


def test_what_lives_on_is_no_other_network() -> None:
    kernel = Kernel(*((n, address(RTM_NEWADDR, HERE.packed, HERE.packed), HOME) for n in range(1, 20, 4)))
    assert waited(kernel, 25) == [25]


def test_news_that_got_lost_count_as_another_network() -> None:
    assert waited(Kernel((5, None, HOME)), 25) == [5.5]


def test_changes_that_never_stop_are_waited_for_no_longer_than_it_takes() -> None:
    kernel = Kernel(*((1 + n / 10, GONE, AWAY) for n in range(200)))
    assert waited(kernel, 25)[0] == pytest.approx(4, abs=0.2)


def test_a_way_that_comes_back_while_the_knock_fails_is_heard_in_the_next_wait() -> None:
    """The address alone comes back, whose news say nothing of another network."""
    kernel = Kernel((3, GONE, frozenset()))
    roaming = Roaming(cast("Driver", kernel), lambda: kernel.current)
    finish(roaming.wait(25))
    assert kernel.now == 25
    kernel.changes = [(27, address(RTM_NEWADDR, HERE.packed, HERE.packed), HOME)]
    kernel.now, kernel.current = 30, HOME  # it is there, and its news wait to be read
    finish(roaming.wait(50))
    assert kernel.now == 30.5


def test_what_was_heard_of_another_network_counts_for_one_turn_alone() -> None:
    elsewhere = route(RTM_NEWROUTE, 24)
    kernel = Kernel((3, None, HOME), (40, elsewhere, HOME))
    assert waited(kernel, 25, 50) == [3.5, 50]


def test_where_nothing_was_sent_yet_the_first_address_is_no_other_network() -> None:
    kernel = Kernel((3, address(RTM_NEWADDR, THERE.packed, THERE.packed), HOME))
    known: list[Sources | None] = [None, HOME]
    roaming = Roaming(cast("Driver", kernel), lambda: known.pop(0) if known else HOME)
    finish(roaming.wait(25))
    assert kernel.now == 25


def test_a_machine_that_slept_over_its_moment_has_one_turn_at_once_and_then_the_usual_distance() -> None:
    """The boot clock jumps in the middle of the wait, and the timer that is on it is readable."""
    kernel = Kernel()
    turns = Turns(cast("Driver", kernel), lambda: 25.0, Roaming(cast("Driver", kernel), lambda: kernel.current))
    finish(turns.wait())
    kernel.slept = 3600.0
    found = []
    for _ in range(3):
        finish(turns.wait())
        found.append(kernel.now)
    assert found == [3650, 3675, 3700]
    assert kernel.waits == 4


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux alone has it")
def test_the_timer_is_readable_from_its_moment_on_and_not_before() -> None:
    driver, timer = Blocking(), BootTimer()
    begin = driver.boot_clock()
    timer.set(begin + 0.05)
    finish(driver.readable((timer,), 20))
    assert driver.boot_clock() >= begin + 0.05
    assert select.select([timer], [], [], 0)[0]
    timer.set(begin + 3600)
    assert not select.select([timer], [], [], 0)[0]
    timer.set(0)
    finish(driver.readable((timer,), 20))
    assert select.select([timer], [], [], 0)[0]


def test_under_asyncio_one_waits_for_the_same_and_leaves_nobody_behind() -> None:
    async def wait() -> tuple[bool, bool]:
        driver, timer = Asyncio(), BootTimer()
        timer.set(driver.boot_clock() + 3600)
        await driver.readable((timer,), 0.01)
        early = bool(select.select([timer], [], [], 0)[0])
        timer.set(driver.boot_clock() + 0.05)
        await driver.readable((timer,), None)
        return early, asyncio.get_running_loop().remove_reader(timer.fileno())

    assert asyncio.run(wait()) == (False, False)
