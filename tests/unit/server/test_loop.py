"""The loop alone: who is called back, and what ends it."""

import selectors
import signal
import socket
import threading

import pytest

from openme.server.loop import Ending, Loop


def test_what_is_readable_is_called_for_and_what_is_forgotten_is_not() -> None:
    loop, heard = Loop(), []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.watch(ours, lambda: heard.append(ours.recv(10)))
        theirs.send(b"one")
        loop.wait(10)
        loop.wait(0)
        assert heard == [b"one"]
        theirs.send(b"two")
        loop.forget(ours)
        loop.wait(0)
        assert heard == [b"one"]
    loop.selector.close()


def test_the_first_reason_to_end_counts() -> None:
    loop = Loop()
    assert loop.ending is None
    loop.end(Ending.TRIAL_OVER)
    loop.end(Ending.ASKED)
    assert loop.ending is Ending.TRIAL_OVER


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(("number", "ending"), [(signal.SIGTERM, Ending.ASKED), (signal.SIGHUP, None)])
def test_a_signal_wakes_the_loop_and_one_that_asks_to_stop_ends_it(
    number: signal.Signals, ending: Ending | None
) -> None:
    loop = Loop()
    try:
        with loop.signals():
            sender = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number))
            sender.start()
            loop.wait(30)  # it returns when it is woken, or this test takes half a minute and fails below
            sender.join()
            assert loop.ending is ending
            assert loop.selector.select(0) == []
    finally:
        loop.selector.close()


@pytest.mark.usefixtures("own_signals")
def test_what_was_ignored_stays_so_and_who_was_woken_before_is_woken_again() -> None:
    """A server behind `nohup` or a shell without jobs is started with Ctrl-C ignored."""
    loop = Loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with ours, theirs:
        earlier = signal.set_wakeup_fd(theirs.fileno())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with loop.signals():
                assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.set_wakeup_fd(-1) == theirs.fileno()
        finally:
            signal.set_wakeup_fd(earlier)
            loop.selector.close()


@pytest.mark.usefixtures("own_signals")
def test_after_the_loop_its_pipe_is_gone() -> None:
    loop = Loop()
    with loop.signals():
        (key,) = [key for key in loop.selector.get_map().values() if key.events == selectors.EVENT_READ]
    assert isinstance(key.fileobj, socket.socket)
    assert key.fileobj.fileno() == -1
    loop.selector.close()
