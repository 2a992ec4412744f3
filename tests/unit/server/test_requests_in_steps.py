"""Control requests that take long: the keeper serves others meanwhile, and answers when it is done."""

import base64
import json
import logging
import selectors
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from openme.clocks import Now
from openme.control.requests import Reply, StoredReply, request_untrusted
from openme.firewall.base import CutTarget, IPAddress, IsOpen, Steps, nowhere
from openme.firewall.memory import MemoryFirewall
from openme.keeper.events import LetIn
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.keeper import Keeper
from openme.keeper.policy import client_lists
from openme.keeper.rules import rules_for
from openme.ports import parse_port_spec
from openme.seam.channel import channel
from openme.server.door_steps import AT_ONCE
from openme.server.keeper_process import KeeperProcess, Parts
from openme.store.base import Claim, Holder
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import Knock
from support.keeper_parts import GivenFile
from support.knocks import ALICE, ELSEWHERE, HOME, NOW, config, later, nonce

if TYPE_CHECKING:
    from openme.server.config_watch import ConfigWatch

KEY = ALICE.public.raw


class Slow(MemoryFirewall):
    """A cut takes as many steps as it is told to, and ends one connection of each address."""

    steps = 0

    def __init__(self) -> None:
        super().__init__(lambda: NOW.monotonic)
        self.cuts: list[set[CutTarget]] = []

    def cut(self, targets: Iterable[CutTarget], is_open: IsOpen = nowhere) -> Steps[Mapping[IPAddress, int]]:
        targets = list(targets)
        assert not any(is_open(target.address, port) for target in targets for port in target.ports)
        self.cuts.append(set(targets))
        while self.steps:
            self.steps -= 1
            yield
        return {target.address: 1 for target in targets}


@dataclass
class Process:
    keeper: Keeper
    store: SqliteStore
    firewall: Slow
    watch: GivenFile
    parts: Parts
    state_file: Path
    stack: ExitStack
    now: Now = NOW

    def __post_init__(self) -> None:
        self.process = KeeperProcess(self.parts, lambda: self.now)

    def ask(self, **request: object) -> socket.socket:
        """A request as the keeper reads it; where its answer will come."""
        ours, theirs = socket.socketpair()
        theirs.sendall(json.dumps(request).encode())
        theirs.settimeout(5)
        self.process.loop.selector.register(ours, selectors.EVENT_READ)
        self.process.control.on_request(ours)
        return self.stack.enter_context(closing(theirs))

    def turn(self) -> None:
        self.process.slices.advance()
        self.process.tick()

    def all_turns(self) -> None:
        while self.process.slices:
            self.turn()

    def let_in(self, address: IPAddress = HOME) -> None:
        """Alice has a door open."""
        client = self.keeper.config.clients["alice"]
        lists = client_lists(client, self.keeper.config.health_port)
        grant = Grant(KEY, "alice", address, client.ports, lists, NOW.unix, NOW.unix + 30, NOW.monotonic + 30)
        self.process.doors.open([grant], NOW)
        self.process.events.publish(LetIn(grant, address, NOW))

    def remember(self, address: IPAddress) -> None:
        """Alice had a door open once."""
        ports = self.keeper.config.clients["alice"].ports
        holder = Holder(KEY, address, "alice", ports, NOW.unix - 60, NOW.unix - 30)
        knock = Knock(NOW.unix_ns, nonce(address), None)
        self.store.claim([Claim(KEY, knock, HOME, "alice", NOW.unix, holder)], lambda _: None)
        self.process.history._last[KEY] = ("alice", NOW.unix)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Process]:
    with ExitStack() as stack:
        listener, ours = channel()
        stack.enter_context(closing(listener))
        stack.enter_context(closing(ours))
        control = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        make_memory(tmp_path)
        store = SqliteStore(tmp_path)
        stack.callback(store.close)
        store.load(60 * 10**9, NOW.unix_ns)
        parsed = config()
        keeper = Keeper(parsed, lambda _: False)
        firewall, watch = Slow(), GivenFile(parsed)
        firewall.start(rules_for(parsed))
        state_file = tmp_path / "sessions.json"
        parts = Parts(keeper, store, firewall, cast("ConfigWatch", watch), Journal(), ours, control, state_file)
        made = Process(keeper, store, firewall, watch, parts, state_file, stack)
        stack.callback(made.process.loop.selector.close)
        yield made


def answer(peer: socket.socket) -> dict[str, Any]:
    raw = b"".join(iter(lambda: peer.recv(1 << 16), b""))
    value: dict[str, Any] = json.loads(raw)
    return value


def unanswered(peer: socket.socket) -> bool:
    peer.settimeout(0)
    try:
        peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        peer.settimeout(5)
    return False


def targets(made: Process, *addresses: IPAddress, established: bool) -> set[CutTarget]:
    ports = made.keeper.config.clients["alice"].ports
    return {CutTarget(address, ports, established) for address in addresses}


@pytest.mark.parametrize("cut", [False, True])
def test_close_is_answered_when_connections_have_ended(made: Process, cut: bool) -> None:  # noqa: FBT001
    made.let_in()
    made.remember(ELSEWHERE)
    made.firewall.steps = 10**6
    peer = made.ask(command="close", name="alice", cut=cut)
    for _ in range(5):
        made.turn()
    assert made.firewall.doors() == []
    assert made.firewall.steps > 0, "not one look in one go"
    assert unanswered(peer)
    made.firewall.steps = 0
    made.all_turns()
    assert made.firewall.cuts == [targets(made, HOME, ELSEWHERE, established=cut)]
    told = answer(peer)
    assert told["closed"] == [str(HOME)]
    assert told.get("cut") == (2 if cut else None)


def test_one_who_hangs_up_does_not_stop_it(made: Process) -> None:
    made.let_in()
    made.firewall.steps = 10**6
    made.ask(command="close", name="alice", cut=True).close()
    made.turn()
    made.firewall.steps = 0
    made.all_turns()
    assert len(made.firewall.cuts) == 1
    assert not made.process.loop.selector.get_map()


def test_a_stop_meanwhile_is_told(made: Process) -> None:
    made.let_in()
    made.firewall.steps = 10**9
    peers = [made.ask(command="close", name="alice", cut=True), made.ask(command="sessions")]
    made.process.slices.close()  # as the end of `run` does
    made.process.control.close()
    for peer in peers:
        assert answer(peer) == {"error": "the server was stopped before this was done"}


def test_a_client_out_of_the_file_loses_its_exchanges_without_a_command(made: Process) -> None:
    made.remember(ELSEWHERE)
    made.let_in()
    made.watch.changed = config("{bob: {ed25519_pubkey: KEY_B}}")
    expected = targets(made, HOME, ELSEWHERE, established=False)
    made.process.tick()
    made.all_turns()
    assert made.firewall.cuts == [expected]


def test_doors_that_move_with_the_config_are_open_in_the_end_however_many_they_are(made: Process) -> None:
    def open_for(port: str) -> set[IPAddress]:
        return {door.address for door in made.firewall.doors() if door.port_list.ports == parse_port_spec(port)}

    addresses = {ELSEWHERE + number for number in range(AT_ONCE + 100)}
    for address in addresses:
        made.let_in(address)
    made.watch.changed = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}}")
    made.process.tick()
    assert len(open_for("443/tcp")) < len(addresses), "not all in one go"
    made.all_turns()
    assert open_for("443/tcp") == addresses


def test_revoke_looks_once_with_the_edit_that_it_follows(made: Process) -> None:
    made.remember(ELSEWHERE)
    expected = targets(made, ELSEWHERE, established=False) | targets(made, ELSEWHERE, established=True)
    made.watch.changed = config("{bob: {ed25519_pubkey: KEY_B}}")
    peer = made.ask(command="revoke", name="alice", cut=True)
    made.all_turns()
    assert made.firewall.cuts == [expected]
    assert answer(peer)["cut"] == 1


def test_a_client_that_expires_loses_its_exchanges(made: Process) -> None:
    made.remember(ELSEWHERE)
    made.watch.changed = config("{alice: {ed25519_pubkey: KEY_A, expires: 2026-11-23T12:00:03Z}}")
    made.process.tick()
    made.let_in()
    made.all_turns()
    assert made.firewall.cuts == []
    made.now = later(5)
    made.process.tick()
    made.all_turns()
    assert made.firewall.doors() == []
    assert made.firewall.cuts == [targets(made, HOME, ELSEWHERE, established=False)]


def test_what_was_lost_while_no_server_ran_ends_at_the_start(made: Process) -> None:
    made.remember(ELSEWHERE)
    expected = targets(made, ELSEWHERE, established=False)
    made.keeper.reconfigure(config("{bob: {ed25519_pubkey: KEY_B}}"), NOW)
    made.process.exchanges.end_what_was_lost_before()
    made.all_turns()
    assert made.firewall.cuts == [expected]


def test_the_state_file_is_written_in_steps_and_not_twice_at_once(made: Process) -> None:
    for number in range(500):
        made.let_in(ELSEWHERE + number)
    made.process.state_file._is_due = True
    made.process.tick()
    assert made.process.slices
    assert not made.state_file.exists()
    made.process.state_file._is_due = True
    made.process.tick()
    assert len(made.process.slices._jobs) == 1
    made.all_turns()
    assert len(json.loads(made.state_file.read_text())["active_sessions"]) == 500


def test_a_disk_that_refuses_the_state_file_is_said_once(made: Process, caplog: pytest.LogCaptureFixture) -> None:
    made.process.state_file._path = made.state_file / "not" / "there"
    for moment in (1.0, 2.0, 3.0):
        made.now = later(moment)
        made.process.state_file._is_due = True
        with caplog.at_level(logging.WARNING):
            made.process.tick()
            made.all_turns()
    assert caplog.text.count("cannot be written") == 1


def test_what_is_stored_of_many_is_told_in_steps(made: Process) -> None:
    keys = [number.to_bytes(32, "big") for number in range(1, 1001)]
    knock = Knock(NOW.unix_ns, nonce(HOME), None)
    holders = [Holder(key, HOME, "somebody", (), NOW.unix, NOW.unix + 30) for key in keys]
    claims = [Claim(held.client_key, knock, HOME, "somebody", NOW.unix, held) for held in holders]
    made.store.claim(claims, lambda _: None)
    steps = made.process.answer(request_untrusted(b'{"command": "stored"}'))
    assert not isinstance(steps, Reply)
    taken = 0
    answer = None
    while answer is None:
        try:
            next(steps)
        except StopIteration as end:
            answer = end.value
        taken += 1
    assert taken >= 5
    assert isinstance(answer, StoredReply)
    assert [base64.b64decode(key) for key, *_ in answer.seen] == keys
    assert answer.seen[0][1:] == ("somebody", NOW.unix, str(HOME))
