"""What iptables-legacy holds, which knows nothing of what nftables accepts."""

import subprocess
from pathlib import Path

KERNEL_LISTS = {"iptables-legacy": "/proc/net/ip_tables_names", "ip6tables-legacy": "/proc/net/ip6_tables_names"}
"""Where the kernel lists the tables in use of each of the two programs."""


def in_use(path: str) -> list[str]:
    """The tables in one of the kernel's lists; none where there is no such list. To look loads no table."""
    try:
        return Path(path).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def legacy_tables() -> list[str]:
    """Its tables with rules or dropping policies.

    A table that was used once and is empty now stands in the kernel's list all the same; where the program is there
    that tells the two apart, it is asked.
    """
    names: set[str] = set()
    for program, path in KERNEL_LISTS.items():
        if listed := in_use(path):
            names |= _with_rules(f"{program}-save", listed)
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
