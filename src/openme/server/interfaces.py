"""The host's network interfaces."""

import socket

from openme.errors import OpenmeError


def known_interfaces() -> list[str]:
    """Their names."""
    return [name for _, name in socket.if_nameindex()]


def require_interface(name: str) -> None:
    """OpenmeError that names the known ones if there is no interface `name`."""
    known = known_interfaces()
    if name not in known:
        raise OpenmeError(f"there is no interface {name}", f"known interfaces: {', '.join(known)}")
