"""`forward_secrecy`: under version 2, what was recorded before the last erased epoch stays closed to a thief of the
server.

The thief copies the disk, byte by byte, and the memory of every process. He knows the code and what he looks for: any
value from which the epoch's private key or a recorded packet's key follows. Version 1 does NOT have it on the server's
side, which is shown too: a recorded knock waits for the server's key. What is stolen from a client opens none of its
past knocks under either version.
"""

import hashlib
import hmac
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import monocypher
import pytest
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_scalarmult

from openme.keeper.ratchet_file import FILE_NAME, finish_erasing, read_ratchet, write_ratchet
from openme.keys.ratchet import Ratchet
from openme.keys.x25519 import public_key_of
from openme.store.sqlite import make_memory
from openme.wire import v1, v2
from openme.wire.knock import BadPacket
from support import independent_v2
from support.claims import ClaimsWorld
from support.control import asked
from support.disk import Ext4Disk
from support.netns import until
from support.recorded import Recorder, recorder
from support.server import KNOCK_PORT

WEEK = 7 * 86400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("forward"), "--v1")
    with closing(made.ear):
        yield made


def test_version_1_has_no_forward_secrecy_the_servers_file_opens_the_past(path: Recorder) -> None:
    began = time.time_ns()
    recorded = [path.knock("alice", "--ip", "192.0.2.7"), path.knock("bob")]
    ended = time.time_ns()
    # Later, perhaps years later, somebody copies one line of the server's file.
    stolen = path.config.private_key.raw
    knocks = [v1.open_untrusted(packet, v1.aead_key_untrusted(packet, stolen)) for packet in recorded]
    assert [str(knock.target) for knock in knocks] == ["192.0.2.7", "None"]
    assert all(began <= knock.timestamp_ns <= ended for knock in knocks)
    assert len({knock.random_nonce for knock in knocks}) == 2


def test_a_stolen_client_does_not_open_its_own_past(path: Recorder) -> None:
    """The ephemeral private key is gone with the packet; nothing in the client's file stands in for it."""
    packet = path.knock("alice", "--ip", "192.0.2.7")
    stolen = path.profile("alice")
    assert stolen.private_key is not None
    seed = stolen.private_key.seed
    ephemeral = packet[v1.EPHEMERAL_OFFSET : v1.AEAD_NONCE_OFFSET]
    for scalar in (seed, hashlib.sha512(seed).digest()[:32], stolen.private_key.public.raw):
        for point in (ephemeral, stolen.server_pubkey):
            with pytest.raises(BadPacket, match="decrypt"):
                v1.open_untrusted(packet, v1._hkdf_32(crypto_scalarmult(scalar, point)))


# -- version 2


def needles(ratchet_key: bytes, epoch: int, packets: list[bytes]) -> dict[str, bytes]:
    """Everything that opens one of these packets, or leads to what does."""
    ratchet = Ratchet(WEEK, epoch, bytes(bytearray(ratchet_key)))
    private = ratchet.private_key(epoch)
    found = {"ratchet key": ratchet_key, "epoch private key": private}
    clamped = bytearray(private)
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    found["clamped private key"] = bytes(clamped)
    for number, packet in enumerate(packets):
        shared = crypto_scalarmult(private, monocypher.elligator_map(packet[:32]))
        found[f"shared secret {number}"] = bytes(bytearray(shared))  # a copy, since the schedule wipes its own
        schedule = v2.schedule_untrusted(packet, private, public_key_of(private))
        found[f"AEAD key {number}"] = schedule.aead_key
    return found


def memory(pid: int) -> bytes:
    """All that a process can write to, as it is now."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    content = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw", maps, re.MULTILINE):
            try:
                file.seek(int(start, 16))
                content += file.read(int(end, 16) - int(start, 16))
            except OSError:  # [vvar] and the like
                continue
    return bytes(content)


def held(world: ClaimsWorld, wanted: dict[str, bytes], image: Path) -> set[str]:
    """What of the needles is in a process's memory or on the disk."""
    places = [memory(pid) for pid in world.pids()] + [image.read_bytes()]
    return {name for name, value in wanted.items() if any(value in place for place in places)}


class Thief(ClaimsWorld):
    """A world whose disk can be copied byte by byte."""

    disk: Ext4Disk

    def mount(self, disk: Ext4Disk) -> None:
        self.disk = disk
        self.put_ratchet((self.state_dir / FILE_NAME).read_bytes(), disk.seen)
        make_memory(disk.seen)
        clock = self.state_dir / "test-clock"
        (disk.seen / clock.name).write_bytes(clock.read_bytes())
        self.clock = type(self.clock)(self.state_dir, disk.seen)

    def start(self, *words: str, **_: object) -> None:
        self.begin(*words, prefix=[*self.disk.prefix, *self.clock.prefix])
        until(self._serves)

    def ask(self, command: str, **values: object) -> dict[str, Any]:
        return asked(self.disk.seen, command, values)


@pytest.mark.root
def test_version_2_the_past_is_closed_once_its_epoch_is_erased(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = Thief(stack, tmp_path)
        world.populate(2)
        world.mount(Ext4Disk(stack, world.state_dir, tmp_path / "image"))
        ratchet = read_ratchet(world.disk.seen)
        assert ratchet is not None
        key = bytearray(32)
        ratchet.copy_key_to(key, 0)
        world.start()
        recorded = [world.assert_opens(world.alice) for _ in range(3)]
        recorded += [world.assert_opens(world.bob, "bob")]
        wanted = needles(bytes(key), ratchet.index, recorded)
        # The look itself works: while the epoch lives, whoever copies the server has its keys.
        world.disk.run("sync")
        now = held(world, wanted, world.disk.cut_power())
        assert {"ratchet key", "epoch private key"} <= now

        world.clock.step(WEEK)
        until(lambda: world.ask("sessions"))
        world.assert_opens(world.alice)  # a client's clock agrees: the epoch is over
        world.says(f"erased the keys before epoch {ratchet.index + 1}")
        world.disk.run("sync")
        assert held(world, wanted, world.disk.cut_power()) == set()
        # And with all that there is now, no recorded packet opens.
        stolen = read_ratchet(world.disk.seen)
        assert stolen is not None
        assert stolen.index == ratchet.index + 1
        for packet in recorded:
            for epoch in range(stolen.index, stolen.index + 60):
                private = stolen.private_key(epoch)
                schedule = v2.schedule_untrusted(packet, private, public_key_of(private))
                with pytest.raises(BadPacket, match="decrypt"):
                    v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce)


_CALLS = ("open", "write", "fsync", "pwrite", "link", "rename", "unlink", "close")


def _write_and_die(state_dir: Path, later: Ratchet, step: int) -> bool:
    """Write the ratchet in a process that is killed before its call number `step`; whether it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    left = step

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return act

    try:
        for name in _CALLS:
            setattr(os, name, dying(getattr(os, name)))
        write_ratchet(state_dir, later)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.root
@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("made", [["-O", "inline_data", "-I", "512"], ["-b", "1024"]], ids=["inline_data", "1 KiB"])
def test_killed_at_every_call_of_the_erasing_the_old_key_leaves_the_raw_disk(
    tmp_path: Path, made: list[str], *, cut: bool
) -> None:
    """After the next start has finished it, and made the step where the kill came before it."""
    with ExitStack() as stack:
        where = tmp_path / "state"
        where.mkdir()
        disk = Ext4Disk(stack, where, tmp_path / "image", *made)
        found_old = found_new = step = 0
        ended = False
        while not ended:
            old = secrets.token_bytes(32)
            write_ratchet(disk.seen, Ratchet(WEEK, 2951, bytes(bytearray(old))))
            disk.run("sync")
            assert old in disk.cut_power().read_bytes(), "the look itself works"
            later = Ratchet(WEEK, 2951, bytes(bytearray(old))).later(2952)
            ended = _write_and_die(disk.seen, later, step)
            if cut:
                disk.boot_from(disk.cut_power())
            finish_erasing(disk.seen)
            now = read_ratchet(disk.seen)
            assert now is not None
            if now.index == 2951:
                found_old += 1
                write_ratchet(disk.seen, now.later(2952))
            else:
                found_new += 1
            disk.run("sync")
            assert old not in disk.cut_power().read_bytes(), f"killed before call {step}"
            assert [path.name for path in disk.seen.glob("*ratchet*")] == [FILE_NAME]
            step += 1
        assert found_old > 5
        assert found_new > 5


@pytest.mark.root
def test_version_2_without_evidence_nothing_is_erased_and_service_goes_on(tmp_path: Path) -> None:
    """The other side: a clock that is wrong by a week, and set right again, costs nobody anything."""
    with ExitStack() as stack:
        world = ClaimsWorld(stack, tmp_path)
        world.populate(2)
        before = (world.state_dir / FILE_NAME).read_bytes()
        world.start()
        world.clock.step(WEEK)
        world.assert_refuses(world.packet(world.alice))
        world.restart()
        world.assert_refuses(world.packet(world.alice))
        assert (world.state_dir / FILE_NAME).read_bytes() == before
        world.clock.step(0)
        world.ask("sessions")  # the server has looked at its clock
        world.assert_opens(world.alice)


# -- version 2: what lies in memory after an erasing

KNOCKS = 25
SHORT = 12  # seconds of an epoch: long enough for 25 knocks on a slow machine
MIDDLE = 12  # bytes from the middle of a secret, since what overwrites a freed block often spares its middle


def secrets_of(private: bytes, packets: list[bytes]) -> dict[str, bytes]:
    """Every secret of every recorded knock: what opens it or its receipt, and what it says."""
    public = public_key_of(private)
    found: dict[str, bytes] = {}
    for number, packet in enumerate(packets):
        shared = crypto_scalarmult(private, monocypher.elligator_map(packet[:32]))
        extracted = hmac.digest(bytes(32), shared, "sha256")
        key, nonce, _, receipt_key, receipt_nonce = independent_v2.keys_of(shared, public, packet[:32])
        plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(packet[40:], packet[:32], nonce, key)
        of_this = {"shared secret": shared, "HKDF key": extracted, "AEAD key": key, "AEAD nonce": nonce}
        of_this |= {"receipt key": receipt_key, "receipt nonce": receipt_nonce}
        # The random nonce stays on purpose, in the replay memory; time and target are what the log may say.
        of_this |= {"signature": plaintext[45:], "signed fields": plaintext[:16]}
        found |= {f"{name} {number}": value for name, value in of_this.items()}
    return found


def middles(wanted: dict[str, bytes]) -> dict[str, bytes]:
    """The middle bytes of each secret, which tell it as well as the whole."""
    return {name: value[(len(value) - MIDDLE) // 2 :][:MIDDLE] for name, value in wanted.items()}


@pytest.mark.root
def test_version_2_no_process_keeps_a_secret_of_a_knock_whose_epoch_is_erased(tmp_path: Path) -> None:
    """No later knock helps by overwriting: the epoch is erased since the server has run for a whole one since."""
    with ExitStack() as stack:
        world = ClaimsWorld(stack, tmp_path, epoch_length=f"{SHORT}s", replay_window="5s")
        (world.state_dir / FILE_NAME).unlink()
        world.openme(world.server, "--config", world.config, "init", "--upgrade", code=0)
        world.populate(2)
        world.start()
        until(lambda: time.time() % SHORT < SHORT / 3, 2 * SHORT)
        ratchet = read_ratchet(world.state_dir)
        assert ratchet is not None
        epoch = int(time.time()) // SHORT
        private = ratchet.private_key(epoch)
        packets = [world.packet(world.alice) for _ in range(KNOCKS)]
        world.send(*packets)
        until(lambda: world.opened("alice") == KNOCKS, SHORT)
        # One receipt is fetched, too.
        answer = ask_receipt(world, packets[-1], private)
        assert answer
        wanted = secrets_of(private, packets)
        wanted |= {"epoch private key": private, "receipt text": receipt_text_of(answer, packets[-1], private)}
        wanted = middles(wanted)
        until(lambda: f"erased the keys before epoch {epoch + 1}" in world.log(), 5 * SHORT)
        left = []
        for process, pid in zip(("keeper", "listener", "guardian"), world.pids(), strict=True):
            content = memory(pid)
            left += [f"{name} ({process})" for name, value in wanted.items() if value in content]
        assert left == []


@pytest.mark.root
@pytest.mark.parametrize("child", ["trial guard", "config reader"])
def test_version_2_no_child_of_the_keeper_outlives_an_erasing_with_the_key(tmp_path: Path, child: str) -> None:
    """What is forked from the keeper begins with a copy of its memory, and may still be there a week later."""
    with ExitStack() as stack:
        world = ClaimsWorld(stack, tmp_path)
        world.populate(2)
        # Its knocks are evidence of the time, and no end of a trial.
        elsewhere = world.client_file("elsewhere", allowed_from=["198.51.100.0/24"])
        ratchet = read_ratchet(world.state_dir)
        assert ratchet is not None
        key = bytearray(32)
        ratchet.copy_key_to(key, 0)
        if child == "trial guard":
            world.begin("10m", prefix=world.clock.prefix, command="try")
            until(world._serves)
            forked = {world.pids()[-1]}
        else:
            world.crowd(2000)
            world.start()
            others = set(world.pids())
            world.edit(knock_timeout="31s")
            until(lambda: set(world.pids()) - others, 5)
            forked = set(world.pids()) - others
            (reader,) = forked
            until(lambda: stopped_without(reader, bytes(key)), 5)  # as on a network file system that does not answer
        world.send(world.signed(elsewhere))
        world.says("elsewhere: refused", 10)
        assert bytes(key) in memory(world.pids()[0]), "the look itself works"
        world.clock.step(WEEK)
        world.ask("sessions")
        world.send(world.signed(elsewhere))
        world.says(f"erased the keys before epoch {ratchet.index + 1}", 10)
        assert forked <= set(world.pids())
        assert [pid for pid in world.pids() if bytes(key) in memory(pid)] == []
        for pid in forked:
            os.kill(pid, signal.SIGCONT)


def stopped_without(pid: int, key: bytes) -> bool:
    """Stop a process; it goes on if it has not come as far as to forget this key."""
    os.kill(pid, signal.SIGSTOP)
    if key not in memory(pid):
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def ask_receipt(world: ClaimsWorld, packet: bytes, private: bytes) -> bytes:
    """What the health port says to whoever made this knock."""
    identity = v2.schedule_untrusted(packet, private, public_key_of(private)).receipt.id
    asking = world.connection(world.client, KNOCK_PORT, wait=5)
    asking.sendall(identity)
    return b"".join(iter(lambda: asking.recv(65536), b""))


def receipt_text_of(answer: bytes, packet: bytes, private: bytes) -> bytes:
    keys = v2.schedule_untrusted(packet, private, public_key_of(private)).receipt
    text = crypto_aead_chacha20poly1305_ietf_decrypt(answer, keys.id, keys.nonce, keys.key)
    return text[:96]
