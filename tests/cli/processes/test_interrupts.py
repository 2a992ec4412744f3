"""Requests to end: held back, looked for, heard, ignored; each in a process of its own."""

import signal
import subprocess
import sys

import pytest

from openme import interrupts

BEGIN = """
import os, signal, sys
from openme import interrupts
from openme.interrupts import Interrupted, check, end_by, ending, heard, held_back, ignore
signal.signal(signal.SIGINT, signal.SIG_DFL)
def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
def say(*words):
    print(*words, flush=True)
"""


def run(script: str) -> tuple[int, str, str]:
    """How a script ends that begins as `openme` does: its exit code, what it printed, and what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", interrupts.ENDINGS)
def test_what_is_held_back_does_afterwards_what_it_would_have_done(number: signal.Signals) -> None:
    script = f"with held_back():\n with held_back():\n  send({int(number)})\n say('alive')\nsay('not any more')"
    assert run(script) == (-number, "alive\n", "")


@pytest.mark.parametrize("number", interrupts.ENDINGS)
def test_a_look_at_what_is_held_back_begins_the_undoing_and_the_signal_ends_it(number: signal.Signals) -> None:
    script = f"""
with held_back():
    check()
    say('made')
    try:
        send({int(number)})
        check()
        say('went on')
    except Interrupted as interrupted:
        say('undone', interrupted.number)
        raise
"""
    assert run(script) == (-number, f"made\nundone {int(number)}\n", "")


def test_what_is_ignored_is_not_seen_by_a_look_nor_heard() -> None:
    """The kernel keeps also a signal that is ignored as long as it is blocked."""
    script = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with held_back():
    send()
    check()
    with heard():
        send()
    with ending(lambda: 7):
        send()
    check()
send()
say('alive')
"""
    assert run(script) == (0, "alive\n", "")


def test_what_is_no_request_to_end_is_neither_held_back_nor_seen() -> None:
    script = """
signal.signal(signal.SIGUSR1, lambda *_: say('USR1'))
with held_back():
    send(signal.SIGUSR1)
    check()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    send(signal.SIGUSR1)
    check()
    say('nothing')
"""
    assert run(script) == (0, "USR1\nnothing\nUSR1\n", "")


@pytest.mark.parametrize("number", interrupts.ENDINGS)
def test_it_is_heard_where_that_is_allowed_and_held_back_again_after_that(number: signal.Signals) -> None:
    script = f"""
with held_back():
    try:
        with heard():
            send({int(number)})
            say('went on')
    except Interrupted as interrupted:
        say('heard', interrupted.number)
    send({int(number)})
    say('held back')
say('went on')
"""
    assert run(script) == (-number, f"heard {int(number)}\nheld back\n", "")


def test_what_came_before_is_heard_at_once() -> None:
    script = """
with held_back():
    send()
    try:
        with heard():
            say('went on')
    except Interrupted:
        say('heard')
"""
    assert run(script) == (0, "heard\n", "")


def test_one_whose_exception_got_lost_is_raised_at_the_end() -> None:
    script = """
class Loses:
    def __del__(self):
        send()
sys.unraisablehook = lambda _: say('lost')
with held_back():
    try:
        with heard():
            Loses()
            say('went on')
    except Interrupted:
        say('heard')
"""
    assert run(script) == (0, "lost\nwent on\nheard\n", "")


def test_where_nothing_is_held_back_hearing_changes_nothing() -> None:
    script = "with heard():\n say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n send()"
    assert run(script) == (-signal.SIGINT, "True\n", "")


def test_what_goes_on_until_ctrl_c_ends_with_its_code_and_loses_nothing_that_was_printed() -> None:
    script = """
sys.stdout = open(1, 'w', buffering=1 << 16)
with ending(lambda: 7):
    print('printed')
    send()
"""
    assert run(script) == (7, "printed\n", "")


def test_after_what_goes_on_ctrl_c_is_as_before() -> None:
    assert run("with ending(lambda: 7):\n pass\nsend()") == (-signal.SIGINT, "", "")


def test_from_the_end_on_nothing_interrupts() -> None:
    script = "".join(f"send({int(number)})\n" for number in interrupts.ENDINGS)
    assert run(f"ignore()\n{script}say('alive')") == (0, "alive\n", "")


def test_a_process_ends_by_the_signal_that_interrupted_it_whatever_it_did_about_it() -> None:
    assert run("ignore()\nend_by(signal.SIGTERM)\nsay('alive')") == (-signal.SIGTERM, "", "")
    script = "signal.pthread_sigmask(signal.SIG_BLOCK, [2])\nend_by(2)\nsay('alive')"
    assert run(script) == (-signal.SIGINT, "", "")


def test_one_that_may_not_signal_itself_has_the_code_that_a_shell_makes_of_it() -> None:
    script = """
def refused(*_):
    raise PermissionError
os.kill = refused
sys.exit(end_by(signal.SIGTERM))
"""
    assert run(script) == (143, "", "")


def test_where_signals_cannot_be_blocked_everything_else_works() -> None:
    script = """
interrupts._CAN_BLOCK = False
del signal.pthread_sigmask, signal.sigpending
with held_back():
    check()
    with heard():
        say('works')
end_by(signal.SIGINT)
"""
    assert run(script) == (-signal.SIGINT, "works\n", "")
