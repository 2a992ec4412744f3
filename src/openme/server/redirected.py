"""What `check-config` says of managed ports that the host sends elsewhere or does not track; `serve` says it too."""

import socket

from openme.config.model import ServerConfig
from openme.firewall.registry import kind_of


def redirect_lines(config: ServerConfig) -> tuple[str, ...]:
    """One line for each port that is sent elsewhere; none where there is no nf_tables or this process may not look."""
    if not _may_be_asked(config):
        return ()
    # Imported here, since only Linux has what it needs.
    from openme.firewall.redirects import redirects_now  # noqa: PLC0415

    return tuple(map(str, redirects_now(config.managed_ports)))


def untracked_lines(config: ServerConfig) -> tuple[str, ...]:
    """The same of each port whose packets are not tracked."""
    if not _may_be_asked(config):
        return ()
    from openme.firewall.redirects import untracked_now  # noqa: PLC0415

    return tuple(map(str, untracked_now(config.managed_ports)))


def _may_be_asked(config: ServerConfig) -> bool:
    return kind_of(config.firewall).abilities.among_host_rules and hasattr(socket, "AF_NETLINK")
