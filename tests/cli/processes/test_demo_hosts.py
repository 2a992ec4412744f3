"""How the demo is interrupted: once, with one exception, and never between making a thing and noting it."""

import subprocess
import sys

BEGIN = """
import os, signal, sys
from openme.interrupts import Interrupted
from openme.demo.demo_hosts import Interruptions
interruptions = Interruptions()
interruptions.catch()
def send(number):
    os.kill(os.getpid(), number)
"""


def said(script: str) -> list[str]:
    """What a script printed that begins as the demo does."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.splitlines()


def test_what_is_being_made_is_noted_first() -> None:
    script = """
try:
    with interruptions.held():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        print("noted")
    print("went on")
except Interrupted as interrupted:
    print(interrupted.number)
"""
    assert said(script) == ["noted", "15"]


def test_the_first_one_counts_and_the_others_are_ignored() -> None:
    script = """
try:
    send(signal.SIGHUP)
except Interrupted as interrupted:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        send(number)
    print(interrupted.number)
"""
    assert said(script) == ["1"]


def test_one_whose_exception_got_lost_is_raised_at_the_next_look() -> None:
    script = """
class Loses:
    def __del__(self):
        send(signal.SIGINT)
sys.unraisablehook = lambda _: print("lost")
Loses()
try:
    interruptions.check()
except Interrupted as interrupted:
    print(interrupted.number)
"""
    assert said(script) == ["lost", "2"]
