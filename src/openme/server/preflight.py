"""What `serve` needs of the host, looked at before it touches anything; `check-config` tells the same by the same code.

`BEFORE_START` is what `serve` refuses to start by, and warns of, before it makes its first file. `ONCE_IT_SERVES` is
what a server says by itself when it has started and while it runs: here are the same functions, asked once, for a
command. Both are tables of looks, which only look; `openme doctor` takes the same ones. What changes in between is for
the start itself to find.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from openme.config.model import ServerConfig
from openme.control import place
from openme.errors import OpenmeError
from openme.firewall.registry import kind_of
from openme.keeper.rules import rules_for
from openme.processes.own_user import user_at_hand
from openme.processes.privileges import has, has_net_admin, refuse_writable
from openme.processes.roles import CAP_KILL
from openme.server.firewall_lock import refuse_second_server
from openme.server.health_port import why_not_ours, worded
from openme.server.leftovers import leftover_warnings
from openme.server.port_holder import holders_of
from openme.server.redirected import redirect_lines, untracked_lines
from openme.server.saved_rules import saved_rule_warnings
from openme.server.sockets import PortTakenError, refuse_unprivileged
from openme.server.state_dir import refuse_unusable
from openme.server.state_file import run_dir_fault
from openme.server.state_files import not_files

NEEDS_NET_ADMIN = "changing the firewall needs root (CAP_NET_ADMIN)"


class Held(NamedTuple):
    """The ports that our own running server has: its knock port, and the health port if it listens there."""

    udp: int
    tcp: int | None


class Asked(NamedTuple):
    """What the looks are about. `held`: what our own server has that runs on this `state_dir`; None where none runs or
    has answered. `is_starting`: whether one is about to.
    """

    config: ServerConfig
    config_path: Path
    held: Held | None
    is_starting: bool


Heard = OpenmeError | str
"""A refusal, or a warning in a line."""
PreflightLook = Callable[[Asked], Iterable[Heard]]


@dataclass(frozen=True, slots=True)
class Findings:
    """`refusals`: why a server would not start, the first one it meets first. `warnings`: lines for the operator."""

    refusals: list[OpenmeError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def may_look(config: ServerConfig) -> bool:
    """Whether this user is one who could serve with this config, so that what he finds is what a server would."""
    return not kind_of(config.firewall).abilities.needs_net_admin or os.geteuid() == 0 or has_net_admin()


def asked(config: ServerConfig, config_path: Path, held: Held | None = None) -> Asked:
    """What the looks are about on this host now."""
    return Asked(config, config_path, held, held is None and place.is_locked(config.state_dir))


def before_start(config: ServerConfig, config_path: Path, held: Held | None = None) -> Findings:
    """What of the host keeps a server from starting, and what it warns of before it starts."""
    return _findings(BEFORE_START, asked(config, config_path, held))


def once_it_serves(config: ServerConfig, config_path: Path, held: Held | None = None) -> Findings:
    """What a server with this config would say of the host once it has started: whose the health port is, whether the
    kernel takes its rules, and what of the host's firewall they do not get past.
    """
    return _findings(ONCE_IT_SERVES, asked(config, config_path, held))


def heard(look: PreflightLook, about: Asked) -> Iterator[Heard]:
    """All that a look has to say; a refusal that it raises is the last."""
    try:
        yield from look(about)
    except OpenmeError as refusal:
        yield refusal


def _findings(looks: Mapping[str, PreflightLook], about: Asked) -> Findings:
    found = Findings()
    for look in looks.values():
        for item in heard(look, about):
            if isinstance(item, OpenmeError):
                found.refusals.append(item)
            else:
                found.warnings.append(item)
    return found


def _privilege(about: Asked) -> Iterator[Heard]:
    if kind_of(about.config.firewall).abilities.needs_net_admin and not has_net_admin():
        cure = "run it as root: sudo openme serve; or set 'firewall: memory' for a dry run"
        yield OpenmeError(NEEDS_NET_ADMIN, cure)


def _state_dir(about: Asked) -> Iterator[Heard]:
    refuse_unusable(about.config.state_dir)
    refusals, warnings = not_files(about.config.state_dir)
    yield from refusals
    yield from warnings
    if os.geteuid() == 0 and (fault := run_dir_fault()) is not None:
        yield fault


def _user(about: Asked) -> Iterator[Heard]:
    state_dir = about.config.state_dir
    known, warning = user_at_hand(about.config.run_as)
    if warning is not None:
        yield warning
    elif not has(CAP_KILL):
        yield "without CAP_KILL the guardian is the listener's user: whoever took that over could end it first"
    if known is not None:
        refuse_writable(known, [about.config_path.resolve(), *([state_dir] if os.access(state_dir, os.F_OK) else [])])


def _knock_port(about: Asked) -> Iterator[Heard]:
    port = about.config.udp_port
    if about.is_starting or (about.held is not None and about.held.udp == port):
        return
    refuse_unprivileged(port, "knock port", "udp")
    if holders_of("udp", port) is not None:
        yield PortTakenError("knock port", port, "udp")


def _low_health_port(about: Asked) -> Iterator[Heard]:
    if not about.is_starting and _why_no_health_port(about) is None:
        refuse_unprivileged(about.config.health_port, "health port", "tcp")
    yield from ()


def _second_server(about: Asked) -> Iterator[Heard]:
    if not about.is_starting and about.held is None:
        refuse_second_server(kind_of(about.config.firewall).abilities.lock)
    yield from ()


def _health_port(about: Asked) -> Iterator[Heard]:
    # Of a server that holds the lock and has not answered it is not known which port it has.
    if not about.is_starting and (why := _why_no_health_port(about)) is not None:
        yield worded(about.config, why)


def _firewall(about: Asked) -> Iterator[Heard]:
    if has_net_admin():  # else there is one refusal already, and nothing else to be heard
        yield from kind_of(about.config.firewall).look(rules_for(about.config))


def _why_no_health_port(about: Asked) -> str | None:
    return why_not_ours(about.config, None if about.held is None else about.held.tcp)


BEFORE_START: Mapping[str, PreflightLook] = {
    "privilege": _privilege,
    "state_dir": _state_dir,
    "user": _user,
    "knock_port": _knock_port,
    "low_health_port": _low_health_port,
    "second_server": _second_server,
}
ONCE_IT_SERVES: Mapping[str, PreflightLook] = {
    "health_port": _health_port,
    "firewall": _firewall,
    "redirected": lambda about: redirect_lines(about.config),
    "untracked": lambda about: untracked_lines(about.config),
    "leftovers": lambda about: leftover_warnings(about.config.firewall),
    "saved_rules": lambda about: saved_rule_warnings(about.config.firewall),
}
