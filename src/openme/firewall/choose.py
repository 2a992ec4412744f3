"""The firewall that a config names."""

import logging
from pathlib import Path

from openme.firewall.base import Firewall, FirewallError
from openme.firewall.memory import MemoryFirewall

_log = logging.getLogger(__name__)
_LEGACY_TABLES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


def legacy_tables() -> list[str]:
    """The tables of iptables-legacy in use on this host, which know nothing of what nftables accepts."""
    names: list[str] = []
    for path in _LEGACY_TABLES:
        try:
            names += Path(path).read_text(encoding="ascii").split()
        except OSError:
            continue
    return sorted(set(names))


def open_firewall(name: str) -> Firewall:
    """Get hold of the firewall called `name`; nothing in it is changed yet.

    FirewallError, with the cure, if it is missing.
    """
    if name == "memory":
        return MemoryFirewall()
    if name not in {"nft", "iptables"}:
        raise FirewallError(f"firewall {name} is not there yet", "use 'firewall: nft'")
    if tables := legacy_tables():
        cure = "iptables-legacy-save | iptables-nft-restore"
        if name == "iptables":
            raise FirewallError(
                f"firewall iptables: this host has iptables-legacy rules ({', '.join(tables)}): nft cannot open past"
                " them",
                f"move them to nftables: {cure}",
            )
        _log.warning(
            "iptables-legacy is in use here (%s): what it drops, openme cannot let in (move its rules to nftables: %s)",
            ", ".join(tables),
            cure,
        )
    # Imported here, since only Linux has it and only this choice needs it.
    from openme.firewall.nft import NftFirewall  # noqa: PLC0415

    return NftFirewall()
