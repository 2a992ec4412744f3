"""A server that is measured, openme's or another: what it is asked for, whatever it is."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import Used, proportional_set_size, tree, used

if TYPE_CHECKING:
    from bench.world import World


@dataclass(frozen=True)
class Subject:
    """`pid`: the first of its processes. `opened`: what a line of its log matches when a knock has opened."""

    name: str
    world: "World"
    port: int
    pid: int
    log: Path
    opened: bytes

    def used(self) -> Used:
        """Of the processor, by all its processes."""
        return used(self.pid)

    def memory(self) -> int:
        """Bytes of all its processes, what they share counted once."""
        return proportional_set_size(tree(self.pid))

    def follow(self) -> "Follower":
        """Its log from now on."""
        return Follower(self.log, self.opened)


class Follower:
    """The addresses that a server says it has opened for, each time it has done so."""

    def __init__(self, path: Path, opened: bytes) -> None:
        self._file = path.open("rb")
        self._file.seek(0, 2)
        self._opened = re.compile(opened)
        self._rest = b""
        self.count = 0
        """How many until the last look."""

    def close(self) -> None:
        """Look no more."""
        self._file.close()

    def look(self) -> list[str]:
        """Those since the last look."""
        text, _, self._rest = (self._rest + self._file.read()).rpartition(b"\n")
        found = [address.decode() for address in self._opened.findall(text)]
        self.count += len(found)
        return found
