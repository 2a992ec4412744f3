"""What is made from the commands, in the repository and in the wheel: as the commands are now."""

import tomllib
from pathlib import Path

import pytest
from tools.reference.files import ROOT, made
from tools.reference.words import every_command

from openme.cli.commands import COMMANDS
from openme.cli.completion import SHELLS

MADE = made()
WORDS = {words.command.name: words for words in every_command()}


@pytest.mark.parametrize("name", sorted(MADE))
def test_what_is_made_from_the_commands_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == MADE[name], "run: make reference"


def test_every_file_that_is_there_is_made() -> None:
    there = {path for path in (ROOT / "src/openme/completions").iterdir() if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in there} == {n for n in MADE if n.startswith("src/")}
    assert {path.name for path in there} == set(SHELLS)


def test_the_wheel_has_every_file_where_shells_look() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert set(shared) == {name for name in MADE if name.startswith("src/")}
    assert all(Path(place).parts[0] == "share" for place in shared.values())


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_option_of_a_command_is_completed(command: str) -> None:
    """Those of its help, by the parser itself."""
    for option in WORDS[command].options:
        for name in option.names:
            assert name in MADE["src/openme/completions/bash"]
            assert f"{name}" in MADE["src/openme/completions/zsh"]
            flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            lines = MADE["src/openme/completions/fish"].splitlines()
            assert any(f"__openme_command {command}'" in line and flag in line for line in lines)
