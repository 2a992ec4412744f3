"""The way to the server of a large file: found without its clients, and never wrong for that."""

from pathlib import Path

import pytest

from openme.config import edit, nodes
from openme.config.edit import state_dir_of

DIRECTORY = "/srv/state"


def state_dir(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(state_dir_of(path))


@pytest.mark.parametrize("clients", ["  alice: {ed25519_pubkey: x}\n", "  alice: [\n", "server: {state_dir: /x}\n"])
def test_what_stands_above_the_clients_is_found_without_a_look_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: str
) -> None:
    read: list[str] = []

    def noted(text: str, path: Path) -> object:
        read.append(text)
        return nodes.compose(text, path)

    monkeypatch.setattr(edit, "compose", noted)
    above = f"server:\n  state_dir: {DIRECTORY}\n"
    assert state_dir(tmp_path, f"{above}clients:\n{clients}") == DIRECTORY
    assert read == [above]


@pytest.mark.parametrize(
    "text",
    [
        f"clients:\n  a: {{b: &place {DIRECTORY}}}\nserver:\n  state_dir: *place\n",
        f"x: &place /old\nclients:\n  a: &place {DIRECTORY}\nserver: {{state_dir: *place}}\n",
        f"clients:\n  a: &s {{state_dir: {DIRECTORY}}}\nserver: *s\n",
        f"server: {{state_dir: {DIRECTORY}}}\nclients: {{}}\n",
        f"clients:\n  a: 1\nserver: {{state_dir: {DIRECTORY}}}\n",
        f'server: {{host: "a\n\nclients:\n ", state_dir: {DIRECTORY}, run_as: "\n"}}\n',
        f'clients:\n  a: "\n\nserver: {{state_dir: /x}}\n"\nserver: {{state_dir: {DIRECTORY}}}\n',
    ],
    ids=["an anchor", "one that is set anew", "a section", "in braces", "below", "in a text above", "in a text below"],
)
def test_what_does_not_is_found_all_the_same(tmp_path: Path, text: str) -> None:
    assert state_dir(tmp_path, text) == DIRECTORY


@pytest.mark.parametrize(
    "text", ["clients:\n  a: 1\n", "server: 1\nclients:\n  state_dir: /x\n", "server: {}\nclients:\n"]
)
def test_what_no_file_names_is_the_usual_place(tmp_path: Path, text: str) -> None:
    assert state_dir(tmp_path, text) == "/var/lib/openme"
