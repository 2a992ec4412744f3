"""Looks run side by side: what each finds, what it waits for, and that none holds the others up."""

import errno
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from openme.doctor.client.table import LOOKS as CLIENT
from openme.doctor.looks import Finding, Look, NotLooked, NotLookedError, run
from openme.doctor.server.table import LOOKS as SERVER
from openme.errors import OpenmeError

WRONG = Finding("wrong", "it is wrong", "put it right")
LONG = 60.0


def finds(_subject: object) -> list[Finding]:
    return [WRONG]


def is_well(_subject: object) -> list[Finding]:
    return []


def cannot(_subject: object) -> list[Finding]:
    raise NotLookedError("there is nothing to look with")


@pytest.fixture
def hangs() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_findings_come_in_the_order_of_the_table() -> None:
    other = Finding("other", "also wrong", "mend it")
    report = run([Look("a", ("wrong",), finds), Look("b", ("other",), lambda _subject: [other])], None)
    assert report == ((WRONG, other), ("a", "b"), ())


def test_a_look_gets_the_subject() -> None:
    report = run([Look("a", ("wrong",), lambda subject: [WRONG._replace(text=subject)])], "what it is about")
    assert [finding.text for finding in report.findings] == ["what it is about"]


def test_what_was_not_looked_at_is_said_and_is_no_finding() -> None:
    def refuses(_subject: object) -> list[Finding]:
        raise OpenmeError("permission denied", "be root")

    def is_gone(_subject: object) -> list[Finding]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    looks = [Look("a", (), cannot), Look("b", (), refuses), Look("c", (), is_gone), Look("d", (), is_well)]
    report = run(looks, None)
    assert report[:2] == ((), ("d",))
    assert [why for _, why in report.not_looked] == [
        "there is nothing to look with",
        "permission denied",
        "no such file or directory",
    ]


def test_a_look_that_fails_inside_costs_no_other_one() -> None:
    def breaks(_subject: object) -> list[Finding]:
        raise ZeroDivisionError

    report = run([Look("a", (), breaks), Look("b", ("wrong",), finds)], None)
    assert report.findings == (WRONG,)
    assert report.not_looked == (NotLooked("a", "internal error (ZeroDivisionError), please report it"),)


def test_a_look_that_comes_after_others_is_left_out_if_they_find_something() -> None:
    report = run([Look("a", ("wrong",), finds), Look("b", ("wrong",), finds, after=("a",))], None)
    assert report == ((WRONG,), ("a",), (NotLooked("b", "what was found at a comes first"),))


@pytest.mark.parametrize("before", [is_well, cannot])
def test_a_look_that_comes_after_others_is_taken_if_they_find_nothing(
    before: Callable[[object], list[Finding]],
) -> None:
    report = run([Look("b", ("wrong",), finds, after=("a",)), Look("a", (), before)], None)
    assert report.findings == (WRONG,)


def test_a_look_that_hangs_is_given_up_and_the_others_are_not(hangs: threading.Event) -> None:
    def waits(_subject: object) -> list[Finding]:
        hangs.wait(LONG)
        return [WRONG]

    report = run(
        [Look("a", (), waits, seconds=0.01), Look("b", ("wrong",), finds, after=("a",)), Look("c", (), is_well)], None
    )
    assert report == ((WRONG,), ("b", "c"), (NotLooked("a", "it took too long"),))


def test_all_of_them_end_with_the_time_for_all(hangs: threading.Event) -> None:
    def waits(_subject: object) -> list[Finding]:
        hangs.wait(LONG)
        return []

    report = run([Look("a", (), waits, seconds=LONG), Look("b", (), waits, after=("a",), seconds=LONG)], None, 0.05)
    assert report == ((), (), (NotLooked("a", "it took too long"), NotLooked("b", "it took too long")))


@pytest.mark.parametrize("looks", [CLIENT, SERVER], ids=["client", "server"])
def test_what_a_look_comes_after_is_another_one_and_never_itself_in_the_end(looks: tuple[Look[object], ...]) -> None:
    after = {look.name: set(look.after) for look in looks}
    assert len(after) == len(looks)
    settled: set[str] = set()
    while further := {name for name in after.keys() - settled if after[name] <= settled}:
        settled |= further
    assert settled == set(after)
