"""Whose the health port is: openme's own, or another program's, as on hosts where the existing server ran before.

A config that was written for the existing server often names a service's port there, 22 above all, since its `status`
worked no other way. openme listens only where nothing says that the port is a service's: no group, client or `hide:`
names it, it is not SSH's, no service was seen on it at an earlier start, and nobody holds it now. What it gives up by
that is receipts; what it would take otherwise is a service's port, when it is started first at boot
(docs/decisions/0015-whose-the-health-port-is.md).
"""

import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from openme.config.model import ServerConfig
from openme.files import replace_file
from openme.ports import common, port
from openme.server.hidden_ports import namers
from openme.server.port_holder import holders_of, listening_users
from openme.server.sockets import PortTakenError, bind_health

FILE_NAME = "others_health_port"
SSH = 22
_LAST_SYSTEM_USER = 999  # Debian's and others' bound between services' users and people's

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MAX_BYTES = 64

_log = logging.getLogger("openme.server")


def why_not_ours(config: ServerConfig, held: int | None = None) -> str | None:
    """Why openme does not listen on the health port, in a few words; None where it may.

    `held`: the port on which our own server listens already.
    """
    number = config.health_port
    if (why := why_by_file(config)) is not None:
        return why
    if number != held and listening_users(number):
        return f"it is in use by {holders_of('tcp', number) or 'another program'}"
    if is_remembered(config.state_dir, number):
        return f"a service had it at an earlier start; if it shall be openme's: rm {config.state_dir / FILE_NAME}"
    return None


def why_by_file(config: ServerConfig) -> str | None:
    """The same as far as the config alone tells."""
    if config.health_port_is_named:
        own = [port("tcp", config.health_port)]
        return f"named by {namers(config, own) if common(own, config.named_ports) else 'hide:'}"
    return "it is SSH's" if config.health_port == SSH else None


def worded(config: ServerConfig, why: str) -> str:
    """The line for log and operator."""
    hidden = "hidden, since drop_ports is true" if config.drop_ports else "not hidden, since drop_ports is false"
    return (
        f"openme does not listen on health_port {config.health_port}/tcp ({why}): there are no receipts, `status` shows"
        f" whether that service is reached, and the port is {hidden}; every knock opens it, but for clients with"
        " disable_health_port: true (to have receipts: a health_port of its own)"
    )


def own_health_port(config: ServerConfig) -> tuple[socket.socket | None, str | None]:
    """The health port, bound; or None, and why it is not ours. OpenmeError where it cannot be had for another reason.

    That a service has it is remembered: at the next boot it may be openme that is started first.
    """
    why = why_not_ours(config)
    if any(uid <= _LAST_SYSTEM_USER for uid in listening_users(config.health_port)):
        _remember(config.state_dir, config.health_port)
    if why is not None:
        return None, why
    try:
        return bind_health(config.health_port), None
    except PortTakenError as taken:  # by somebody who has come just now, or by an outgoing connection
        return None, taken.by


def is_remembered(state_dir: Path, number: int) -> bool:
    """Whether a service was seen on this port at an earlier start."""
    with suppress(OSError), os.fdopen(os.open(state_dir / FILE_NAME, _READ), "rb") as file:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(_MAX_BYTES) == _content(number)
    return False


def _remember(state_dir: Path, number: int) -> None:
    if is_remembered(state_dir, number):
        return
    try:
        replace_file(state_dir / FILE_NAME, _content(number))
    except OSError as error:
        _log.warning("that a service has %d/tcp cannot be remembered: %s", number, error.strerror)


def _content(number: int) -> bytes:
    return f"{number}/tcp\n".encode("ascii")
