"""Completion in the real shells: somebody types at a terminal and presses Tab; the shell says what it made of it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openme.cli.commands import COMMANDS
from support.command import Place, place, until
from support.screen import Terminal, at_a_terminal

SHELLS = ("bash", "zsh", "fish")
SHOW = "show "
SHOWS = '#!/bin/sh\nprintf "%s\\0" "$@" >~/part && mv ~/part ~/read\n'
START_OF_LINE = "\x01"
TAB = "\t"
ODD = 'o\'dd $(touch pwned) "name" `touch pwned` ;*'
PROFILE = """
    server_host: host.example
    server_pubkey: {key}
    private_key: {key}
"""
KEY = "mRpfldGIu3mF4pRJE03OOevxyI4g8T9I4uBdDbIj5kk="


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    (tmp_path / ".openme").mkdir(0o700)
    profiles(tmp_path / ".openme/config.yaml", "office", "home")
    return made


def profiles(path: Path, *names: str) -> None:
    quoted = ["'" + name.replace("'", "''") + "'" for name in names]
    path.write_text("profiles:\n" + "".join(f"  {name}:{PROFILE.format(key=KEY)}" for name in quoted))
    path.chmod(0o600)


@contextmanager
def shell(name: str, here: Place) -> Iterator[Terminal]:
    """A shell at a terminal, with nothing of anybody's but this completion, as a user installs it."""
    programs = here.root / "bin"
    programs.mkdir()
    (programs / "show").write_text(SHOWS)
    (programs / "show").chmod(0o755)
    (programs / "openme").symlink_to(here.command()[0])
    environment = {**here.environment, "PATH": f"{programs}:{here.environment['PATH']}"}
    environment |= {"TERM": "xterm", "ZDOTDIR": str(here.root), "XDG_CONFIG_HOME": str(here.root / ".config")}
    text = here.ok("completion", name).out
    match name:
        case "bash":
            (here.root / "rc").write_text(f"{text}\nPS1='ready> '\n")
            words = ["bash", "--noprofile", "--rcfile", str(here.root / "rc"), "-i"]
        case "zsh":
            (here.root / "functions").mkdir()
            (here.root / "functions/_openme").write_text(text)
            (here.root / ".zshrc").write_text(
                "fpath=(~/functions $fpath)\nautoload -Uz compinit\ncompinit -u -D\nbindkey -e\nPS1='ready> '\n"
            )
            words = ["zsh", "-d", "-i"]
        case _:
            completions = here.root / ".config/fish/completions"
            completions.mkdir(parents=True)
            (completions / "openme.fish").write_text(text)
            prompt = "function fish_prompt; echo 'ready> '; end; function fish_greeting; end"
            words = ["fish", "--private", "-i", "-C", prompt]
    with at_a_terminal(words, environment, here.root) as terminal:
        terminal.until("ready> ")
        yield terminal


def completed(name: str, here: Place, typed: str) -> list[str]:
    """The words of the command line after Tab, as the shell itself reads them."""
    read = here.root / "read"
    with shell(name, here) as terminal:
        terminal.type(f"{typed}{TAB}{START_OF_LINE}{SHOW}\n")
        until(read.exists, "the shell has read the line")
    return read.read_text().split("\0")[:-1]


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("openme kno", ["knock"]),
        ("openme --log-level warning check-", ["--log-level", "warning", "check-config"]),
        ("openme knock --contin", ["knock", "--continuous"]),
        ("openme rotate ratc", ["rotate", "ratchet"]),
        ("openme init --firewall mem", ["init", "--firewall", "memory"]),
        ("openme --log-level warni", ["--log-level", "warning"]),
        ("openme knock off", ["knock", "office"]),
        ("openme knock --check off", ["knock", "--check", "office"]),
        ("openme ssh-config office ho", ["ssh-config", "office", "home"]),
        ("openme connect --profile off", ["connect", "--profile", "office"]),
        ("openme connect off", ["connect", "office"]),
        ("openme check-config --config here.y", ["check-config", "--config", "here.yaml"]),
        ("openme --client-config other.yaml knock ", ["--client-config", "other.yaml", "knock", "elsewhere"]),
        ("openme knock --client-config=other.yaml else", ["knock", "--client-config=other.yaml", "elsewhere"]),
        ("openme knock --client-config other.yaml else", ["knock", "--client-config", "other.yaml", "elsewhere"]),
    ],
)
def test_a_word_is_completed(here: Place, name: str, typed: str, expected: list[str]) -> None:
    profiles(here.root / "other.yaml", "elsewhere")
    (here.root / "here.yaml").touch()
    assert completed(name, here, typed) == ["openme", *expected]


@pytest.mark.parametrize("name", SHELLS)
def test_a_profiles_name_is_data_whatever_it_is(here: Place, name: str) -> None:
    """Quoted as the shell wants it; nothing in it is run."""
    profiles(here.root / ".openme/config.yaml", ODD)
    assert completed(name, here, "openme knock ") == ["openme", "knock", ODD]
    assert not (here.root / "pwned").exists()


@pytest.mark.parametrize("name", SHELLS)
def test_tab_offers_every_command(here: Place, name: str) -> None:
    with shell(name, here) as terminal:
        terminal.type(f"openme {TAB}{TAB}")
        for command in COMMANDS:
            terminal.until(rf"\b{command.name}\b")


@pytest.mark.parametrize("name", SHELLS)
def test_tab_offers_every_profile(here: Place, name: str) -> None:
    with shell(name, here) as terminal:
        terminal.type(f"openme status {TAB}{TAB}")
        for profile in ("home", "office"):
            terminal.until(profile)


def test_no_profiles_no_words_and_nothing_on_the_screen(here: Place) -> None:
    (here.root / ".openme/config.yaml").write_text("no: file\n")
    assert completed("bash", here, "openme knock of") == ["openme", "knock", "of"]


def test_the_names_alone_are_one_a_line(here: Place) -> None:
    assert here.ok("profiles", "--names").out == "office\nhome\n"
    assert here.ok("profiles", "--names", "home").out == "home\n"
    assert here.run("profiles", "--names", "--json").code == 2


def test_a_shell_that_is_none_of_these_is_wrong_usage(here: Place) -> None:
    done = here.run("completion", "tcsh")
    assert done.code == 2
    assert "bash" in done.error


@pytest.mark.parametrize("name", SHELLS)
def test_what_is_printed_is_what_the_shell_can_read(here: Place, name: str) -> None:
    text = here.ok("completion", name).out
    done = subprocess.run([name, "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
