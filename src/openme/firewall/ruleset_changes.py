"""Hears of every change of the host's ruleset (nfnetlink's multicast group for nf_tables)."""

import os
import socket

from openme.firewall.base import FirewallError
from openme.firewall.nfnetlink import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NLMSGHDR, RECEIVE_BYTES

_NFNLGRP_NFTABLES = 7
# NFT_MSG_*: tables, chains, rules and sets; elements of sets are people who come and go.
_STRUCTURE = frozenset({0, 2, 3, 5, 6, 8, 9, 11})
_MOST = 64  # messages read before others get their turn


class RulesetChanges:
    """A socket that becomes readable at every change, in the network namespace where it is made."""

    def __init__(self) -> None:
        """FirewallError where the kernel refuses (it wants CAP_NET_ADMIN)."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self.socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        except OSError as error:
            self.socket.close()
            raise FirewallError(
                f"the ruleset's changes cannot be followed: {os.strerror(error.errno or 0).lower()}",
                "run it as root, or give it CAP_NET_ADMIN",
            ) from None

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()

    def __del__(self) -> None:
        self.close()

    def has_changed(self) -> bool:
        """Read what is waiting: whether anything but elements of sets was touched. True when some of it was lost."""
        changed = False
        for _ in range(_MOST):
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: more happened than the buffer holds, so anything may have.
                changed = True
                continue
            changed = changed or _touches_structure(data)
        return changed


def _touches_structure(data: bytes) -> bool:
    offset = 0
    while offset + NLMSGHDR.size <= len(data):
        length, kind, *_ = NLMSGHDR.unpack_from(data, offset)
        if length < NLMSGHDR.size:
            return True
        if kind >> 8 == NFNL_SUBSYS_NFTABLES and kind & 0xFF in _STRUCTURE:
            return True
        offset += (length + 3) & ~3
    return False
