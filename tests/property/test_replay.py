"""A knock opens once, ever: any mixture of knocks, copies, restarts, crashes, clock steps and window changes."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openme.keeper.replay import MAX_NONCES, Remembered, ReplayMemory
from openme.keeper.store import Accepted, Store
from openme.wire.knock import Knock
from support.knocks import HOME, NS, START, nonce

WINDOWS = (5, 60, 600)
CLIENTS = (b"A" * 32, b"B" * 32)


class Replay(RuleBasedStateMachine):
    """The real memory and the real store on a disk; time is in seconds. A client's clock is right."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.clock = 0.0
        self.window = 60
        self.sent: list[tuple[bytes, Knock]] = []
        self.opened: set[tuple[bytes, bytes]] = set()
        self.newest: dict[bytes, int] = {}
        self.store: Store | None = None
        self.memory = ReplayMemory(0)

    @initialize()
    def first_start(self) -> None:
        self.start()

    def start(self) -> None:
        self.store = Store(Path(self.home.name))
        self.memory = self.store.load(self.window * NS, self.now)

    @property
    def now(self) -> int:
        return START + round(self.clock * NS)

    def deliver(self, client: bytes, knock: Knock) -> bool:
        """What the keeper does from the time check on."""
        assert self.store is not None
        if abs(knock.timestamp_ns - self.now) > self.window * NS:
            return False
        outcome = self.memory.accept(client, knock, HOME)
        if not isinstance(outcome, Remembered):
            return False
        self.store.commit([Accepted(outcome, "x", self.clock, None)])
        assert (client, knock.random_nonce) not in self.opened, "a nonce opened twice"
        self.opened.add((client, knock.random_nonce))
        self.newest[client] = max(knock.timestamp_ns, self.newest.get(client, knock.timestamp_ns))
        return True

    @rule(client=st.sampled_from(CLIENTS), offset=st.sampled_from([0, 0, 0, -4, 4, -59, 59, 600]))
    def knock(self, client: bytes, offset: int) -> None:
        """A fresh knock; one whose clock agrees with ours and with the client's own past opens."""
        knock = Knock(self.now + offset * NS, nonce(len(self.sent)), None)
        self.sent.append((client, knock))
        honest = offset == 0 and self.newest.get(client, self.now) <= self.now
        accepted = self.deliver(client, knock)
        assert accepted or not honest or len(self.opened) >= MAX_NONCES, "an honest knock was refused"

    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        """Any knock ever sent, delivered (again)."""
        if self.sent:
            self.deliver(*data.draw(st.sampled_from(self.sent)))

    @rule(seconds=st.sampled_from([0.001, 1, 59, 61, 121, 3600, -1, -61, -121, -3600, -86400]))
    def clock_moves(self, seconds: float) -> None:
        self.clock += seconds

    @rule(window=st.sampled_from(WINDOWS))
    def window_changes(self, window: int) -> None:
        self.window = window
        self.memory.set_window(window * NS)

    @rule(window=st.sampled_from(WINDOWS), crash=st.booleans())
    def restart(self, window: int, *, crash: bool) -> None:
        """The config may have changed meanwhile; a crash closes nothing in order."""
        assert self.store is not None
        if crash:
            self.store._connection.close()
        else:
            self.store.close()
        self.window = window
        self.start()

    @invariant()
    def the_disk_keeps_up(self) -> None:
        assert self.store is None or self.store.failing is None

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()
        self.home.cleanup()


TestReplay = Replay.TestCase
TestReplay.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
