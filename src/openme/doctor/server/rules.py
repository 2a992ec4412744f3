"""Whether openme's rules are in the kernel."""

from collections.abc import Iterator
from contextlib import closing

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server
from openme.firewall import nft_listing
from openme.firewall.registry import kind_of
from openme.netlink.nftables import NfNetlink

GONE = "rules_gone"


def in_place(server: Server) -> Iterator[Finding]:
    """The running server puts back what others remove; what it cannot is seen here."""
    if not server.runs:
        raise NotLookedError("no server runs")
    if not kind_of(server.config.firewall).abilities.among_host_rules:
        raise NotLookedError(f"firewall {server.config.firewall} has no rules in the kernel")
    with closing(NfNetlink()) as netlink:
        if nft_listing.table_handle(netlink) is None:
            yield Finding(
                GONE,
                "openme's table is not in the firewall, though the server runs",
                "journalctl -u openme says what removes it; sudo systemctl restart openme",
            )
        elif nft_listing.is_dormant(netlink):
            yield Finding(
                GONE,
                "somebody has made openme's table dormant: no packet meets its rules",
                "sudo systemctl restart openme",
            )
