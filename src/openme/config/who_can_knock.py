"""Whether anybody can open what a config hides: if not, whoever starts the server shuts himself out."""

from datetime import datetime

from openme.config.model import ServerConfig

CURE = "openme add NAME --out NAME.yaml, and bring that file to the client first"


def nobody_can_knock(config: ServerConfig, now: datetime) -> str | None:
    """Why no client can open a port under this config at the time `now` (UTC); None if one can.

    `config` is one from which revoked clients and those at fault are gone already.
    """
    if not config.clients:
        disabled = len(config.client_faults)
        return "no client is registered" if not disabled else f"every client is disabled ({disabled})"
    is_current = speaks = False
    for client in config.clients.values():  # the first one that can is enough, among any number
        if client.expires is not None and client.expires <= now:
            continue
        is_current = True
        if not client.protocols.isdisjoint(config.protocols):
            speaks = True
            if client.ports:
                return None
    if not is_current:
        return "the right of every client has expired"
    if not speaks:
        return "no client may speak a wire version that the server accepts"
    return "no client may open a port"


def hides_without_clients(config: ServerConfig, now: datetime) -> str | None:
    """The warning for a server that hides ports which nobody can open; None where all is well."""
    if not config.drop_ports or (why := nobody_can_knock(config, now)) is None:
        return None
    ports = ", ".join(map(str, config.managed_ports))
    return f"NOBODY CAN OPEN WHAT IS HIDDEN: {why}, and {ports} are shut to everybody ({CURE})"
