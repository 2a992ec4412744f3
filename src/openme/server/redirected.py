"""What `check-config` says of managed ports that the host sends elsewhere; `serve` says it by the firewall itself."""

import socket

from openme.config.model import ServerConfig


def redirect_warnings(config: ServerConfig) -> tuple[str, ...]:
    """One line for each such port; none where there is no nf_tables or this process may not look."""
    if config.firewall == "memory" or not hasattr(socket, "AF_NETLINK"):
        return ()
    # Imported here, since only Linux has what it needs.
    from openme.firewall.redirects import redirects_now  # noqa: PLC0415

    return tuple(str(redirect) for redirect in redirects_now(config.managed_ports))
