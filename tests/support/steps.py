"""Work in steps (`openme.firewall.base.Steps`), done from one end to the other."""

from typing import TypeVar

from openme.firewall.base import Steps

T = TypeVar("T")


def done(steps: Steps[T]) -> T:
    """Take all the steps; what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: T = end.value
            return outcome
