"""What the sandbox says of a kernel that does not do what it is asked."""

import ctypes
import errno
from types import SimpleNamespace
from typing import cast

import pytest
from py_landlock import Landlock, LandlockNotAvailableError, RulesetError

from openme.processes import sandbox
from openme.processes.sandbox import find_landlock
from openme.seam.messages import NoLandlock, NoSeccomp
from openme.server import start


def test_why_there_is_no_landlock_is_told_in_the_librarys_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> int:
        raise LandlockNotAvailableError("Could not find libc")

    monkeypatch.setattr(sandbox, "get_abi_version", refuses)
    assert find_landlock() == "Could not find libc"


def test_the_keepers_warning_about_landlock_has_that_reason_and_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    shortfalls = [NoLandlock(), NoSeccomp(errno.EINVAL)]
    monkeypatch.setattr(start, "take_on", lambda _: None)
    monkeypatch.setattr(start, "confine", lambda *_: shortfalls)
    prepared = SimpleNamespace(readable=(), writable=(), no_landlock="Could not find libc")
    assert start._Prepared.give_up(cast("start._Prepared", prepared)) == [
        "sandbox: Landlock is not in force (Could not find libc): files are protected by their modes alone",
        "sandbox: seccomp is not in force (Invalid argument)",
    ]


@pytest.mark.parametrize("number", [0, errno.EPERM])
def test_rules_that_the_kernel_refuses_are_reported_by_its_number(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuses(_: Landlock) -> None:
        if number:
            ctypes.set_errno(number)
        raise RulesetError("landlock_restrict_self failed")

    monkeypatch.setattr(Landlock, "apply", refuses)
    ctypes.set_errno(errno.ENOENT)  # of an earlier call
    assert sandbox._landlock([], []) == [NoLandlock(number)]
