"""What `serve` needs of the host, looked at before it touches anything; `check-config` tells the same by the same code.

`before_start` is what `serve` refuses to start by, and warns of, before it makes its first file. `once_it_serves` is
what a server says by itself when it has started and while it runs: here are the same functions, asked once, for a
command. Both only look. What changes in between is for the start itself to find.
"""

import os
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
from openme.server.redirected import redirect_warnings
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


@dataclass(frozen=True, slots=True)
class Findings:
    """`refusals`: why a server would not start, the first one it meets first. `warnings`: lines for the operator."""

    refusals: list[OpenmeError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def may_look(config: ServerConfig) -> bool:
    """Whether this user is one who could serve with this config, so that what he finds is what a server would."""
    return not kind_of(config.firewall).abilities.needs_net_admin or os.geteuid() == 0 or has_net_admin()


def before_start(config: ServerConfig, config_path: Path, held: Held | None = None) -> Findings:
    """What of the host keeps a server from starting, and what it warns of before it starts.

    `held`: what our own server has that runs on this `state_dir`; None where none runs or has answered.
    """
    found = Findings()
    ours = [config_path.resolve(), *([config.state_dir] if os.access(config.state_dir, os.F_OK) else [])]
    is_starting = held is None and place.is_locked(config.state_dir)

    def privilege() -> None:
        if kind_of(config.firewall).abilities.needs_net_admin and not has_net_admin():
            cure = "run it as root: sudo openme serve; or set 'firewall: memory' for a dry run"
            raise OpenmeError(NEEDS_NET_ADMIN, cure)

    def state_dir() -> None:
        refuse_unusable(config.state_dir)
        refusals, warnings = not_files(config.state_dir)
        found.refusals.extend(refusals)
        found.warnings.extend(warnings)
        if os.geteuid() == 0 and (fault := run_dir_fault()) is not None:
            found.warnings.append(fault)

    def user() -> None:
        known, warning = user_at_hand(config.run_as)
        if warning is not None:
            found.warnings.append(warning)
        elif not has(CAP_KILL):
            found.warnings.append(
                "without CAP_KILL the guardian is the listener's user: whoever took that over could end it first"
            )
        if known is not None:
            refuse_writable(known, ours)

    def knock_port() -> None:
        if is_starting or (held is not None and held.udp == config.udp_port):
            return
        refuse_unprivileged(config.udp_port, "knock port", "udp")
        if holders_of("udp", config.udp_port) is not None:
            raise PortTakenError("knock port", config.udp_port, "udp")

    def health_port() -> None:
        if not is_starting and _why_no_health_port(config, held) is None:
            refuse_unprivileged(config.health_port, "health port", "tcp")

    def firewall() -> None:
        if not is_starting and held is None:
            refuse_second_server(kind_of(config.firewall).abilities.lock)

    for look in (privilege, state_dir, user, knock_port, health_port, firewall):
        try:
            look()
        except OpenmeError as refusal:
            found.refusals.append(refusal)
    return found


def once_it_serves(config: ServerConfig, held: Held | None = None) -> Findings:
    """What a server with this config would say of the host once it has started: whose the health port is, whether the
    kernel takes its rules, and what of the host's firewall they do not get past.
    """
    found = Findings()
    if (why := _why_no_health_port(config, held)) is not None:
        found.warnings.append(worded(config, why))
    if has_net_admin():  # else there is one refusal already, and nothing else to be heard
        try:
            found.warnings.extend(kind_of(config.firewall).look(rules_for(config)))
        except OpenmeError as refusal:
            found.refusals.append(refusal)
    found.warnings.extend(redirect_warnings(config))
    found.warnings.extend((*leftover_warnings(config.firewall), *saved_rule_warnings(config.firewall)))
    return found


def _why_no_health_port(config: ServerConfig, held: Held | None) -> str | None:
    return why_not_ours(config, None if held is None else held.tcp)
