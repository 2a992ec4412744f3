"""What is wrong with a file, in words for the user."""

from pathlib import Path
from typing import NamedTuple

from openme.errors import OpenmeError


class ConfigFault(NamedTuple):
    """One thing wrong with a file.

    `line` counts from 1, and 0 stands for the file as a whole; `key` is the way to the value (`clients.alice.expires`),
    or empty; `message` says what was expected and never repeats a value: it might be a key pasted in the wrong place.
    """

    path: Path
    line: int
    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(OpenmeError):
    """A file that cannot be used. The message is the first fault's line; `faults` holds all that were found."""

    def __init__(self, *faults: ConfigFault) -> None:
        super().__init__(str(faults[0]), faults[0].hint)
        self.faults: tuple[ConfigFault, ...] = faults
