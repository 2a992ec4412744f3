"""Hears of every change of the host's ruleset (nfnetlink's multicast group for nf_tables)."""

import os

from openme.firewall.base import FirewallError
from openme.netlink.codec import split
from openme.netlink.nftables import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES
from openme.netlink.sockets import Subscription

_NFNLGRP_NFTABLES = 7
# NFT_MSG_*: tables, chains, rules and sets; elements of sets are people who come and go.
_STRUCTURE = frozenset({0, 2, 3, 5, 6, 8, 9, 11})


class RulesetChanges:
    """A socket that becomes readable at every change, in the network namespace where it is made."""

    def __init__(self) -> None:
        """FirewallError where the kernel refuses (it wants CAP_NET_ADMIN)."""
        try:
            self._subscription = Subscription(NETLINK_NETFILTER, 1 << (_NFNLGRP_NFTABLES - 1))
        except OSError as error:
            raise FirewallError(
                f"the ruleset's changes cannot be followed: {os.strerror(error.errno or 0).lower()}",
                "run it as root, or give it CAP_NET_ADMIN",
            ) from None
        self.socket = self._subscription.socket

    def close(self) -> None:
        """Give the socket back."""
        self._subscription.close()

    def has_changed(self) -> bool:
        """Read what is waiting: whether anything but elements of sets was touched. True when some of it was lost."""
        changed = False
        for news in self._subscription.news():
            changed = changed or news is None or _touches_structure(news)
        return changed


def _touches_structure(news: bytes) -> bool:
    try:
        kinds = [item.kind for item in split(news)]
    except ValueError:
        return True
    return any(kind >> 8 == NFNL_SUBSYS_NFTABLES and kind & 0xFF in _STRUCTURE for kind in kinds)
