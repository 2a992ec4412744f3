"""A terminal for a command that asks on one: its own, so that stdin, stdout and stderr may be something else."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.command import DEADLINE, Done


def with_terminal(
    words: Sequence[str], answers: Sequence[str], environment: Mapping[str, str], cwd: Path, stdin: str = ""
) -> tuple[Done, str]:
    """Run a command that asks once for each of `answers`; how it ended, and what its terminal has shown."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            words,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[theirs],
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # no other thread is there
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        shown = ""
        end = time.monotonic() + DEADLINE
        for number, answer in enumerate(answers, 1):
            while shown.count("[y/N]") < number:
                assert select.select([ours], [], [], end - time.monotonic())[0], f"nothing was asked: {shown}"
                shown += os.read(ours, 4096).decode()
            os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=DEADLINE)
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 4096).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    return Done(process.returncode, out, err), shown
