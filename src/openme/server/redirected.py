"""What `check-config` says of managed ports that the host sends elsewhere or does not track; `serve` says it too."""

import socket

from openme.config.model import ServerConfig
from openme.firewall.registry import kind_of


def redirect_warnings(config: ServerConfig) -> tuple[str, ...]:
    """One line for each such port; none where there is no nf_tables or this process may not look."""
    if not kind_of(config.firewall).abilities.among_host_rules or not hasattr(socket, "AF_NETLINK"):
        return ()
    # Imported here, since only Linux has what it needs.
    from openme.firewall.redirects import redirects_now, untracked_now  # noqa: PLC0415

    managed = config.managed_ports
    return tuple(str(found) for found in (*redirects_now(managed), *untracked_now(managed)))
