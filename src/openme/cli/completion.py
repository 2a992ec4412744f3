"""`openme completion`: prints a file that was made from the commands before openme was packed (tools/reference)."""

import argparse
from pathlib import Path

from openme.cli.commands import Action
from openme.cli.output import answer_lines

SHELLS = ("bash", "fish", "zsh")
"""Each is the name of its file, too."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "For good: openme completion bash > ~/.local/share/bash-completion/completions/openme\n"
        "          openme completion fish > ~/.config/fish/completions/openme.fish\n"
        "          openme completion zsh > DIRECTORY/_openme, a directory of $fpath, before compinit in ~/.zshrc"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _run(args: argparse.Namespace) -> int:
    path = Path(__file__).parents[1] / "completions" / args.shell
    answer_lines(path.read_text(encoding="utf-8").rstrip("\n"))
    return 0


COMPLETION = Action(_arguments, _run)
