"""A unit test starts no process: it calls what it tests. Those that need one are in tests/cli.

Python tells an audit hook of every program and child before it is started, whichever function is used; a hook cannot be
taken away again, so it looks whether a test of this directory is running.
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

STARTS = frozenset(
    ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "subprocess.Popen")
)


class ProcessStartedError(AssertionError):
    """A unit test has started a process."""


class _Watch:
    test: str | None = None
    started: str | None = None


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event in STARTS and _Watch.test is not None:
        _Watch.started = event
        raise ProcessStartedError(f"{_Watch.test}: {event}: a test that starts a process belongs to tests/cli")


sys.addaudithook(_refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """From the first fixture of a test to the last; pytest calls this for the tests of other directories, too."""
    _Watch.test = item.nodeid if item.path.is_relative_to(HERE) else None
    try:
        return (yield)
    finally:
        _Watch.test = None


@pytest.fixture(autouse=True)
def starts_no_process() -> Generator[None]:
    """Also where somebody has caught the error: the test fails."""
    _Watch.started = None
    yield
    assert _Watch.started is None, f"{_Watch.started} was called: a test that starts a process belongs to tests/cli"
