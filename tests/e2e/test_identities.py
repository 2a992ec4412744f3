"""A door in the kernel's firewall, opened by one signature of an SSH agent's, and by nothing that it declines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import CLIENT, KNOCK_PORT, ServerWorld
from support.ssh_agents import Agent, new_key, program, ssh_agent

pytestmark = pytest.mark.root
OPEN, SHUT = 0, 3


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """The agent that every command here finds."""
    with ssh_agent() as running:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(running.path))
        yield running


@pytest.mark.parametrize("words", [[], ["--v1"]], ids=["v2", "v1"])
def test_a_knock_that_the_agent_signs_opens_the_door(
    world: ServerWorld, agent: Agent, tmp_path: Path, words: list[str]
) -> None:
    mine = new_key(tmp_path / "id")
    alice = world.add("alice", "--pubkey", mine.with_suffix(".pub").read_text(), *words)
    assert "private" not in alice.read_text()
    world.serve(tcp=[22])
    world.start()
    refused = world.knock(alice, code=1)
    assert "has no keys, or is locked" in refused.stderr
    assert world.tcp(world.client, 22) == "filtered"
    agent.add(str(mine))
    assert world.knock(alice, "--check", code=OPEN).stdout.startswith("open\n")
    assert world.tcp(world.client, 22) == "open"
    assert world.tcp(world.stranger, 22) == "filtered"
    assert [session["ip"] for session in world.sessions()] == [CLIENT[4]]


def test_a_key_that_was_declined_opens_nothing(
    world: ServerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = new_key(tmp_path / "id")
    alice = world.add("alice", "--pubkey", mine.with_suffix(".pub").read_text())
    world.start()
    with ssh_agent(program(tmp_path / "confirm", "exit 1")) as careful:
        careful.add("-c", str(mine))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(careful.path))
        assert "refused to sign" in world.knock(alice, code=1).stderr
    assert world.tcp(world.client, KNOCK_PORT) == "filtered"
    assert "alice" not in world.log()


def test_a_revoked_ssh_key_opens_nothing(world: ServerWorld, agent: Agent, tmp_path: Path) -> None:
    mine = new_key(tmp_path / "id")
    alice = world.add("alice", "--pubkey", mine.with_suffix(".pub").read_text())
    agent.add(str(mine))
    world.start()
    world.knock(alice, "--check", code=OPEN)
    world.revoke("alice")
    assert world.knock(alice, "--check", code=SHUT).stdout == "closed\n"
