"""What `serve` and `check-config` say of rules that the existing server has left, and how `--clean-up` removes them."""

import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from openme.errors import OpenmeError
from openme.firewall.base import FirewallError
from openme.firewall.registry import kind_of

if TYPE_CHECKING:
    from openme.firewall.leftovers import Leftovers

_log = logging.getLogger(__name__)
_NAME = "openme"


class LeftoverRules:
    """Looks for them at the start and, through a socket made then, at the end, when the sandbox allows no new one."""

    def __init__(self, firewall: str) -> None:
        """`firewall`: the config's; nothing is looked at for one that is not among the host's rules."""
        self._netlink = None
        self._legacy: list[str] = []
        self._first: list[str] = []
        if not kind_of(firewall).abilities.among_host_rules or not hasattr(socket, "AF_NETLINK"):
            return
        # Imported here, since only Linux has what they need.
        from openme.firewall.legacy_leftovers import legacy_leftovers  # noqa: PLC0415
        from openme.netlink.nftables import NfNetlink  # noqa: PLC0415

        with suppress(FirewallError):
            self._netlink = NfNetlink()
        found, unseen = legacy_leftovers()
        self._legacy = [*(_line(item.found) for item in found), *unseen]

    def lines(self) -> list[str]:
        """One for each table that holds some, with the command that removes it."""
        found: list[str] = []
        if self._netlink is not None:
            from openme.firewall.leftovers import leftovers  # noqa: PLC0415  # see the constructor, which has loaded it

            with suppress(FirewallError):
                found = [_line(item) for item in leftovers(self._netlink)]
        return found + self._legacy

    def say(self) -> None:
        """Warn of them. Of those of iptables-legacy it says what was there at the start."""
        for line in self.lines():
            _log.warning("%s", line)

    def close(self) -> None:
        """Look no more."""
        if self._netlink is not None:
            self._netlink.close()


def leftover_warnings(firewall: str) -> tuple[str, ...]:
    """One line for each table that holds some, for `check-config`; none where this process may not look."""
    rules = LeftoverRules(firewall)
    try:
        lines = rules.lines()
    finally:
        rules.close()
    if lines and (pid := existing_server()) is not None:
        lines.insert(0, f"the existing server is running (process {pid}), and these rules are in use: stop it first")
    return tuple(lines)


def remove_leftovers() -> tuple[list[str], list[str]]:
    """Remove them; what was removed; what was left, since it may be somebody else's or could not be seen: a line each.

    nf_tables (iptables-nft too) is one transaction; each of the two of iptables-legacy is one of its own, after it.
    FirewallError if one of them is refused.
    """
    from openme.firewall.leftovers import leftovers_now, removal_script  # noqa: PLC0415
    from openme.firewall.legacy_leftovers import legacy_leftovers, remove  # noqa: PLC0415
    from openme.firewall.nft import run_script  # noqa: PLC0415

    found = leftovers_now()
    if script := removal_script(found):
        run_script(script)
    legacy, unseen = legacy_leftovers()
    for item in legacy:
        if item.found.removes:
            remove(item)
    every = [*found, *(item.found for item in legacy)]
    removed = [f"removed: {item}" for item in every if item.removes]
    left = [
        f"{item.where} has a chain openme with rules that are not marked as the existing server's: it is left as it is"
        for item in every
        if item.in_doubt
    ]
    return removed, left + unseen


def refuse_beside_existing_server() -> None:
    """OpenmeError while the existing server runs here: its rules are in use."""
    if (pid := existing_server()) is not None:
        raise OpenmeError(
            f"the existing server is running (process {pid}): its rules are in use",
            "stop it first: systemctl stop openme",
        )


def existing_server() -> int | None:
    """The process of an existing server in this network namespace, whose program is a file `openme` (ours is Python's);
    None if none is seen.
    """
    try:
        own = Path("/proc/self/ns/net").readlink()
    except OSError:
        return None
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        with suppress(OSError):
            program = str((directory / "exe").readlink()).removesuffix(" (deleted)")
            if program.rpartition("/")[2] != _NAME or (directory / "ns" / "net").readlink() != own:
                continue
            if b"serve" in (directory / "cmdline").read_bytes().split(b"\0"):
                return int(directory.name)
    return None


def _line(found: "Leftovers") -> str:
    if not found.removes:
        return f"{found}: look at it, as root: {found.command}"
    kept = " (the chain openme there has other rules too and stays)" if found.in_doubt else ""
    return f"{found}, which open or close ports beside openme; to remove them, as root: {found.command}{kept}"
