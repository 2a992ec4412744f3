"""`openme ssh-config`: the stanzas that make ssh go through `openme connect`."""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from openme.cli.commands import Action
from openme.cli.output import answer_lines, hint, warn
from openme.client import Profile, choose_profile, load_profiles
from openme.errors import OpenmeError
from openme.visible import visible

_PLAIN = re.compile(r"[A-Za-z0-9_@%+:,./-]")
_HOST = re.compile(r"[\w:][\w.:%-]*")
"""What ssh takes as a host for itself: no wildcard, nothing that it or a shell reads as something else."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'openme ssh-config > ~/.ssh/openme.conf writes the file; the line "Include openme.conf", before any Host in\n'
        "~/.ssh/config, has ssh, scp, sftp, rsync and git read it."
    )
    parser.add_argument("profiles", nargs="*", metavar="NAME", help="for these profiles (all)")


def _run(args: argparse.Namespace) -> int:
    """Print one stanza for each profile."""
    config = load_profiles(args.client_config)
    profiles = [choose_profile(config, name) for name in args.profiles] or list(config.profiles.values())
    if not profiles:
        raise OpenmeError(f"{config.path} holds no profiles", "on the server: openme add NAME")
    command = [*own_command(sys.argv[0]), *_file_option(args.client_config)]
    for word in command:
        if visible(word) != word:
            raise OpenmeError(f"{word}: ssh_config(5) takes no path with such characters", "rename it")
    text, left_out = stanzas(profiles, command)
    for name in left_out:
        warn(f"profile {name}: ssh takes neither its name nor its server_host as a host")
    if not text:
        raise OpenmeError("there is no stanza to print", "give the profiles names of letters, digits, - and .")
    answer_lines(text)
    hint('as ~/.ssh/openme.conf it is in force with the line "Include openme.conf" before any Host in ~/.ssh/config')
    return 0


def own_command(started_as: str) -> list[str]:
    """How to start this program from anywhere: its path as it was found, or Python with the module's name."""
    path = Path(started_as).absolute()
    return [sys.executable, "-m", "openme"] if path.name == "__main__.py" else [str(path)]


def _file_option(path: Path | None) -> list[str]:
    return [] if path is None else ["--client-config", str(path.absolute())]


def stanzas(profiles: Iterable[Profile], command: Sequence[str]) -> tuple[str, list[str]]:
    """The text for ssh_config(5), and the names of the profiles that have no place in one.

    A profile is reached by its name, unless that is `default`, and by its server_host, if no profile before has that.
    """
    taken: set[str] = set()
    parts: list[str] = []
    left_out: list[str] = []
    for profile in profiles:
        names = [profile.server_host] if profile.name == "default" else [profile.name, profile.server_host]
        patterns = [name for name in dict.fromkeys(names) if _HOST.fullmatch(name) and name not in taken]
        if not patterns or not _HOST.fullmatch(profile.server_host):
            left_out.append(profile.name)
            continue
        taken.update(patterns)
        words = [*command, "connect", "--profile", profile.name]
        parts.append(
            f"Host {' '.join(patterns)}\n"
            f"    HostName {_doubled(profile.server_host)}\n"
            f"    ProxyCommand {' '.join(map(quoted, words))} %h %p"
        )
    return "\n\n".join(parts), left_out


def _doubled(text: str) -> str:
    """As ssh writes a percent sign that is none of its own."""
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """A word of ProxyCommand. ssh looks for quotes in the line and for percent signs, then a shell reads it.

    A backslash before each character that is not plain is read alike by both, and by every shell.
    """
    if os.name == "nt":
        return _doubled(f'"{word}"' if " " in word else word)
    return "".join(c if _PLAIN.fullmatch(c) else f"\\{c}" for c in _doubled(word))


SSH_CONFIG = Action(_arguments, _run)
