"""`openme unhide`."""

import argparse
import time
from contextlib import ExitStack

from openme.cli.commands import Action
from openme.cli.output import note
from openme.cli.running_server import RunningServer, another_serves, refuse_another
from openme.closest import closest
from openme.config.edit import unhide_ports
from openme.config.model import ServerConfig
from openme.config.server import load_server_config
from openme.control import asking
from openme.control.requests import Unhide
from openme.errors import OpenmeError
from openme.ports import PortRange, common, merged, parse_port_spec
from openme.server.hidden_ports import FILE_NAME, kept_ports, refuse_named, unnamed, write_kept_without
from openme.server.start import state_lock

_PATIENCE = 120.0  # seconds for a server that is still reading its clients
_POLL = 0.3


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", metavar="PORT", help="a port such as 22/tcp, 80 (TCP and UDP) or 8080-8090/tcp")


def _run(args: argparse.Namespace) -> int:
    """Take a port that nobody names any more off `hide:` and off what the server keeps hidden."""
    config = load_server_config(args.config)
    kept, fault = kept_ports(config)
    known = [str(item) for item in unnamed(config, kept)]
    try:
        ports = merged(parse_port_spec(args.port))
    except ValueError as error:
        raise OpenmeError(f"PORT: {error}", _nearest(args.port, known), exit_code=2) from None
    refuse_named(config, ports)
    if not common(ports, (*kept, *config.hide)):
        if fault is not None:
            raise OpenmeError(fault)
        listed = f"hidden, but no longer in the config: {', '.join(known)}" if known else "every hidden port is named"
        raise OpenmeError(f"{args.port} is not hidden", _nearest(args.port, known) or listed)
    if common(ports, config.hide):
        unhide_ports(args.config, ports)
        note(f"{args.config}: taken off hide: {_listed(common(ports, config.hide))}")
    _tell(config, ports, _listed(common(ports, (*kept, *config.hide))))
    return 0


def _tell(config: ServerConfig, ports: tuple[PortRange, ...], what: str) -> None:
    """Have the running server show the ports, or take them out of the set where none runs; and say so."""
    try:
        _ask(config, ports)
    except asking.NoServerError:
        _take_out(config, ports)
        if (other := another_serves(config.state_dir)) is not None:
            raise OpenmeError(f"{other.message}: whether it hides {what} is not known", other.hint) from None
        note(f"{what} is not hidden any more: no server is running, the next one shows it")
    else:
        note(f"{what} is not hidden any more")


def _take_out(config: ServerConfig, ports: tuple[PortRange, ...]) -> None:
    with ExitStack() as stack:
        if (config.state_dir / FILE_NAME).exists():
            try:
                # A server that starts meanwhile must not write the old set again.
                stack.enter_context(state_lock(config.state_dir))
            except OpenmeError:
                raise OpenmeError("a server is just starting or ending", "run it again in a moment") from None
            write_kept_without(config.state_dir, ports)


def _ask(config: ServerConfig, ports: tuple[PortRange, ...]) -> None:
    server = RunningServer(config.path, config.state_dir)
    deadline = time.monotonic() + _PATIENCE
    while (reply := server.exchange(Unhide(ports=ports))).reading:
        if time.monotonic() >= deadline:
            raise OpenmeError("the server is still reading the changed config", "run it again in a minute")
        time.sleep(_POLL)
    refuse_another(config.path, reply, "the server shows the ports now, and hides them again when it reads its file")


def _nearest(text: str, known: list[str]) -> str | None:
    """The hint with the hidden port that is written most like `text`, whole or by one of its numbers."""
    spellings = {spelling: item for item in known for spelling in {item, *item.partition("/")[0].split("-")}}
    close = closest(text.lower(), spellings)
    return None if close is None else f"did you mean {spellings[close]}?"


def _listed(ports: tuple[PortRange, ...]) -> str:
    return ", ".join(map(str, ports))


UNHIDE = Action(_arguments, _run)
