"""Knocks as somebody on the path records them, made by the real commands; needs no root."""

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from openme.client.knock import build
from openme.config.model import ServerConfig
from openme.config.profile import load_client_config
from openme.config.profile_model import Profile
from openme.config.server import load_server_config
from openme.wire.knock import IPAddress
from support.server import OPENME


@dataclass(frozen=True)
class Recorder:
    """A server's files and whoever stands between it and its clients."""

    folder: Path
    ear: socket.socket

    @property
    def config(self) -> ServerConfig:
        """The server's file, private key included: what a thief of the server has."""
        return load_server_config(self.folder / "config.yaml")

    def profile(self, name: str) -> Profile:
        """A client's file."""
        return next(iter(load_client_config(self.folder / f"{name}.yaml").profiles.values()))

    def openme(self, *words: object) -> str:
        """Run a command to its end."""
        return subprocess.run([OPENME, *map(str, words)], capture_output=True, text=True, check=True, timeout=30).stdout

    def add(self, name: str, *words: str) -> None:
        """Register a client."""
        path = self.folder / f"{name}.yaml"
        path.touch(mode=0o600)
        path.write_text(self.openme("--config", self.folder / "config.yaml", "add", name, *words))

    def knock(self, name: str, *words: str) -> bytes:
        """One knock of a client, as it stands on the wire."""
        self.openme("--client-config", self.folder / f"{name}.yaml", "knock", *words)
        return self.ear.recv(2000)

    def knocks(self, name: str, count: int, now_ns: int, target: IPAddress | None = None) -> list[bytes]:
        """Knocks that all say the same, more than commands could send in good time, by the function that they call."""
        profile = self.profile(name)
        return [build(profile, target, now_ns).datagram for _ in range(count)]


def recorder(folder: Path, *words: str) -> Recorder:
    """A server on loopback that hears everything and does nothing, with the clients alice and bob.

    `words` are further words of `openme add`.
    """
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.bind(("127.0.0.1", 0))
    ear.settimeout(10)
    made = Recorder(folder, ear)
    made.openme(
        *("--config", folder / "config.yaml", "init", "--firewall", "memory", "--state-dir", folder / "state"),
        *("--server", "127.0.0.1", "--port", ear.getsockname()[1]),
    )
    for name in ("alice", "bob"):
        made.add(name, *words)
    return made
