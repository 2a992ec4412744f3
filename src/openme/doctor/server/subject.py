"""What the server's looks are about: a config, this host, and the server that runs on it, if one does."""

from dataclasses import dataclass
from pathlib import Path

from openme.config.content_hash import content_hash
from openme.config.model import ServerConfig
from openme.control import asking
from openme.control.requests import Reload, ReloadReply
from openme.errors import OpenmeError
from openme.server.preflight import Asked, Held, asked

_SECONDS = 4.0


@dataclass(frozen=True)
class Server:
    """`reply`: what the running server says of its file, or why there is none. `process`: the one that listens there,
    as far as it is seen from here. `about`: what the looks before a start are about. `ntp`: whom to ask for the time.
    """

    config: ServerConfig
    reply: ReloadReply | OpenmeError
    process: int | None
    about: Asked
    ntp: str

    @property
    def runs(self) -> bool:
        """Whether a server has answered."""
        return isinstance(self.reply, ReloadReply)


def subject(config: ServerConfig, path: Path, ntp: str) -> Server:
    """Ask the server that runs on this config's `state_dir`."""
    reply: ReloadReply | OpenmeError
    try:
        reply = asking.ask(config.state_dir, Reload(sha256=content_hash(path)), timeout=_SECONDS)
    except OpenmeError as error:
        reply = error
    except (OSError, ValueError) as error:
        reply = OpenmeError(str(error))
    held = None
    if isinstance(reply, ReloadReply) and reply.ports:
        held = Held(reply.ports["udp"], reply.ports["tcp"])
    process = asking.server_process(config.state_dir) if held else None
    return Server(config, reply, process, asked(config, path, held), ntp)
