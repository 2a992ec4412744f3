"""Every file that is made, and where it lies."""

from pathlib import Path

from tools.reference.bash import bash
from tools.reference.fish import fish
from tools.reference.manual import pages
from tools.reference.words import common_options, every_command
from tools.reference.zsh import zsh

ROOT = Path(__file__).parents[2]


def made() -> dict[str, str]:
    """Text by path. The pages of commands that are there no more are to be deleted by hand, which a test says."""
    common, commands = common_options(), tuple(every_command())
    return {
        "src/openme/completions/bash": bash(common, commands),
        "src/openme/completions/zsh": zsh(common, commands),
        "src/openme/completions/fish": fish(common, commands),
        **{f"packaging/man/man{name[-1]}/{name}": text for name, text in pages(common, commands).items()},
    }
