"""Whether the server runs, by which file, and who can knock."""

from collections.abc import Iterator
from datetime import UTC, datetime

from openme.config.who_can_knock import CURE, nobody_can_knock
from openme.control.asking import NoServerError, ask
from openme.control.requests import Sessions
from openme.doctor.looks import Finding
from openme.doctor.server.subject import Server
from openme.errors import OpenmeError
from openme.firewall.registry import kind_of
from openme.server.interfaces import require_interface

NOT_SERVING = "not_serving"
NO_REPLY = "no_reply"
OTHER_FILE = "other_file"
NOT_IN_FORCE = "config_not_in_force"
CLIENT_ENTRY = "client_entry"
NOBODY = "nobody_can_knock"
DRY_RUN = "dry_run"
INTERFACE = "interface"
KERNEL_FILTER = "kernel_filter"
_FILTER_WORDS = "the kernel filter "
_SECONDS = 4.0


def serving(server: Server) -> Iterator[Finding]:
    """Whether one answers."""
    if isinstance(server.reply, NoServerError):
        yield Finding(NOT_SERVING, server.reply.message, "sudo systemctl start openme, or sudo openme serve")
    elif isinstance(server.reply, OpenmeError):
        yield Finding(
            NO_REPLY, server.reply.message, server.reply.hint or "journalctl -u openme; sudo systemctl restart openme"
        )


def config(server: Server) -> Iterator[Finding]:
    """Whether what stands in the file is what the server goes by."""
    for fault in server.config.client_faults:
        yield Finding(CLIENT_ENTRY, str(fault), fault.hint or "correct the entry; until then the client is disabled")
    if isinstance(server.reply, OpenmeError):
        return
    if server.reply.same is False:
        yield Finding(
            OTHER_FILE,
            f"the running server reads {server.reply.file}, and {server.about.config_path} is another file",
            f"openme --config {server.reply.file} doctor, or restart the server with this one",
        )
    elif server.reply.fault is not None:
        yield Finding(
            NOT_IN_FORCE,
            f"the running server keeps its last good config: {server.reply.fault}",
            "correct the file: openme check-config",
        )


def clients(server: Server) -> Iterator[Finding]:
    """Whether anybody can knock at all."""
    if (why := nobody_can_knock(server.config, datetime.now(UTC))) is not None:
        yield Finding(NOBODY, f"nobody can open a port: {why}", CURE)


def firewall(server: Server) -> Iterator[Finding]:
    """Whether the firewall that the config names lets anybody in."""
    if not kind_of(server.config.firewall).abilities.lets_in:
        yield Finding(
            DRY_RUN,
            f"firewall: {server.config.firewall} is a dry run: nothing is hidden, and no door opens",
            "write 'firewall: nft', and restart the server",
        )


def interface(server: Server) -> Iterator[Finding]:
    """Whether packets come in by the config's interface: by the running server's own word, where one runs."""
    if server.runs:
        for warning in _warnings(server):
            if not warning.startswith(_FILTER_WORDS):
                yield Finding(INTERFACE, warning, "correct interface: in the config, or leave it out")
    elif (name := server.config.interface) is not None:
        try:
            require_interface(name, server.config.firewall)
        except OpenmeError as error:
            yield Finding(INTERFACE, error.message, error.hint or "correct interface: in the config")


def kernel_filter(server: Server) -> Iterator[Finding]:
    """Whether the kernel drops noise."""
    for warning in _warnings(server):
        if warning.startswith(_FILTER_WORDS):
            yield Finding(KERNEL_FILTER, warning, "docs/operating.md, The kernel filter")


def _warnings(server: Server) -> list[str]:
    """What `openme sessions` warns of."""
    reply = ask(server.config.state_dir, Sessions(), timeout=_SECONDS)
    return [str(warning) for warning in reply.warnings]
