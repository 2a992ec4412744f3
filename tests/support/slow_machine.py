"""A `ServerWorld` for an emulated machine, where a Python alone takes two seconds to start."""

from pathlib import Path

from support.netns import until
from support.server import ServerWorld


class SlowWorld(ServerWorld):
    """The same server and the same tests; only a start is given longer."""

    def start(self, *words: str, **_: object) -> None:
        self.begin(*words)
        until(self._serves, 60)

    def knocked(self, profile: Path, *, version: int = 4) -> None:
        """Knock by hand and wait until the server has opened."""
        opened = self.log().count(": opened ")
        self.send(self.packet(profile), version=version)
        until(lambda: self.log().count(": opened ") > opened)
