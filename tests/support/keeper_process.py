"""A KeeperProcess without a kernel and without waiting: frames in; firewall, store, journal and channel out.

    with keeper_world(tmp_path) as world:
        world.knock(packet_v2())
        assert world.firewall.doors()
        world.clock.advance(31)
        world.turn()

The clock goes only when a test says so, the firewall refuses what a test wants it to, and what the keeper tells the
listener lies in `world.told()`. What the keeper would do by itself in its loop happens in `turn`.
"""

import json
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openme.clocks import Now
from openme.control import place, serving
from openme.control.requests import Reply, refusal_value, reply_value, request_untrusted
from openme.errors import OpenmeError
from openme.firewall.base import CutTarget, Door, FirewallError, IsOpen, PortList, Rules, Steps, nowhere
from openme.firewall.memory import MemoryFirewall
from openme.keeper.rules import rules_for
from openme.seam.channel import ORDER_SIZES, channel, received
from openme.seam.messages import Order, unpack_order
from openme.server.clock_steps import ClockSteps
from openme.server.config_watch import ConfigWatch
from openme.server.control_service import Answer
from openme.server.file_changes import FileChanges
from openme.server.keeper_process import KeeperProcess, Parts
from openme.server.slices import Slices
from openme.server.trial import Trial
from openme.store.places import has_lived
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import IPAddress
from support.knocks import ALICE, BOB, HOME, NOW, SERVER, frame, keeper, later

OrderT = TypeVar("OrderT", bound=Order)


class GivenClock:
    """Both clocks, as a test has set them."""

    def __init__(self, now: Now = NOW) -> None:
        self.now = now

    def __call__(self) -> Now:
        return self.now

    def advance(self, seconds: float) -> None:
        """Both go on by so much."""
        self.now = later(seconds, self.now)

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock; the monotonic one knows nothing of it."""
        self.now = Now(later(seconds, self.now).unix_ns, self.now.monotonic)


class ScriptedFirewall(MemoryFirewall):
    """The memory firewall by a given clock, which notes what it is asked and refuses on demand.

    `refusing`: methods that refuse for as long as they stand in it. `refuse_next`: how often each still refuses.
    `lost`: somebody has flushed the ruleset, until the next `apply`; while it is, doors cannot be opened.
    """

    def __init__(self, clock: GivenClock) -> None:
        super().__init__(lambda: clock.now.monotonic)
        self.calls: list[str] = []
        self.refusing: set[str] = set()
        self.refuse_next: dict[str, int] = {}
        self.lost = False
        self.touched = False
        self.cuts: list[tuple[IPAddress, tuple[Any, ...]]] = []
        self.cut_targets: list[CutTarget] = []

    def _note(self, what: str) -> None:
        self.calls.append(what)
        left = self.refuse_next.get(what, 0)
        self.refuse_next[what] = max(0, left - 1)
        if left or what in self.refusing:
            raise FirewallError(f"this firewall refuses to {what}")

    def apply(self, rules: Rules, doors: Iterable[Door] = ()) -> None:
        self._note("apply")
        super().apply(rules, doors)
        self.lost = False

    def open(self, doors: Iterable[Door]) -> None:
        self._note("open")
        if self.lost:
            raise FirewallError("there is no such table")
        super().open(doors)

    def close(self, doors: Iterable[tuple[PortList, IPAddress]]) -> None:
        self._note("close")
        super().close(doors)

    def cut(self, targets: Iterable[CutTarget], is_open: IsOpen = nowhere) -> Steps[Mapping[IPAddress, int]]:  # noqa: ARG002
        self._note("cut")
        targets = list(targets)
        yield
        self.cut_targets += targets
        self.cuts += [(target.address, tuple(target.ports)) for target in targets]
        return {target.address: 1 for target in targets}

    def has_changed(self) -> bool:
        touched, self.touched = self.touched, False
        return touched

    def intact(self) -> bool:
        self.calls.append("intact")
        return super().intact() and not self.lost

    def flush(self) -> None:
        """Somebody runs `nft flush ruleset`."""
        self._until.clear()
        self.lost = self.touched = True


def answered(process: KeeperProcess, request: dict[str, object]) -> dict[str, Any]:
    """What a process says to a request over the control socket, once the work that it asks for is done."""
    try:
        return reply_value(settled(process.answer(request_untrusted(json.dumps(request).encode())), process.slices))
    except OpenmeError as error:
        return refusal_value(error)


def settled(answer: Answer, slices: Slices) -> Reply:
    """The reply that an answer comes to while all other long work goes on too; OpenmeError."""
    while not isinstance(answer, Reply):
        try:
            next(answer)
        except StopIteration as done:
            answer = done.value
        else:
            slices.advance()
    return answer


class KeptMessages:
    """An end of the channel that remembers the very objects which it gave and was given, to see what becomes of them.

    Beside each message that is sent goes a copy of it, as it was then.
    """

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.given: list[bytes] = []
        self.taken: list[tuple[bytes, bytes]] = []

    def recv(self, size: int) -> bytes:
        message = self._inner.recv(size)
        self.given.append(message)
        return message

    def send(self, message: bytes) -> int:
        self.taken.append((message, bytes(bytearray(message))))
        return self._inner.send(message)

    def fileno(self) -> int:
        return self._inner.fileno()


@dataclass
class KeeperWorld:
    """A keeper and all that it touches."""

    process: KeeperProcess
    parts: Parts
    store: SqliteStore
    clock: GivenClock
    firewall: ScriptedFirewall
    listener: socket.socket
    channel: KeptMessages
    config: Path
    state_dir: Path
    _stack: ExitStack = field(repr=False)

    def send(self, *frames: bytes) -> None:
        """Frames as the listener sends them; nothing is done with them yet."""
        for message in frames:
            self.listener.send(message)

    def knock(self, *datagrams: bytes, source: IPAddress = HOME) -> None:
        """Datagrams that came to the listener, and the keeper's turn."""
        self.send(*(frame(datagram, source) for datagram in datagrams))
        self.turn()

    def turn(self) -> None:
        """One turn of the keeper's loop, with whatever is there to be done."""
        self.process.on_frames()
        if self.firewall.touched:
            self.process.doors.on_ruleset_change()
        self.process.outbox.flush()
        self.process.admission.serve_waiting()
        self.work_off()
        self.process.tick()

    def sleeps(self) -> float:
        """Seconds until the keeper looks again by itself."""
        return self.process.next_at(self.clock.now) - self.clock.now.monotonic

    def work_off(self) -> None:
        """As many turns as the jobs under way need, in which nothing else happens."""
        while self.process.slices:
            self.process.slices.advance()

    def ask(self, command: str, **more: Any) -> dict[str, Any]:
        """A request by the control socket, and the answer."""
        return json.loads(self.ask_raw(json.dumps({"command": command, **more}).encode()))  # type: ignore[no-any-return]

    def ask_raw(self, request: bytes) -> bytes:
        """The bytes of an answer to these bytes."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(10)
            peer.connect(str(self.state_dir / place.SOCKET_NAME))
            peer.sendall(request)
            peer.shutdown(socket.SHUT_WR)
            self.process.control.on_readable()
            for key, _ in self.process.loop.selector.select(0):
                key.data()
            self.work_off()
            return b"".join(iter(lambda: peer.recv(1 << 16), b""))

    def told(self) -> list[Order]:
        """What the listener has been told since the last look."""
        return [unpack_order(message) for message in received(self.listener, ORDER_SIZES, 100_000)]

    def orders(self, *kinds: type[OrderT]) -> list[OrderT]:
        """What of these types the listener has been told since the last look."""
        return [order for order in self.told() if isinstance(order, kinds)]

    def open_for(self) -> set[str]:
        """The addresses that the firewall has a door for."""
        return {str(door.address) for door in self.firewall.doors()}

    def grants(self) -> set[str]:
        """Who is in, by the keeper's own book."""
        return {grant.client_name for grant in self.parts.keeper.grants}

    def write_config(self, clients: str | None = None, server: str = "") -> None:
        """Replace the config as an editor does: another file by that name."""
        beside = self.config.with_suffix(".new")
        beside.write_text(config_text(self.state_dir, clients, server))
        beside.chmod(0o600)
        beside.replace(self.config)


def config_text(state_dir: Path, clients: str | None = None, server: str = "") -> str:
    """A server's file: `clients` in YAML flow (`KEY_A`, `KEY_B`), `server` as further lines parted by `; `."""
    named = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}" if clients is None else clients
    named = named.replace("KEY_A", f"'{ALICE.public}'").replace("KEY_B", f"'{BOB.public}'")
    text = f"server:\n  private_key: {SERVER.to_base64()}\n  firewall: memory\n  state_dir: {state_dir}\n"
    text += "".join(f"  {line}\n" for line in server.split("; ") if line)
    return f"{text}ports: {{default: [22/tcp]}}\nclients: {named}\n"


@contextmanager
def keeper_world(
    root: Path,
    clients: str | None = None,
    server: str = "",
    *,
    trial: Trial | None = None,
    state_file: Path | None = None,
    refusing: Collection[str] = (),
) -> Iterator[KeeperWorld]:
    """A keeper with alice and bob registered, its rules in force, version 2's epoch live, and a listener that reads."""
    with ExitStack() as stack:
        state_dir = root / "state"
        state_dir.mkdir(0o700, exist_ok=True)
        path = root / "config.yaml"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(config_text(state_dir, clients, server))
        watch = ConfigWatch(path)
        if not has_lived(state_dir):
            make_memory(state_dir)  # as `init` does
        store = SqliteStore(state_dir)
        stack.callback(store.close)
        clock = GivenClock()
        firewall = ScriptedFirewall(clock)
        judge = keeper(watch.config, store)
        firewall.start(rules_for(watch.config))
        firewall.calls.clear()
        firewall.refusing |= set(refusing)
        listener_end, keeper_end = channel()
        stack.enter_context(listener_end)
        stack.enter_context(keeper_end)
        kept = KeptMessages(keeper_end)
        parts = Parts(
            keeper=judge,
            store=store,
            firewall=firewall,
            watch=watch,
            journal=judge.journal,
            listener=kept,  # type: ignore[arg-type]  # all that the keeper does with its end
            control=stack.enter_context(serving.listen(state_dir)),
            state_file=state_file,
            trial=trial,
            files=stack.enter_context(closing(FileChanges(()))),
            clock_steps=stack.enter_context(closing(ClockSteps())),
        )
        process = KeeperProcess(parts, clock)
        process.exchanges.end_what_was_lost_before()  # as the beginning of `run` does: from here on expiries are known
        stack.callback(process.loop.selector.close)
        yield KeeperWorld(process, parts, store, clock, firewall, listener_end, kept, path, state_dir, stack)
