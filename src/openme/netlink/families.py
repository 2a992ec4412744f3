"""Families of generic netlink that come and go with the kernel's modules (linux/genetlink.h)."""

from openme.netlink.sockets import Subscription

NETLINK_GENERIC = 16
NLCTRL_NOTIFY = 1 << 0x10 - 1  # the group `notify` of the family nlctrl, as a bit


def family_changes() -> Subscription:
    """Hears of families by their names. OSError where the kernel refuses."""
    return Subscription(NETLINK_GENERIC, NLCTRL_NOTIFY)
