"""A knock opens once, ever: any mixture of knocks, copies, restarts, crashes, reboots, clock steps, window changes and
damage to the files: bits, cuts, emptied, missing, older and other servers' files in every combination."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from openme.store.base import FIRST, Claim
from openme.store.mark import MARK
from openme.store.places import DATABASE
from openme.store.replay import MAX_NONCES
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import Knock
from support.knocks import HOME, NS, START, nonce

if TYPE_CHECKING:
    from openme.store.base import Outcome

WINDOWS = (5, 60, 600)
SHORTEST_REACH = 60  # how far ahead a knock may have been dated where nothing tells, whatever the window is now
CLIENTS = (b"A" * 32, b"B" * 32)
FILES = (DATABASE, f"{DATABASE}-wal", MARK)
KINDS = ("bit", "cut", "empty", "gone", "older", "swapped")
SHM = Path("/dev/shm")  # noqa: S108  # where a sync costs nothing; the folder in it is a random one
Files = dict[str, bytes]


def read(folder: Path) -> Files:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def claimed(store: SqliteStore, client: bytes, knock: Knock) -> bool:
    """Whether the store says that it is the first."""
    outcomes: list[Outcome] = []
    store.claim([Claim(client, knock, HOME, "x", 0.0, None)], outcomes.extend)
    return outcomes == [FIRST]


def another_servers_files() -> Files:
    """Of a server that has accepted something, too."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_memory(home)
        store = SqliteStore(home)
        store.load(60 * NS, START)
        for number in range(3):
            claimed(store, b"C" * 32, Knock(START + number, nonce(number), None))
        files = read(home)
        store.close()
    return files


OTHER = another_servers_files()


class World:
    """The real memory and the real store; time is in seconds. A client's clock is right."""

    def __init__(self) -> None:
        self.temporary = tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None)
        self.home, self.run = Path(self.temporary.name, "state"), Path(self.temporary.name, "run")
        self.home.mkdir()
        self.run.mkdir()
        self.clock = 0.0
        self.window = 60
        self.sent: list[tuple[bytes, Knock]] = []
        self.opened: dict[tuple[bytes, bytes], int] = {}
        self.newest: dict[bytes, int] = {}
        self.excused: set[tuple[bytes, bytes]] = set()
        self.copies: list[tuple[int, Files]] = []
        self.waits: list[tuple[str, float]] = []
        make_memory(self.home)
        self.start("clean")

    @property
    def now(self) -> int:
        return START + round(self.clock * NS)

    def start(self, how: str) -> None:
        self.store = SqliteStore(self.home, self.run)
        self.store.load(self.window * NS, self.now)
        assert self.store.failing is None
        floor_ns = self.store.floor_ns or 0
        self.waits.append((how if self.store.loss else "whole", max(0.0, (floor_ns - self.now) / NS)))

    def deliver(self, client: bytes, knock: Knock) -> bool:
        """What the keeper does from the time check on."""
        if abs(knock.timestamp_ns - self.now) > self.window * NS:
            return False
        if not claimed(self.store, client, knock):
            return False
        assert self.store.failing is None
        name = (client, knock.random_nonce)
        assert name not in self.opened or name in self.excused, "a nonce opened twice"
        self.opened[name] = knock.timestamp_ns
        self.excused.discard(name)
        self.newest[client] = max(knock.timestamp_ns, self.newest.get(client, knock.timestamp_ns))
        return True

    def knock(self, client: bytes, offset: int) -> None:
        """A fresh knock; one whose clock agrees with ours and with the client's own past opens."""
        knock = Knock(self.now + offset * NS, nonce(len(self.sent)), None)
        self.sent.append((client, knock))
        honest = offset == 0 and self.newest.get(client, self.now) <= self.now
        waits = (self.store.floor_ns or 0) > self.now
        accepted = self.deliver(client, knock)
        assert accepted or not honest or waits or len(self.opened) >= MAX_NONCES, "an honest knock was refused"

    def copy_files(self) -> None:
        """As a backup does, between two commits."""
        self.copies.append((len(self.opened), read(self.home)))

    def go_down(self, *, crash: bool) -> None:
        files = read(self.home)
        self.store.close()
        if crash:  # closing would have put the log into the database
            for name in FILES:
                (self.home / name).unlink(missing_ok=True)
            for name, content in files.items():
                (self.home / name).write_bytes(content)

    def damage(self, name: str, kind: str, draw: Callable[[int], int]) -> None:
        path = self.home / name
        if kind == "gone":
            path.unlink(missing_ok=True)
        elif kind == "older":
            if self.copies:
                files = self.copies[draw(len(self.copies))][1]
                path.write_bytes(files[name]) if name in files else path.unlink(missing_ok=True)
        elif kind == "swapped":
            path.write_bytes(OTHER[name]) if name in OTHER else path.unlink(missing_ok=True)
        elif path.exists():
            raw = bytearray(path.read_bytes())
            if kind == "empty":
                raw.clear()
            elif kind == "cut":
                del raw[draw(len(raw) + 1) :]
            elif raw:
                raw[draw(len(raw))] ^= 1 << draw(8)
            path.write_bytes(raw)

    def come_up(self, how: str, damaged: set[tuple[str, str]], *, reboot: bool) -> None:
        """Start again. What no start can know is excused: nothing in `state_dir` tells, and /run is empty."""
        if reboot:
            for path in self.run.iterdir():
                path.unlink()
            kinds = {kind for name, kind in damaged if name == MARK}
            reach_ns = self.now + max(self.window, SHORTEST_REACH) * NS
            if kinds & {"older", "swapped"}:
                # A mark that was current once, or is another's, may stand beside the database that it belongs to.
                self.excused |= set(self.opened)
            elif kinds:
                # No mark: what was dated further ahead, under a clock that has been set back or a wider window.
                self.excused |= {name for name, signed_ns in self.opened.items() if signed_ns >= reach_ns}
        self.start(how)
        if not reboot:
            newest_ns = max([0, *self.opened.values(), START + 2])  # the other server's is not above ours
            assert (self.store.floor_ns or 0) <= max(newest_ns + 1, self.highest_floor)

    highest_floor = 0

    def close(self) -> None:
        self.store.close()
        self.temporary.cleanup()


class Replay(RuleBasedStateMachine):
    """Hypothesis draws what happens."""

    @initialize()
    def first_start(self) -> None:
        self.world = World()
        self.world.highest_floor = 2**63

    @rule(client=st.sampled_from(CLIENTS), offset=st.sampled_from([0, 0, 0, -4, 4, -59, 59, 600]))
    def knock(self, client: bytes, offset: int) -> None:
        self.world.knock(client, offset)

    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        """Any knock ever sent, delivered (again)."""
        if self.world.sent:
            self.world.deliver(*data.draw(st.sampled_from(self.world.sent)))

    @rule(seconds=st.sampled_from([0.001, 1, 59, 61, 121, 3600, -1, -61, -121, -3600, -86400]))
    def clock_moves(self, seconds: float) -> None:
        self.world.clock += seconds

    @rule(window=st.sampled_from(WINDOWS))
    def window_changes(self, window: int) -> None:
        self.world.window = window
        self.world.store.set_window(window * NS)

    @rule()
    def backup(self) -> None:
        self.world.copy_files()

    @rule(client=st.sampled_from(CLIENTS))
    def reset(self, client: bytes) -> None:
        world = self.world
        if (done := world.store.reset(client, world.now)) is not None:
            # When its time comes an honest knock may fall into a run that stays shut.
            world.newest[client] = max(last for _, last in done.shut) + 1

    @rule(window=st.sampled_from(WINDOWS), crash=st.booleans())
    def restart(self, window: int, *, crash: bool) -> None:
        """The config may have changed meanwhile; a crash closes nothing in order."""
        self.world.go_down(crash=crash)
        self.world.window = window
        self.world.start("clean")
        assert self.world.store.loss is None, "nothing was lost"

    @rule(
        data=st.data(),
        window=st.sampled_from(WINDOWS),
        crash=st.booleans(),
        reboot=st.booleans(),
        twice=st.booleans(),
        seconds=st.sampled_from([0, 0, 1, 30, -30, -3600]),
        damages=st.lists(st.tuples(st.sampled_from(FILES), st.sampled_from(KINDS)), min_size=1, max_size=3),
    )
    def damage(
        self,
        data: st.DataObject,
        window: int,
        seconds: int,
        damages: list[tuple[str, str]],
        *,
        crash: bool,
        reboot: bool,
        twice: bool,
    ) -> None:
        world = self.world
        world.go_down(crash=crash)
        for name, kind in damages:
            world.damage(name, kind, lambda below: data.draw(st.integers(0, max(0, below - 1))))
        world.clock += seconds
        world.window = window
        world.come_up("+".join(sorted({kind for _, kind in damages})), set(damages), reboot=reboot)
        event(f"told: {world.store.loss}")
        if twice:
            world.clock += 1
            world.go_down(crash=True)
            world.start("second")
            assert world.store.loss is None, "a second start finds a loss of its own"

    def teardown(self) -> None:
        with suppress(AttributeError):
            self.world.close()


TestReplay = Replay.TestCase
TestReplay.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_whoever_resends_everything_after_any_damage_opens_nothing_and_honest_people_hardly_wait() -> None:
    """Right clocks throughout: every combination of two damages, each with and without a reboot, restarted twice."""
    random = Random(9)
    longest: dict[str, float] = {}
    combinations = [
        [(first, kind), (second, other)] for first in FILES for kind in KINDS for second in FILES for other in KINDS
    ]
    random.shuffle(combinations)
    for damages in combinations[:160]:
        for reboot in (False, True):
            world = World()
            for number in range(4):
                world.clock += 1
                world.knock(CLIENTS[number % 2], random.choice([0, 0, 57]))
                if number == 1:
                    world.copy_files()
            world.go_down(crash=True)
            for name, kind in damages:
                world.damage(name, kind, lambda below: random.randrange(max(1, below)))
            world.clock += 1
            world.highest_floor = 0
            world.come_up("damaged", set(damages), reboot=reboot)
            bound = world.store._loss.bound if world.store._loss else "whole"
            for _ in range(2):
                for client, knock in list(world.sent):
                    world.deliver(client, knock)
                world.clock += 1
                world.go_down(crash=True)
                world.start("again")
            wait = max(seconds for _, seconds in world.waits)
            longest[bound] = max(wait, longest.get(bound, 0))
            world.close()
    assert longest["whole"] == 0
    assert longest["run"] <= 60, "as far as the newest knock was dated ahead"
    assert longest["mark"] <= 60
    assert longest["nobody"] <= 60
    print(f"longest wait of an honest client in seconds, by who knew the newest time: {longest}")  # noqa: T201
