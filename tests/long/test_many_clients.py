"""A server with 100,000 clients: who is let in while its file is read, who is not, and what it takes of memory."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.keeper.revoked_keys import revoke_keys
from openme.keys.ed25519 import ClientPrivateKey
from support.netns import until
from support.server import ServerWorld

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

CLIENTS = 100_000
PATIENCE = 120.0
BY_COPY = "from the copy that was kept"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        made = ServerWorld(stack, tmp_path)
        for name in ("alice", "bob"):
            made.add(name)
        entries = "".join(
            f"  user{number}:\n    ed25519_pubkey: {ClientPrivateKey(number.to_bytes(32, 'big')).public}\n"
            for number in range(1, CLIENTS - 1)
        )
        made.write_config(made.config.read_text().rstrip("\n") + "\n" + entries)
        made.serve(tcp=[22, 80])
        yield made


def start(world: ServerWorld) -> None:
    world.begin(log_level="info")
    world.says("serving: knock port", PATIENCE)


def key_of(profile: Path) -> bytes:
    key = ServerWorld.profile(profile).private_key
    assert key is not None
    return key.public.raw


def memory(world: ServerWorld) -> int:
    """MiB of all processes, what they share counted once (Pss)."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in world.pids())
    return sum(int(found[1]) for text in texts if (found := re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE))) >> 10


def test_while_the_file_is_read_the_old_one_decides_and_a_revocation_acts(world: ServerWorld) -> None:
    alice, bob = (world.folder / f"{name}.yaml" for name in ("alice", "bob"))
    start(world)
    assert BY_COPY not in world.log()
    assert memory(world) < 100
    world.set_ports(default="[80/tcp]")
    until(lambda: world.ask("reload")["reading"])
    world.opens(alice, port=22)
    assert world.ask("reload")["reading"], "it was opened by the file before"
    # As the command does it before it takes the entry out of the file, for which it has to read that too.
    revoke_keys(world.state_dir, [key_of(bob)], "bob", time.time())
    world.ask("revoke", name="bob")
    assert world.ask("reload")["reading"], "it was revoked before the file was read"
    world.send(world.packet(bob), host=world.stranger)
    world.says("config in force", PATIENCE)
    world.send(world.packet(bob), host=world.stranger)
    until(lambda: world.tcp(world.client, 80) == "open", 10)
    until(lambda: world.tcp(world.client, 22) == "filtered", 10)
    assert {world.tcp(world.stranger, port) for port in (22, 80)} == {"filtered"}
    assert {session["client_name"] for session in world.sessions()} == {"alice"}
    assert memory(world) < 120
    assert world.stop() == 0
    start(world)
    assert BY_COPY in world.log()
    world.opens(alice, port=80)
    world.send(world.packet(bob), host=world.stranger)
    world.ask("sessions")
    assert {session["client_name"] for session in world.sessions()} == {"alice"}
