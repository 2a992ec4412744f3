"""What may happen while a process of its own reads a large config: it comes into force whole or not at all."""

import base64
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from openme.config.content_hash import content_hash
from openme.server import config_reading, config_watch, slices
from openme.server.config_handover import WasRead, hand_over
from openme.server.doors import Doors
from openme.server.loop import Ending
from support.command import until
from support.keeper_process import KeeperWorld, config_text, keeper_world
from support.knocks import ALICE, BOB, HOME, frame, packet_v2

BOTH = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"
ONLY_ALICE = "{alice: {ed25519_pubkey: KEY_A}}"
ONLY_BOB = "{bob: {ed25519_pubkey: KEY_B}}"
OTHER_PORTS = BOTH.replace("KEY_A", "KEY_A, allowed_ports: [2222/tcp]")


class Gate:
    """Holds back what a reading process has read, until it is opened."""

    def __init__(self, folder: Path) -> None:
        self._waits = folder / "waits"
        self._closed = folder / "closed"

    def hand_over(self, read: WasRead, file: BinaryIO) -> None:
        """What the process does at its end."""
        if self._closed.exists():
            self._waits.touch()
            until(lambda: not self._closed.exists(), "the gate is opened")
        hand_over(read, file)

    def close(self) -> None:
        self._waits.unlink(missing_ok=True)
        self._closed.touch()

    def open(self) -> None:
        self._closed.unlink(missing_ok=True)

    @property
    def is_waited_at(self) -> bool:
        return self._waits.exists()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate(tmp_path)
    monkeypatch.setattr(config_reading, "hand_over", made.hand_over)
    return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperWorld]:
    """Every file is read by a process of its own, but the first one."""
    with keeper_world(tmp_path, server="drop_ports: true") as made:
        monkeypatch.setattr(config_watch, "LARGE", -1)
        yield made


def edit(world: KeeperWorld, clients: str = BOTH, seconds: int = 44, hide: str = "[]") -> None:
    """Somebody edits the file, in one step."""
    text = config_text(world.state_dir, clients, f"drop_ports: true; knock_timeout: {seconds}s")
    beside = world.config.with_suffix(".new")
    beside.write_text(text.replace("clients:", f"hide: {hide}\nclients:"))
    beside.chmod(0o600)
    beside.replace(world.config)


def arriving(world: KeeperWorld, gate: Gate, clients: str = BOTH, hide: str = "[]") -> None:
    """Somebody has edited the file, and it has been read, but not yet taken over."""
    gate.close()
    edit(world, clients, hide=hide)

    def arrives() -> bool:
        world.clock.advance(0.01)
        world.process.tick()
        return gate.is_waited_at

    until(arrives, "the file is read")
    assert world.parts.watch.is_reading
    assert world.parts.keeper.config.knock_timeout == 30


def arrive(world: KeeperWorld, gate: Gate | None = None) -> None:
    """What is being read is taken over, and what was edited meanwhile."""
    if gate is not None:
        gate.open()

    def over() -> bool:
        world.clock.advance(0.01)
        world.process.tick()
        world.work_off()
        return not world.parts.watch.is_reading

    until(over, "the file is in force")


def fault(world: KeeperWorld) -> str | None:
    return world.parts.watch.fault


def hides(world: KeeperWorld) -> set[str]:
    assert world.firewall.rules is not None
    return {str(item) for item in world.firewall.rules.hidden}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_short_of_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize("end", [die, run_short_of_memory])
@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["nothing", "a half", "all"])
def test_of_a_reader_that_died_nothing_counts_and_the_next_file_is_read(
    world: KeeperWorld, monkeypatch: pytest.MonkeyPatch, *, share: float, end: Callable[[], None]
) -> None:
    """Only its end says that it was whole: what it has written is looked at for nothing else."""

    def some(read: WasRead, file: BinaryIO) -> None:
        whole = io.BytesIO()
        hand_over(read, whole)
        file.write(whole.getvalue()[: int(share * len(whole.getvalue()))])
        file.flush()
        end()

    with monkeypatch.context() as patched:
        patched.setattr(config_reading, "hand_over", some)
        edit(world, BOTH, 44)
        arrive(world)
    assert fault(world) == "the process that was reading the config has died"
    assert world.parts.keeper.config.knock_timeout == 30
    assert world.parts.keeper.config.clients.keys() == {"alice", "bob"}
    edit(world, ONLY_BOB)
    arrive(world)
    assert fault(world) is None
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def test_readers_leave_no_descriptor_behind(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count

    before = descriptors()
    edit(world, BOTH, 44)
    arrive(world)
    world.write_config("{alice: [")
    arrive(world)
    monkeypatch.setattr(config_reading, "hand_over", lambda *_: die())
    edit(world, BOTH, 45)
    arrive(world)
    assert fault(world) == "the process that was reading the config has died"
    assert descriptors() == before


@pytest.mark.parametrize("command", ["reload", "revoke"])
def test_a_request_that_finds_the_file_changed_is_answered_while_it_is_read(
    world: KeeperWorld, gate: Gate, command: str
) -> None:
    """The process that reads holds whatever the server had open when it was forked, the asker's socket too."""
    gate.close()
    edit(world)
    world.ask(command, **({"name": "bob"} if command == "revoke" else {}))
    assert world.parts.watch.is_reading
    assert ("bob" in world.parts.keeper.config.clients) == (command == "reload")
    arrive(world, gate)
    assert ("bob" in world.parts.keeper.config.clients) == (command == "reload")


def test_who_is_revoked_while_the_file_is_read_is_out_now_and_when_it_is_in_force(
    world: KeeperWorld, gate: Gate
) -> None:
    world.knock(packet_v2())
    arriving(world, gate, OTHER_PORTS)
    world.ask("revoke", name="alice", cut=True)
    assert world.grants() == world.open_for() == set()
    assert HOME in {address for address, _ in world.firewall.cuts}
    arrive(world, gate)
    assert world.parts.keeper.config.knock_timeout == 44
    assert world.parts.keeper.client(ALICE.public.raw) is None
    world.clock.advance(1)
    world.knock(packet_v2(timestamp_ns=world.clock.now.unix_ns))
    assert world.grants() == set()
    assert "22/tcp" in hides(world)


def test_who_is_renamed_in_the_file_that_arrives_stays_revoked(world: KeeperWorld, gate: Gate) -> None:
    arriving(world, gate, "{eve: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}")
    world.ask("revoke", name="alice")
    arrive(world, gate)
    assert world.parts.keeper.config.clients.keys() == {"bob"}
    assert world.parts.keeper.client(ALICE.public.raw) is None


def test_a_revocation_lifted_while_the_file_is_read_lets_in_again_at_once(world: KeeperWorld, gate: Gate) -> None:
    world.ask("revoke", name="alice")
    arriving(world, gate)
    key = base64.b64encode(ALICE.public.raw).decode()
    assert world.ask("reload", lifted=[key])["lifted"] is True
    assert world.parts.keeper.client(ALICE.public.raw) is not None
    arrive(world, gate)
    assert world.parts.keeper.client(ALICE.public.raw) is not None


def test_what_the_firewall_refuses_while_the_file_is_read_closes_nothing_less_in_the_end(
    world: KeeperWorld, gate: Gate
) -> None:
    world.knock(packet_v2())
    arriving(world, gate, OTHER_PORTS)
    world.firewall.refusing |= {"close", "open", "apply"}
    answer = world.ask("revoke", name="alice")
    assert "refuses" in answer["not_closed"], "the operator is not told that all is well"
    assert world.parts.keeper.client(ALICE.public.raw) is None
    arrive(world, gate)
    assert "refuses" in str(fault(world)), "nor is the new config in force"
    assert world.parts.keeper.config.knock_timeout == 30
    assert world.parts.keeper.config.clients.keys() == {"bob"}
    world.firewall.refusing.clear()
    world.clock.advance(64)
    arrive(world)
    world.clock.advance(1)
    arrive(world)
    assert fault(world) is None
    assert world.parts.keeper.config.knock_timeout == 44
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def test_a_refused_file_is_tried_again_though_its_retry_came_due_while_another_arrived(
    world: KeeperWorld, gate: Gate
) -> None:
    world.firewall.refusing.add("apply")
    edit(world, OTHER_PORTS, 30)
    arrive(world)
    assert world.process.switch._retry_at is not None
    arriving(world, gate, OTHER_PORTS)
    world.clock.advance(64)  # due, and another file is on its way
    arrive(world, gate)
    assert "refuses" in str(fault(world))
    assert world.process.switch._retry_at is not None
    world.firewall.refusing.clear()
    world.clock.advance(64)
    arrive(world)
    world.clock.advance(64)
    arrive(world)
    assert fault(world) is None
    assert world.parts.keeper.config.knock_timeout == 44


def test_unhide_waits_until_the_file_is_read_and_the_port_stays_shown(world: KeeperWorld, gate: Gate) -> None:
    edit(world, BOTH, 30, "[9999/tcp]")
    arrive(world)
    arriving(world, gate, BOTH, "[9999/tcp]")
    answer = world.ask("unhide", ports=["9999/tcp"])
    assert answer["reading"] is True
    assert answer["shown"] == []
    assert "9999/tcp" in hides(world)
    arrive(world, gate)
    assert world.ask("unhide", ports=["9999/tcp"])["shown"] == ["9999/tcp"]
    assert "9999/tcp" not in hides(world)
    arrive(world)
    assert "9999/tcp" not in hides(world)
    assert world.parts.keeper.config.clients.keys() == {"alice", "bob"}, "what is known of clients goes with it"
    assert world.parts.keeper.client(BOB.public.raw) is not None


def test_an_edit_while_the_file_is_read_is_read_before_anybody_is_told_that_it_is_in_force(
    world: KeeperWorld, gate: Gate
) -> None:
    arriving(world, gate, BOTH)
    edit(world, ONLY_BOB, 55)
    told = world.ask("reload", sha256=content_hash(world.config))
    gate.open()
    while told["reading"]:
        told = world.ask("reload", sha256=content_hash(world.config))
    assert told["same"] is True
    assert told["fault"] is None
    assert world.parts.keeper.config.knock_timeout == 55
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def test_a_small_edit_while_a_large_file_is_read_is_in_force_behind_it(
    world: KeeperWorld, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving(world, gate, BOTH)
    monkeypatch.setattr(config_watch, "LARGE", 1 << 15)
    edit(world, ONLY_BOB, 55)
    arrive(world, gate)
    assert world.parts.keeper.config.knock_timeout == 55
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def test_a_broken_edit_while_the_file_is_read_leaves_the_whole_one_in_force_and_is_a_fault(
    world: KeeperWorld, gate: Gate
) -> None:
    arriving(world, gate, ONLY_BOB)
    world.write_config("{alice: [")
    arrive(world, gate)
    assert fault(world) is not None
    assert world.parts.keeper.config.knock_timeout == 44
    assert world.parts.keeper.config.clients.keys() == {"bob"}


def test_a_knock_while_the_file_is_read_is_judged_by_the_config_before(world: KeeperWorld, gate: Gate) -> None:
    def opened() -> set[str]:
        return {str(item) for door in world.firewall.doors() for item in door.port_list.ports}

    arriving(world, gate, OTHER_PORTS)
    world.send(frame(packet_v2()))
    world.process.on_frames()
    assert world.parts.watch.is_reading
    assert world.grants() == {"alice"}
    assert opened() == {"22/tcp", "54154/tcp"}
    arrive(world, gate)
    assert opened() == {"2222/tcp", "54154/tcp"}


def test_asked_to_stop_while_the_file_is_read_it_stops(world: KeeperWorld, gate: Gate) -> None:
    arriving(world, gate)
    assert world.process.run(lambda: os.kill(os.getpid(), signal.SIGTERM)) is Ending.ASKED
    assert world.parts.keeper.config.knock_timeout in {30, 44}


# -- many doors, and a firewall or a disk that fails between two steps


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses are followed in a step, and one step is a turn."""
    monkeypatch.setattr(Doors, "at_once", 2)
    monkeypatch.setattr(slices, "SHARE", 0)


def test_a_disk_that_does_not_answer_ends_no_server_whose_rules_were_taken_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with keeper_world(tmp_path) as world:
        world.knock(packet_v2())
        world.store._connection.execute("DROP TABLE holder")
        world.firewall.flush()
        world.process.doors.on_ruleset_change()
        world.clock.advance(1)
        world.process.tick()
        world.work_off()
        assert not world.firewall.lost
        assert world.open_for() == {str(HOME)}
        assert "some connections that should have ended may go on" in caplog.text
        assert not world.process.exchanges._is_ending, "the next time it looks again"


@pytest.mark.usefixtures("steps")
def test_what_ended_in_steps_is_cut_though_the_disk_does_not_tell_the_rest(tmp_path: Path) -> None:
    with keeper_world(tmp_path) as world:
        sources = [HOME + number for number in range(9)]
        for number, source in enumerate(sources):
            world.clock.advance(0.001)
            world.knock(packet_v2(timestamp_ns=world.clock.now.unix_ns, label=number), source=source)
        world.work_off()
        assert len(world.open_for()) == len(sources)
        world.store._connection.execute("DROP TABLE holder")
        world.firewall.cuts.clear()
        world.write_config(ONLY_BOB)
        world.clock.advance(1)
        world.process.tick()
        while world.process.slices:
            assert not world.open_for() or not world.firewall.cuts, "nothing is cut before the last door is closed"
            world.process.slices.advance()
        assert world.open_for() == set()
        assert {target for target, _ in world.firewall.cuts} == set(sources)


def test_a_reader_whose_parent_was_killed_before_it_could_ask_to_end_with_it_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has its parent's locks, and another server is to start in that one's place."""
    come, go = os.pipe()
    parents: list[int] = []

    def asked_too_late(*_: object) -> None:
        os.kill(parents[0], signal.SIGKILL)
        until(lambda: os.getppid() != parents[0], "the parent is gone")

    def read() -> WasRead:
        os.write(go, b"read")
        os._exit(0)

    monkeypatch.setattr(config_reading, "take_on", asked_too_late)
    parent = os.fork()
    if parent == 0:
        try:
            parents.append(os.getpid())
            config_reading.Reader(read, lambda: None)
            signal.pause()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    os.close(go)
    with os.fdopen(come, "rb") as said:
        assert said.read() == b"", "until the reader is gone, which has the other end"
