"""The processes beside the keeper: how they are forked, what they leave behind, and how they end.

A child is told to end by the end of a descriptor that the keeper holds, which comes however the keeper goes.
"""

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from openme.interrupts import held_back, ignore
from openme.processes.privileges import User, leave_terminal, take_on
from openme.processes.roles import GUARDIAN
from openme.processes.sandbox import confine

_PATIENCE = 1.0  # seconds that a child gets to end: by itself, then by the guardian's hand
_GRACE = 3.0  # the same for a child that nobody would end
_STANDARD = 3  # input, output, error


def detach(kept: set[int]) -> None:
    """Leave everything of whoever started us: all descriptors but `kept`, terminal, folder, and standard streams.

    0, 1 and 2 are /dev/null: the numbers stay taken, so that no stranger's connection gets them.
    """
    leave_terminal()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(_STANDARD):
        os.dup2(null, number)
    close_all_but(kept | set(range(_STANDARD)))


def close_all_but(kept: set[int]) -> None:
    """Close every other descriptor, whatever the limit was when it was opened."""
    try:
        numbers = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:  # there is no /proc
        numbers = list(range(os.sysconf("SC_OPEN_MAX")))
    for number in set(numbers) - kept:
        with suppress(OSError):
            os.close(number)


def fork_with_lifeline(run: Callable[[int], None]) -> tuple[int, int]:
    """Fork a process that runs `run(lifeline)` and ends: its id, and the descriptor to write to it by.

    `lifeline` is the reading end of a pipe: at its end when nobody holds the other one, which is ours, any more. A
    terminal's Ctrl-C reaches all processes; the keeper ends the others when it has closed the firewall.
    """
    lifeline, ours = os.pipe()
    with held_back():  # one that came between fork(2) and what follows would end the child as its parent
        child = os.fork()
        if child:
            os.close(lifeline)
            return child, ours
        try:
            ignore()
            run(lifeline)
        finally:
            os._exit(0)


def wait_for(child: int, seconds: float = _GRACE) -> int | None:
    """The wait status of a child that has been told to end; None if it has not yet, or was waited for before.

    One that is stopped must not keep us.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended:
            return status
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


@dataclass(slots=True)
class ListenerAndGuardian:
    """The listener, and the process that ends it when we are gone, however we went.

    An honest listener ends by itself when the channel does. One that hangs, or that somebody has taken over, would keep
    the knock port and so the next server from starting; and we, without the right to signal another user's process,
    could not end it, nor could the kernel in our name (prctl(2), PR_SET_PDEATHSIG, asks for the parent's rights).

    The guardian is root with CAP_KILL alone, so that no process of another user can signal it, on any kernel. Where all
    processes are of one user, or we have no CAP_KILL to give, it is what the listener is.
    """

    listener: int
    close_channel: Callable[[], None]
    guardian: int = 0
    _lifeline: int = -1
    _ended: bool = False
    _status: int | None = field(default=None)

    def start_guardian(self, user: User | None) -> None:
        """Fork the guardian. It becomes `user`; None: it stays who we are, with CAP_KILL alone where we have it."""
        listener, keeper = os.pidfd_open(self.listener), os.pidfd_open(os.getpid())

        def watch(lifeline: int) -> None:
            detach({lifeline, listener, keeper})
            take_on(GUARDIAN, user, below=user is not None)
            confine(GUARDIAN, victim=listener)
            # A pidfd is readable when its process has ended; the lifeline when nobody holds its other end any more. A
            # child of the keeper's may hold that for a while longer than the keeper, so both are watched.
            waiting = select.poll()
            for descriptor in (lifeline, listener, keeper):
                waiting.register(descriptor, select.POLLIN)
            if listener not in dict(waiting.poll()):
                signal.pidfd_send_signal(listener, signal.SIGKILL)

        with ExitStack() as stack:
            for descriptor in (listener, keeper):
                stack.callback(os.close, descriptor)
            self.guardian, self._lifeline = fork_with_lifeline(watch)

    def status(self, seconds: float) -> int | None:
        """The listener's wait status, if it ends within this time."""
        if self._status is None:
            self._status = wait_for(self.listener, seconds)
        return self._status

    def end(self) -> bool:
        """End both; False if the listener does not end. Nothing is done a second time."""
        if self._ended:
            return True
        self._ended = True
        self.close_channel()
        self.status(_PATIENCE)
        if self.guardian:
            os.close(self._lifeline)
            self.status(_PATIENCE)
            wait_for(self.guardian, _PATIENCE)
        return self._status is not None
