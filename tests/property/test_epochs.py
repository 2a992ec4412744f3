"""A ratchet whose server's clock is turned as an attacker likes, that restarts, and that honest clients knock at."""

import hashlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openme.keeper.epochs import Epochs
from openme.keys.ratchet import NS, Ratchet

LENGTH = 1000
WINDOW = 60
FIRST = 50
SEED = hashlib.sha256(b"seed").digest()
PUBLIC = Ratchet(LENGTH, FIRST, bytes(bytearray(SEED))).public_keys(FIRST, 400)


class Servers(RuleBasedStateMachine):
    """`true` is the time of day in the world, `wrong` what the server's clock is ahead of it; seconds.

    The model keeps no deque and no minima: for every epoch that the server ever saw it notes since when, in this
    process, its clock has said without a break that the epoch is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.true = FIRST * LENGTH + 500.0
        self.wrong = 0.0
        self.uptime = 0.0
        self.index = FIRST
        self.disk = self.ratchet = Ratchet(LENGTH, FIRST, bytes(bytearray(SEED)))
        self.epochs = Epochs(self.ratchet.later(FIRST), WINDOW, 3)
        self.over_since: dict[int, float] = {}
        self.evidence = -1

    @property
    def clock(self) -> float:
        return self.true + self.wrong

    def is_over(self, epoch: int) -> bool:
        return self.clock > (epoch + 1) * LENGTH + WINDOW

    @initialize()
    def begin(self) -> None:
        self.look()

    def look(self) -> None:
        """What the server does twice a second."""
        self.epochs.look(round(self.clock * NS), self.uptime)
        for epoch in range(FIRST, FIRST + 400):
            if not self.is_over(epoch):
                self.over_since.pop(epoch, None)
            else:
                self.over_since.setdefault(epoch, self.uptime)
        first = self.epochs.first_to_keep(self.uptime)
        expected = self.index
        while self.may_go(expected):
            expected += 1
        assert first == (expected if expected > self.index else None)
        if first is not None:
            self.disk = self.epochs.ratchet.later(first)
            self.epochs.advance_to(first)
            self.index = first

    def may_go(self, epoch: int) -> bool:
        since = self.over_since.get(epoch)
        return since is not None and (self.evidence > epoch or self.uptime - since >= LENGTH)

    # -- what happens

    @rule(seconds=st.sampled_from([0.5, 1, 59, 61, 400, 999, 1000, 1061, 2500]))
    def time_passes(self, seconds: float) -> None:
        self.true += seconds
        self.uptime += seconds
        self.look()

    @rule(seconds=st.sampled_from([-100_000, -5000, -1000, -61, -1, 1, 61, 1000, 5000, 100_000]))
    def somebody_turns_the_clock(self, seconds: float) -> None:
        if 0 <= self.clock + seconds < (FIRST + 390) * LENGTH:
            self.wrong += seconds
            self.look()

    @rule()
    def the_clock_is_set_right(self) -> None:
        self.wrong = 0.0
        self.look()

    @rule(off=st.sampled_from([0, 10, 1000, 5000]))
    def it_restarts(self, off: float) -> None:
        self.true += off
        self.uptime = 0.0
        self.over_since = {}
        self.evidence = -1
        self.epochs = Epochs(self.disk.later(self.disk.index), WINDOW, 3)
        self.look()
        assert self.epochs.ratchet.index == self.disk.index, "something was erased at start"

    @rule(off=st.integers(-WINDOW, WINDOW))
    def a_client_knocks(self, off: int) -> None:
        """Its clock is off by that much; the server accepts what the spec says."""
        theirs = self.true + off
        epoch = int(theirs // LENGTH)
        live = epoch * LENGTH - WINDOW <= self.clock <= (epoch + 1) * LENGTH + WINDOW
        accepted = epoch in self.epochs.live and abs(theirs - self.clock) <= WINDOW
        if accepted:
            assert self.epochs.live[epoch] == PUBLIC[epoch - FIRST]
            self.epochs.accepted(epoch)
            self.evidence = max(self.evidence, epoch)
        elif abs(theirs - self.clock) <= WINDOW:
            assert not live or epoch < self.index, "an honest client was turned away"
        self.look()

    @precondition(lambda self: self.wrong == 0)
    @rule()
    def a_client_with_a_right_clock_knocks(self) -> None:
        epoch = int(self.true // LENGTH)
        if epoch >= self.index:
            assert epoch in self.epochs.live
            self.a_client_knocks(0)

    # -- what always holds

    @invariant()
    def no_erased_epochs_key_can_be_had(self) -> None:
        assert self.epochs.ratchet.index == self.disk.index == self.index
        if self.index > FIRST:
            for ratchet in (self.epochs.ratchet, self.disk):
                assert not ratchet.reaches(self.index - 1)
        assert all(epoch >= self.index for epoch in self.epochs.live)

    @invariant()
    def every_other_epochs_key_can(self) -> None:
        assert self.epochs.ratchet.public_keys(self.index, 1) == (PUBLIC[self.index - FIRST],)
        assert self.disk.public_keys(self.index, 1) == (PUBLIC[self.index - FIRST],)

    @invariant()
    def at_most_two_epochs_are_live(self) -> None:
        assert len(self.epochs.live) <= 2


TestServers: Any = Servers.TestCase
TestServers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
