"""What is made from the commands, in the repository and in the wheel: as the commands are now."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest
from tools.reference.files import ROOT, made
from tools.reference.manual import _escaped, _text
from tools.reference.words import every_command

from openme.cli.commands import COMMANDS
from openme.cli.completion import SHELLS
from openme.cli.main import parser_of
from openme.config.profile_keys import PROFILE_KEYS
from openme.config.server_keys import CLIENT_KEYS, SERVER_KEYS

MADE = made()
WORDS = {words.command.name: words for words in every_command()}


@pytest.mark.parametrize("name", sorted(MADE))
def test_what_is_made_from_the_commands_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == MADE[name], "run: make reference"


def test_every_file_that_is_there_is_made() -> None:
    folders = (ROOT / "src/openme/completions", ROOT / "packaging/man")
    there = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in there} == set(MADE)
    assert {path.name for path in there if path.is_relative_to(folders[0])} == set(SHELLS)


def test_the_wheel_has_every_file_where_shells_look() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert set(shared) == {*(name for name in MADE if name.startswith("src/")), "packaging/man"}
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


def typed(roff: str) -> str:
    """A page's text as somebody reads it, near enough to look for words in it."""
    return re.sub(r"\\f[BIR]", "", roff).replace(r"\-", "-")


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_option_and_argument_of_a_command_is_in_its_page(command: str) -> None:
    """Those of its help, by the parser itself."""
    parser = parser_of(WORDS[command].command, WORDS[command].command.load(), argparse.HelpFormatter)
    page = typed(MADE[f"packaging/man/man1/openme-{command}.1"])
    for action in parser._actions:  # argparse has no other list of them
        names = action.option_strings or [str(action.metavar or "{" + ",".join(action.choices or ()) + "}")]
        for name in names:
            assert re.search(rf"(?m)^(?:.*, )?{re.escape(name)}(?:,| |$)", page), name


def test_every_command_and_key_has_its_place_in_a_page() -> None:
    overview = typed(MADE["packaging/man/man1/openme.1"])
    assert [c.name for c in COMMANDS if f".BR openme-{c.name} (1)" not in overview] == []
    for page, keys in (("openme-config", (*SERVER_KEYS, *CLIENT_KEYS)), ("openme-client-config", PROFILE_KEYS)):
        text = typed(MADE[f"packaging/man/man5/{page}.5"])
        assert [key.name for key in keys if f"\n.TP\n{key.name}\n" not in text] == []


def test_what_a_formatter_would_take_for_its_own_is_escaped() -> None:
    assert _escaped(r"a\b 'c' ~x-y …") == r"a\eb \(aqc\(aq \(tix\-y \[u2026]"
    assert _text(".openme") == [r"\&.openme"]
