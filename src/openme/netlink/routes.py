"""The host's devices and where it would send a packet (rtnetlink(7)); what changes of them."""

import errno
import socket
import struct
import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass

from openme.netlink.codec import NLM_F_REQUEST, NLMSG_ERROR, attribute, attributes, error_code, framed, split
from openme.netlink.sockets import KERNEL, Netlink, Subscription

NETLINK_ROUTE = 0
RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_DELADDR = 21
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
NUMBER = struct.Struct("=I")
IFA_ADDRESS = 1
IFA_LOCAL = 2
RTN_UNICAST = 1
IFLA_IFNAME = 3
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_PROP_LIST = 52
IFLA_ALT_IFNAME = 53
IFF_LOOPBACK = 0x8
RTA_DST = 1
RTA_OIF = 4
RECEIVE_BYTES = 8192
MOST_ANSWERS = 64  # messages looked at for one question: nobody may keep us reading
OWN_TYPES = frozenset({2, 3, 4, 5})
"""rtm_type: the kernel would deliver here (local), or to everybody (broadcast, anycast, multicast)."""
KNOWN_TYPES = range(1, 13)  # RTN_UNICAST to RTN_XRESOLVE and some to come
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV, errno.ENETDOWN})
"""What the kernel says where no packet could go: no route, or one that is unreachable, prohibited or a black hole; and
of a device that has gone meanwhile."""

# RTNLGRP_*, linux/rtnetlink.h
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV4_RULE = 1, 5, 7, 8
_IPV6_ADDRESS, _IPV6_ROUTE, _IPV6_RULE, _NEXTHOP = 9, 11, 19, 32


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `master`: the index of the device that takes its packets over, None for a device by itself."""

    index: int
    name: str
    master: int | None = None
    kind: str = ""
    loopback: bool = False
    other_names: tuple[str, ...] = ()


def links_now() -> list[Link]:
    """The devices of this network namespace. NetlinkError where the kernel does not tell."""
    kernel = Netlink(NETLINK_ROUTE, "the list of interfaces", "rtnetlink")
    with closing(kernel):
        return kernel.collect(RTM_GETLINK, IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _link)


def _link(payload: bytes) -> Link | None:
    _, _, index, flags, _ = IFINFOMSG.unpack_from(payload)
    found = dict(attributes(payload[IFINFOMSG.size :]))
    if IFLA_IFNAME not in found:
        return None
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    others = [value for kind, value in attributes(found.get(IFLA_PROP_LIST, b"")) if kind == IFLA_ALT_IFNAME]
    master = found.get(IFLA_MASTER)
    return Link(
        index=index,
        name=_text(found[IFLA_IFNAME]),
        master=None if master is None else NUMBER.unpack(master)[0],
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        loopback=bool(flags & IFF_LOOPBACK),
        other_names=tuple(map(_text, others)),
    )


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def link_changes() -> Subscription:
    """Hears of devices that come, go or change. OSError where the kernel refuses."""
    return Subscription(NETLINK_ROUTE, 1 << (_LINK - 1))


def route_changes() -> Subscription:
    """Hears of what decides where a packet goes: devices, addresses, routes, rules, next hops. OSError likewise."""
    groups = (_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV4_RULE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV6_RULE, _NEXTHOP)
    return Subscription(NETLINK_ROUTE, sum(1 << (group - 1) for group in groups))


def is_another_network(message: bytes, addresses: Collection[bytes]) -> bool:
    """Whether one receive of `route_changes` says so: one of these addresses has gone, or a default route came or went.

    Also where it makes no sense. What only lives on (RTM_NEWADDR for a renewed lifetime) says nothing.
    """
    try:
        return any(_is_another(item.kind, item.payload, addresses) for item in split(message))
    except (ValueError, struct.error):
        return True


def _is_another(kind: int, payload: bytes, addresses: Collection[bytes]) -> bool:
    if kind == RTM_DELADDR:
        found = dict(attributes(payload[IFADDRMSG.size :]))
        return not {found.get(IFA_ADDRESS), found.get(IFA_LOCAL)}.isdisjoint(addresses)
    if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
        fields = RTMSG.unpack_from(payload)
        return (fields[1], fields[7]) == (0, RTN_UNICAST)
    return False


class RouteQuestions:
    """Asks where a packet would go. Sends nothing to any network, needs no privileges.

    The kernel answers within send(2), so nothing is waited for.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __del__(self) -> None:
        # A firewall lasts as long as its process and has no end of its own in the protocol.
        if hasattr(self, "_socket"):
            self._socket.close()

    def stays(self, address: bytes, interface: int | None) -> bool | None:
        """Whether a packet to `address` (4 or 16 bytes) would stay here or go to a whole network; False: no route.

        None when the kernel did not tell. OSError, ValueError, struct.error when it could not be asked or its answer
        makes no sense. `interface`: by its index, for addresses that mean something on one link only.
        """
        self._forget_old_answers()
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = RTMSG.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address)
        if interface is not None:
            body += attribute(RTA_OIF, interface.to_bytes(4, sys.byteorder))
        self._socket.sendto(framed(RTM_GETROUTE, NLM_F_REQUEST, self._sequence, body), (KERNEL, 0))
        for _ in range(MOST_ANSWERS):
            answer, sender = self._socket.recvfrom(RECEIVE_BYTES)
            if sender[0] != KERNEL:
                continue
            for item in split(answer):
                if item.sequence == self._sequence:
                    return meaning(item.kind, item.payload, family)
        return None

    def _forget_old_answers(self) -> None:
        for _ in range(MOST_ANSWERS):
            try:
                self._socket.recvfrom(RECEIVE_BYTES)
            except BlockingIOError:
                return


def meaning(kind: int, payload: bytes, family: int) -> bool | None:
    """What one answer of the kernel's says; None if it says nothing. struct.error, ValueError if it is cut short."""
    if kind == RTM_NEWROUTE:
        fields = RTMSG.unpack_from(payload)
        if fields[0] != family or fields[7] not in KNOWN_TYPES:
            return None
        return fields[7] in OWN_TYPES
    if kind == NLMSG_ERROR and error_code(payload) in NO_ROUTE:
        return False
    return None
