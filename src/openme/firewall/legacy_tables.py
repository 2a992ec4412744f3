"""The firewall that a config names."""

import logging
import subprocess
from pathlib import Path

from openme.firewall.base import Firewall, FirewallError, Rules
from openme.firewall.memory import MemoryFirewall

_log = logging.getLogger(__name__)
_LEGACY_TABLES = {
    "iptables-legacy-save": "/proc/net/ip_tables_names",
    "ip6tables-legacy-save": "/proc/net/ip6_tables_names",
}


def legacy_tables() -> list[str]:
    """The tables of iptables-legacy with rules or dropping policies, which know nothing of what nftables accepts.

    A table that was used once and is empty now stands in the kernel's list all the same; where the program is there
    that tells the two apart, it is asked.
    """
    names: set[str] = set()
    for program, path in _LEGACY_TABLES.items():
        try:
            listed = Path(path).read_text(encoding="ascii").split()
        except OSError:
            continue
        if listed:
            names |= _with_rules(program, listed)
    return sorted(names)


def _with_rules(program: str, listed: list[str]) -> set[str]:
    try:
        done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return set(listed)
    found: set[str] = set()
    table = ""
    for line in done.stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") or (line.startswith(":") and line.split()[1:2] not in (["ACCEPT"], ["-"])):
            found.add(table)
    return found


def legacy_warning(name: str) -> str | None:
    """The line for a host with rules that nftables cannot open past. FirewallError for a firewall that will not do."""
    if name not in {"nft", "iptables"}:
        raise FirewallError(f"firewall {name} is not there yet", "use 'firewall: nft'")
    if tables := legacy_tables():
        cure = "iptables-legacy-save | iptables-nft-restore, then iptables-legacy -F"
        if name == "iptables":
            raise FirewallError(
                f"firewall iptables: this host has iptables-legacy rules ({', '.join(tables)}): nft cannot open past"
                " them",
                f"move them to nftables: {cure}",
            )
        return (
            f"iptables-legacy is in use here ({', '.join(tables)}): what it drops, openme cannot let in (move its rules"
            f" to nftables: {cure})"
        )
    return None


def open_firewall(name: str) -> Firewall:
    """Get hold of the firewall called `name`; nothing in it is changed yet.

    FirewallError, with the cure, if it is missing.
    """
    if name == "memory":
        return MemoryFirewall()
    if (warning := legacy_warning(name)) is not None:
        _log.warning("%s", warning)
    # Imported here, since only Linux has it and only this choice needs it.
    from openme.firewall.nft import NftFirewall  # noqa: PLC0415

    return NftFirewall()


def look_at_firewall(name: str, rules: Rules) -> list[str]:
    """What of the host these rules would not get past, a line each; nothing is changed, and nobody notices.

    FirewallError, as `open_firewall` and `start` would raise it, if the firewall is missing or does not take them.
    """
    if name == "memory":
        return []
    warning = legacy_warning(name)
    from openme.firewall.nft import NftFirewall  # noqa: PLC0415  # as above

    return [*([] if warning is None else [warning]), *NftFirewall().look(rules)]
