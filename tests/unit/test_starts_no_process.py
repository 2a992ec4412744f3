"""The directory's own rule: every way to start a process is refused here, and seen though the error is caught."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

PROGRAM = [sys.executable, "-c", ""]


@pytest.fixture(autouse=True)
def starts_no_process() -> None:
    """In place of the one that fails a test afterwards: here the refusal is what is tested."""


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(PROGRAM, check=False),
        lambda: os.system("true"),  # noqa: S605
        os.fork,
        os.forkpty,
        pty.fork,
        lambda: os.posix_spawn(PROGRAM[0], PROGRAM, {}),
        lambda: os.spawnv(os.P_WAIT, PROGRAM[0], PROGRAM),  # noqa: S606
        lambda: os.execv(PROGRAM[0], PROGRAM),  # noqa: S606
    ],
    ids=["subprocess", "system", "fork", "forkpty", "pty", "posix_spawn", "spawn", "exec"],
)
def test_a_process_is_refused(start: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match="belongs to tests/cli"):
        start()
