"""A server with a large config: it starts by the copy that it has kept, and nobody gets in by that who is out."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from openme.config.content_hash import content_hash
from openme.config.parsed_copy import FILE_NAME
from openme.server.config_watch import LARGE
from support.netns import until
from support.server import ServerWorld

pytestmark = pytest.mark.root

BY_COPY = "from the copy that was kept"


@pytest.fixture
def profiles(world: ServerWorld) -> dict[str, Path]:
    """Two clients, and comments that make the file a large one."""
    made = {name: world.add(name) for name in ("alice", "bob")}
    world.write_config(world.config.read_text() + "# a line of comment\n" * (LARGE // 10))
    world.serve(tcp=[22])
    return made


def copy_of(world: ServerWorld) -> Path:
    return world.state_dir / FILE_NAME


def follow(world: ServerWorld) -> None:
    """The server has read the file as it is now."""

    def in_force() -> bool:
        told = world.ask("reload", sha256=content_hash(world.config))
        return bool(told["same"]) and not told["reading"] and told["fault"] is None

    until(in_force)


def refused(world: ServerWorld, profile: Path) -> None:
    """A knock of this client opens nothing: one of another client that was sent after it opens."""
    name = profile.stem
    other = world.folder / ("bob.yaml" if name == "alice" else "alice.yaml")
    world.send(world.packet(profile), host=world.client)
    world.opens(other, port=22, host=world.stranger)
    assert name not in {session["client_name"] for session in world.sessions()}
    assert world.tcp(world.client, 22) == "filtered"
    world.ask("close", name=other.stem)


def test_a_start_by_the_copy_lets_in_whom_the_file_lets_in(world: ServerWorld, profiles: dict[str, Path]) -> None:
    world.start()
    assert BY_COPY not in world.log()
    status = copy_of(world).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, 0)
    world.restart()
    assert BY_COPY in world.log()
    for profile in profiles.values():
        world.opens(profile, port=22)
        world.ask("close", name=profile.stem)


def test_who_was_revoked_is_out_with_an_old_file_and_its_old_copy(
    world: ServerWorld, profiles: dict[str, Path]
) -> None:
    """Somebody puts both back from a backup, modes and times and all."""
    world.start()
    kept = [shutil.copy2(path, f"{path}.kept") for path in (world.config, copy_of(world))]
    world.revoke("alice")
    follow(world)
    refused(world, profiles["alice"])
    assert world.stop() == 0
    for path in map(Path, kept):
        path.replace(path.with_suffix(""))
    world.start()
    assert BY_COPY in world.log()
    refused(world, profiles["alice"])


def test_who_was_taken_out_by_hand_while_no_server_ran_is_out(world: ServerWorld, profiles: dict[str, Path]) -> None:
    world.start()
    assert world.stop() == 0
    text = world.config.read_text()
    start = text.index("  alice:")
    end = text.index("  bob:")
    # As long as before, so that only what stands there tells.
    world.write_config(text[:start] + "#" * (end - start - 1) + "\n" + text[end:])
    world.start()
    assert BY_COPY not in world.log()
    refused(world, profiles["alice"])
    world.restart()
    assert BY_COPY in world.log()
    refused(world, profiles["alice"])


@pytest.mark.usefixtures("profiles")
def test_a_second_server_that_is_refused_leaves_the_copy_alone(world: ServerWorld) -> None:
    world.start()
    before = copy_of(world).read_bytes()
    other = world.folder / "other.yaml"
    other.touch(mode=0o600)
    other.write_text(world.config.read_text().replace("  bob:", "  robert:"))
    done = world.openme(world.server, "--config", other, "serve")
    assert done.returncode == 1
    assert "another server is running" in done.stderr
    assert copy_of(world).read_bytes() == before
    world.restart()
    assert BY_COPY in world.log()


def test_killed_at_any_moment_of_a_reading_the_next_start_goes_by_the_file(
    world: ServerWorld, profiles: dict[str, Path]
) -> None:
    world.start()
    for number in range(5):
        world.edit(knock_timeout=f"{40 + number}s")
        world.says("the config has changed; reading")
        until(lambda: len(world.pids()) > 3 or "read the changed config" in world.log())
        for pid in world.pids():
            os.kill(pid, signal.SIGKILL)
        assert world.process is not None
        world.process.wait()
        world.start()
        assert "damaged" not in world.log()
    world.opens(profiles["alice"], port=22)
    session = world.sessions()[0]
    assert session["client_name"] == "alice"
    assert "opened 22/tcp" in world.log()
    assert "for 44s" in world.log()


def test_a_copy_that_is_no_copy_is_passed_over_and_replaced(world: ServerWorld, profiles: dict[str, Path]) -> None:
    world.start()
    assert world.stop() == 0
    copy_of(world).write_bytes(copy_of(world).read_bytes()[:-1])
    world.start()
    assert BY_COPY not in world.log()
    world.opens(profiles["alice"], port=22)
    world.restart()
    assert BY_COPY in world.log()
