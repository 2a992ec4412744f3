"""Why the kernel filter is not in force, in one line with its cure; what the kernel says is made up here."""

import errno
import os
import socket
from contextlib import closing
from typing import NoReturn

import pytest

from openme.kernel_filter.bpf import RefusedProgramError, UnsupportedError
from openme.server import knock_filter
from openme.server.knock_filter import filtered


def refused_by(error: Exception, monkeypatch: pytest.MonkeyPatch, *, capable: bool = True) -> str:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(knock_filter, "put_before", refuse)
    monkeypatch.setattr(knock_filter, "has", lambda _: capable)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as knock:
        made, why = filtered(knock)
    assert made is None
    assert why is not None
    assert "\n" not in why
    return why


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "why", "cure"),
    [
        (UnsupportedError("s390x"), "it is not made for s390x processors", "nothing can be done here"),
        (RefusedProgramError(errno.EACCES, "Permission denied: R1 is odd"), "R1 is odd", "please report it"),
        (os_error(errno.EPERM), "Operation not permitted", "16 MiB of locked memory (LimitMEMLOCK=)"),
        (os_error(errno.ENOSYS), "Function not implemented", "allow the system call bpf"),
        (os_error(errno.ENOMEM), "Cannot allocate memory", "net.core.optmem_max"),
        (os_error(errno.EINVAL), "Invalid argument", "5.10"),
    ],
)
def test_a_refusal_is_one_line_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, why: str, cure: str
) -> None:
    line = refused_by(error, monkeypatch)
    assert line.startswith(f"the kernel filter is not in force ({why}") or f"{why})" in line
    assert cure in line


def test_without_the_capability_that_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(CAP_BPF is missing)" in refused_by(os_error(errno.EPERM), monkeypatch, capable=False)
