"""The row `replay` of the security model: a knock opens once, ever.

Real: the server, its processes and sandbox, the kernel firewall, the packets, SIGKILL at system calls (strace injects
it), full and broken file systems (a small tmpfs; ext4 on a loop device). Simulated: the wall clock (libfaketime, see
support/clock.py) and a power cut (a copy of the block device, see support/disk.py, to which nothing unsynced has gone).

Beyond reach of the tests, and of the server: a disk that claims to have flushed what it has not; a disk that has turned
read-only with the machine losing power within the window, because then the mark in /run is gone as well.
"""

import re
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from openme.control import place
from openme.keeper.ratchet_file import FILE_NAME as RATCHET
from openme.store.mark import MARK
from openme.store.places import DATABASE
from openme.store.sqlite import make_memory
from support.claims import SSH, ClaimsWorld, noted
from support.control import asked
from support.disk import Disk, Ext4Disk, TinyDisk
from support.netns import until
from support.server import CLIENT, STRANGER

pytestmark = pytest.mark.root

WINDOW = 60


def _close_and_resend(world: ClaimsWorld, *packets: bytes) -> None:
    world.close("alice")
    world.assert_refuses(*packets)


def test_resent_at_once_and_again(world: ClaimsWorld) -> None:
    packet = world.assert_opens(world.alice)
    world.judged(packet, packet)
    assert world.opened("alice") == 1
    _close_and_resend(world, *[packet] * 20)
    assert "alice: refused: replay" in world.log()
    world.assert_opens(world.alice)


def test_two_copies_in_one_batch_open_once(world: ClaimsWorld) -> None:
    for _ in range(20):
        packet = world.signed(world.alice)
        world.judged(packet, packet, packet)
    assert world.opened("alice") == 20


def test_a_copy_from_another_address_opens_nothing_and_is_reported_with_both(world: ClaimsWorld) -> None:
    packet = world.assert_opens(world.alice)
    world.assert_refuses(packet, host=world.stranger)
    line = next(line for line in world.log().splitlines() if "somebody is on the path" in line)
    assert CLIENT[4] in line
    assert STRANGER[4] in line
    assert world.tcp(world.client, SSH) == "open"  # the owner's door is none of the copyist's business


@pytest.mark.parametrize("ahead", [-WINDOW + 1, WINDOW - 1])
def test_at_the_edges_of_the_window(world: ClaimsWorld, ahead: int) -> None:
    packet = world.signed(world.alice, ahead=ahead)
    world.judged(packet)
    assert world.opened("alice") == 1
    _close_and_resend(world, packet)
    beyond = world.signed(world.alice, ahead=ahead + (2 if ahead > 0 else -2))
    world.assert_refuses(beyond)
    assert "alice: refused: time" in world.log()
    world.assert_opens(world.alice)


def test_dated_ahead_by_the_whole_window_and_resent_after_it(world: ClaimsWorld) -> None:
    """Valid for twice the window, so it must be remembered that long, whatever comes in between."""
    packet = world.signed(world.alice, ahead=WINDOW - 1)
    world.judged(packet)
    assert world.opened("alice") == 1
    for later in (1, WINDOW // 2, WINDOW - 2, WINDOW + 5, 2 * WINDOW - 3, 2 * WINDOW, 3 * WINDOW):
        world.clock.step(later)
        with noted(f"after {later} s"):
            _close_and_resend(world, packet)
            world.assert_opens(world.alice)  # moves the largest signed time, and with it what is remembered
    for back in (2 * WINDOW, WINDOW, 0):
        world.clock.step(back)
        with noted(f"clock back at {back} s"):
            _close_and_resend(world, packet)


@pytest.mark.parametrize(
    ("how", "steps"),
    [("stop", (0,)), ("kill", (0,)), ("kill", (3600, 0)), ("stop", (-3600, 0)), ("kill", (WINDOW - 5, 5 - WINDOW, 0))],
)
def test_after_a_restart(world: ClaimsWorld, how: str, steps: tuple[int, ...]) -> None:
    packet = world.assert_opens(world.alice)
    for offset in steps:
        world.stop() if how == "stop" else world.kill()
        world.clock.step(offset)
        world.start()
        with noted(f"clock at {offset:+d} s"):
            _close_and_resend(world, packet)
    world.assert_opens(world.alice)
    _close_and_resend(world, packet)


@pytest.mark.parametrize("step", [3600, -3600, 86400, -86400])
def test_clock_stepped_while_running(world: ClaimsWorld, step: int) -> None:
    packet = world.assert_opens(world.alice)
    for offset in (step, 0, step // 60, WINDOW - 5, -WINDOW + 5, 0):
        world.clock.step(offset)
        with noted(f"clock at {offset:+d} s"):
            _close_and_resend(world, packet)
    world.assert_opens(world.alice)


def test_revoked_and_added_again_forgets_nothing(world: ClaimsWorld) -> None:
    packet = world.assert_opens(world.alice)
    entry = world.config.read_text()
    world.revoke("alice")
    world.assert_refuses(packet)
    world.write_config(entry)
    world.assert_refuses(packet)
    world.write_config(entry.replace("alice:", "alicia:"))
    key = str(world.profile(world.alice).public_key)
    world.openme(world.server, "--config", world.config, "add", "alicia", "--pubkey", key, code=0)
    world.assert_refuses(packet)
    # Under version 2 the listener itself drops what it has seen often enough.
    assert "alicia: refused: replay" in world.log() or "refused: copy" in world.log()


# -- kill -9 at any instant

# What a knock makes the keeper do, each call by its number within the trace: from the frame's arrival over the disk and
# the firewall to the verdict and the state file.
_STEPS = ("recvfrom", "pwrite64", "fdatasync", "sendmsg", "sendto", "openat", "rename", "close")


def _traced(world: ClaimsWorld, *words: str) -> subprocess.Popen[str]:
    assert world.process is not None
    keeper = world.pids()[0]
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(keeper), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    world.stack.callback(tracer.kill)
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    return tracer


def _calls_of_a_knock(world: ClaimsWorld, folder: Path) -> list[tuple[str, int]]:
    """Each system call that a knock costs the keeper, with its number among those of its name."""
    trace = folder / "trace"
    tracer = _traced(world, "-o", str(trace))
    world.send(world.signed(world.alice))
    until(lambda: "sessions.json" in trace.read_text() and "rename" in trace.read_text())
    tracer.terminate()
    tracer.communicate(timeout=10)
    names = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    return [(name, number) for name in _STEPS for number in range(1, min(names.count(name), 2) + 1)]


def test_killed_at_any_instant(world: ClaimsWorld, tmp_path: Path) -> None:
    calls = _calls_of_a_knock(world, tmp_path)
    assert {name for name, _ in calls} >= {"recvfrom", "pwrite64", "fdatasync", "openat"}, calls
    outcomes = set()
    for name, number in calls:
        world.close("alice")
        inject = f"inject={name}:signal=KILL:when={number}"
        tracer = _traced(world, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject)
        packet = world.signed(world.alice)
        world.send(packet)
        assert world.process is not None
        with suppress(subprocess.TimeoutExpired):
            world.process.wait(1)
        killed = world.process.poll() is not None
        tracer.kill()
        tracer.communicate()
        world.kill()
        had_opened = world.tcp(world.client, SSH) == "open"
        outcomes.add((killed, had_opened))
        world.start()
        world.close("alice")
        # If it opened before, it must not again; if it did not, it may once, and not twice.
        world.judged(packet)
        again = world.opened("alice")
        assert had_opened + again <= 1, f"opened twice, killed at {name} number {number}"
        _close_and_resend(world, packet)
    assert {(True, False), (True, True)} <= outcomes, "no kill before the door opened, or none after"
    world.assert_opens(world.alice)


# -- disks


class DiskWorld(ClaimsWorld):
    """A world whose `state_dir` is a file system of its own."""

    disk: Disk

    def mount(self, disk: Disk) -> None:
        self.disk = disk
        self.populate(2)
        # The clients' files were made before there was a disk of its own.
        self.put_ratchet((self.state_dir / RATCHET).read_bytes(), disk.seen)
        make_memory(disk.seen)
        disk.run("sync")

    def start(self, *words: str, log_level: str = "debug", prefix: Any = ()) -> None:
        # The clock's file would have to lie on the disk; these tests need no clock but the true one.
        self.begin(*words, log_level=log_level, prefix=[*prefix, *self.disk.prefix])
        until(self._serves)

    def ask(self, command: str, **values: object) -> dict[str, Any]:
        # Where the disk takes no socket it is in /run, named by the directory as the server knows it.
        where = self.state_dir if _listens(place.in_run_dir(self.state_dir)) else self.disk.seen
        return asked(where, command, values)


def _listens(path: Path) -> bool:
    """Whether somebody listens on a Unix socket; what a killed server has left is not enough."""
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


@pytest.fixture
def tiny(stack: ExitStack, tmp_path: Path) -> DiskWorld:
    made = DiskWorld(stack, tmp_path)
    made.mount(TinyDisk(stack, made.state_dir))
    made.start()
    return made


@pytest.fixture
def ext4(stack: ExitStack, tmp_path: Path) -> DiskWorld:
    made = DiskWorld(stack, tmp_path)
    made.mount(Ext4Disk(stack, made.state_dir, tmp_path / "image"))
    made.start()
    return made


def _ext4(world: DiskWorld) -> Ext4Disk:
    assert isinstance(world.disk, Ext4Disk)
    return world.disk


def _tiny(world: DiskWorld) -> TinyDisk:
    assert isinstance(world.disk, TinyDisk)
    return world.disk


def test_power_cut_just_after_a_door_opened(ext4: DiskWorld) -> None:
    """Every knock that opened is on the disk by then; unsynced writes are lost, as one file shows."""
    packets = []
    for number in range(4):
        lost = ext4.disk.seen / f"unsynced-{number}"
        lost.write_text("lost")
        packet = ext4.signed(ext4.alice)
        packets.append(packet)
        ext4.send(packet)
        until(lambda: ext4.tcp(ext4.client, SSH) == "open")
        image = _ext4(ext4).cut_power()
        ext4.kill()
        _ext4(ext4).boot_from(image)
        assert not lost.exists() or not lost.read_text(), "nothing was lost: this test shows nothing"
        ext4.start()
        assert "may be incomplete" not in ext4.log()
        _close_and_resend(ext4, *packets)
    ext4.assert_opens(ext4.alice)


def test_a_full_disk_locks_nobody_out_and_opens_nothing_twice(tiny: DiskWorld) -> None:
    disk = _tiny(tiny)
    packets = [tiny.assert_opens(tiny.alice)]
    disk.fill()
    packets += [tiny.assert_opens(tiny.alice) for _ in range(3)]
    tiny.says("the replay memory cannot be written")
    _close_and_resend(tiny, *packets)

    tiny.kill()
    tiny.start()  # the disk is as full as before
    tiny.says("the replay memory may be incomplete (state.db lacks what was written last)")
    _close_and_resend(tiny, *packets)
    packets.append(tiny.assert_opens(tiny.alice))
    _close_and_resend(tiny, *packets)

    disk.free()
    packets.append(tiny.assert_opens(tiny.alice))
    tiny.says("on the disk again")
    for _ in range(2):
        tiny.kill()
        tiny.start()
        assert "may be incomplete" not in tiny.log()
        _close_and_resend(tiny, *packets)
    tiny.assert_opens(tiny.alice)


def test_a_disk_that_is_full_for_a_while(tiny: DiskWorld) -> None:
    """What waited is written with the next knock, and the next start trusts the memory again."""
    disk = _tiny(tiny)
    disk.fill()
    packets = [tiny.assert_opens(tiny.alice) for _ in range(3)]
    disk.free()
    packets.append(tiny.assert_opens(tiny.alice))
    tiny.kill()
    tiny.start()
    assert "may be incomplete" not in tiny.log()
    _close_and_resend(tiny, *packets)
    tiny.assert_opens(tiny.alice)


def test_a_disk_that_turns_read_only(ext4: DiskWorld) -> None:
    """It serves on from memory, also after starts on the disk as it is, and remembers in /run what it cannot write."""
    packets = [ext4.assert_opens(ext4.alice)]
    _ext4(ext4).fail()
    packets += [ext4.assert_opens(ext4.alice) for _ in range(2)]
    ext4.says("the replay memory cannot be written")
    _close_and_resend(ext4, *packets)
    for _ in range(2):
        ext4.kill()
        ext4.start()
        ext4.says("the replay memory may be incomplete")
        _close_and_resend(ext4, *packets)
        packets.append(ext4.assert_opens(ext4.alice))
    _close_and_resend(ext4, *packets)
    told = ext4.openme(ext4.server, "--config", ext4.config, "epochs", code=0).stderr
    assert "no key is erased until it can" in told
    told = ext4.openme(ext4.server, "--config", ext4.config, "list", code=0).stdout
    assert re.search(rf"^alice .* from {CLIENT[4]}$", told, re.MULTILINE), told
    ext4.kill()
    _ext4(ext4).repair()
    ext4.start()
    ext4.says("the replay memory may be incomplete")
    _close_and_resend(ext4, *packets)
    packets.append(ext4.assert_opens(ext4.alice))
    ext4.kill()
    ext4.start()
    assert "may be incomplete" not in ext4.log()
    _close_and_resend(ext4, *packets)
    ext4.assert_opens(ext4.alice)


def test_a_read_only_disk_after_a_reboot_waits_for_what_may_have_been_dated_ahead(ext4: DiskWorld) -> None:
    packets = [ext4.assert_opens(ext4.alice)]
    _ext4(ext4).fail()
    ahead = ext4.signed(ext4.alice, ahead=WINDOW - 3)
    ext4.judged(ahead)
    assert ext4.opened("alice") == 2
    ext4.kill()
    ext4.forget_newest()
    for _ in range(2):
        ext4.start()
        ext4.says("nobody gets in before")
        ext4.says("openme reset --all")
        _close_and_resend(ext4, *packets, ahead)
        ext4.kill()


def test_a_full_disk_with_small_blocks(stack: ExitStack, tmp_path: Path) -> None:
    """Below 512 MiB ext4 makes blocks of 1 KiB: a mapped file without a block to grow into kills whoever touches it."""
    world = DiskWorld(stack, tmp_path)
    world.mount(Ext4Disk(stack, world.state_dir, tmp_path / "image", "-b", "1024"))
    world.start()
    packets = [world.assert_opens(world.alice)]
    assert world.stop() == 0  # SQLite takes its log and index away, and has no room for new ones
    for left in (0, 8 << 10, 20 << 10):  # enough to make a file, and too little to touch all of it
        world.disk.fill(left)
        world.start()
        _close_and_resend(world, *packets)
        packets += [world.assert_opens(world.alice) for _ in range(3)]
        world.kill()
    world.disk.free()
    world.forget_newest()
    world.start()
    _close_and_resend(world, *packets)
    world.assert_opens(world.alice)


def test_a_first_run_without_a_run_directory_remembers_the_newest_time(stack: ExitStack, tmp_path: Path) -> None:
    world = DiskWorld(stack, tmp_path)
    world.mount(TinyDisk(stack, world.state_dir))
    world.disk.run("mount", "-t", "tmpfs", "none", "/run")
    world.start()
    packet = world.assert_opens(world.alice)
    world.kill()
    for path in list(world.disk.seen.iterdir()):
        if path.name != RATCHET:
            path.unlink()
    world.start()
    world.says("the replay memory may be incomplete (state.db and state.mark are gone)")
    assert "nobody gets in" not in world.log(), "the newest time is known"
    _close_and_resend(world, packet)
    world.assert_opens(world.alice)


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _overwritten(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[1024:] = bytes(len(raw) - 1024)
    path.write_bytes(raw)


def _a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_garbage, _cut_short, _overwritten, _a_directory, _emptied])
def test_a_damaged_database_opens_nothing_twice(world: ClaimsWorld, damage: Any) -> None:
    packet = world.assert_opens(world.alice)
    assert world.stop() == 0
    damage(world.state_dir / DATABASE)
    packets = [packet]
    for number in range(2):
        world.start()
        assert ("the replay memory may be incomplete" in world.log()) == (number == 0)
        _close_and_resend(world, *packets)
        packets.append(world.assert_opens(world.alice))
        world.kill()
    world.start()
    _close_and_resend(world, *packets)


def _a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 1
    path.write_bytes(raw)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _gone(path: Path) -> None:
    path.unlink()


LOG = f"{DATABASE}-wal"


@pytest.mark.parametrize("reboot", [False, True], ids=["", "rebooted"])
@pytest.mark.parametrize(
    ("names", "damage", "told"),
    [
        ([LOG], _a_bit, "state.db"),
        ([LOG], _half, "state.db"),
        ([LOG], _gone, "state.db"),
        ([DATABASE], _gone, "state.db is gone or empty"),
        ([MARK], _gone, "state.mark is gone"),
        ([MARK], _a_bit, "state.mark is damaged"),
        ([MARK], _emptied, "state.mark is damaged"),
        ([DATABASE, LOG, MARK], _gone, "state.db and state.mark are gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_whatever_is_lost_after_a_kill_is_told_and_opens_nothing_twice(
    world: ClaimsWorld, names: list[str], damage: Any, told: str, *, reboot: bool
) -> None:
    packets = [world.assert_opens(world.alice) for _ in range(8)]
    world.kill()
    for name in names:
        damage(world.state_dir / name)
    if reboot:
        world.forget_newest()
    for number in range(2):
        world.start()
        if number == 0:
            world.says(f"the replay memory may be incomplete ({told}")
        else:
            assert "may be incomplete" not in world.log()
        _close_and_resend(world, *packets)
        world.kill()
    world.start()
    waits = reboot and MARK in names
    if not waits:
        world.assert_opens(world.alice)
        return
    world.says("nobody gets in before")
    done = world.openme(world.server, "--config", world.config, "reset", "--all", code=0)
    assert "are accepted again" in done.stderr
    world.clock.step(WINDOW + 1)
    world.ask("sessions")
    _close_and_resend(world, *packets)
    world.assert_opens(world.alice)


def test_files_that_were_put_back_from_a_copy_are_told(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    assert world.stop() == 0
    copies = {name: (world.state_dir / name).read_bytes() for name in (DATABASE, MARK)}
    world.start()
    packet = world.assert_opens(world.alice)
    assert world.stop() == 0
    for names in ([DATABASE], [MARK], [DATABASE, MARK]):
        for name in names:
            (world.state_dir / name).write_bytes(copies[name])
        world.start()
        with noted(str(names)):
            world.says("the replay memory may be incomplete")
            _close_and_resend(world, packet)
        packet = world.assert_opens(world.alice)
        assert world.stop() == 0


@pytest.mark.parametrize("window", ["5s", "10m"])
def test_memory_lost_then_a_reboot_a_clock_set_back_and_another_window(world: ClaimsWorld, window: str) -> None:
    """The mark holds the newest accepted time, and neither clock nor window lowers the floor that follows from it."""
    ahead = world.signed(world.alice, ahead=WINDOW - 3)
    world.judged(ahead)
    packet = world.signed(world.alice)
    world.judged(packet)
    assert world.opened("alice") == 2
    world.kill()
    _emptied(world.state_dir / DATABASE)
    _gone(world.state_dir / LOG)
    world.forget_newest()
    world.edit(replay_window=window)
    for offset in (-30, 0, 50):
        world.clock.step(offset)
        world.start()
        with noted(f"clock at {offset:+d} s"):
            _close_and_resend(world, packet, ahead)
        world.kill()
    world.edit(replay_window="10m")
    world.start()
    _close_and_resend(world, packet, ahead)
    world.clock.step(WINDOW)
    world.ask("sessions")
    world.assert_opens(world.alice)


def test_two_servers_on_one_state(world: ClaimsWorld) -> None:
    packet = world.assert_opens(world.alice)
    second = world.openme(world.stranger, "--config", world.config, "serve", "--state-file", "")
    assert second.returncode == 1
    assert "another server is running" in second.stderr
    assert second.stderr.count("openme: error:") == 1
    _close_and_resend(world, packet)
    world.assert_opens(world.alice)
