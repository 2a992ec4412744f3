"""Which addresses are this host's own: the kernel's routing table is asked (rtnetlink(7), RTM_GETROUTE).

The kernel answers within send(2), so nothing is waited for: an answer that is not there, or makes no sense, leaves the
question open, and whoever asked refuses.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from openme.wire.knock import IPAddress

_NLMSG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")  # zero or a negative errno
_NLMSG_ERROR = 2
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTA_OIF = 4
_NETLINK_ROUTE = 0
_KERNEL = 0  # the port id of the kernel: any other is a program's
_RECEIVE_BYTES = 8192
_MOST_ANSWERS = 64  # messages looked at for one question: nobody may keep us reading
# rtm_type: the kernel would deliver here (local), or to everybody (broadcast, anycast, multicast).
_OWN_TYPES = frozenset({2, 3, 4, 5})
_KNOWN_TYPES = range(1, 13)  # RTN_UNICAST to RTN_XRESOLVE and some to come
# What the kernel says where no packet could go: no route, or one that is unreachable, prohibited or a black hole; and
# of a device that has gone meanwhile.
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV, errno.ENETDOWN})


class OwnAddresses:
    """Asks the kernel; needs no privileges. Sends nothing to any network, and never waits."""

    def __init__(self, interfaces: Callable[[], Iterable[tuple[int, str]]] = socket.if_nameindex) -> None:
        """`interfaces` lists the host's interfaces, index and name."""
        self._interfaces = interfaces
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_ROUTE
        )
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __call__(self, address: IPAddress) -> bool | None:
        """Whether a packet to `address` would stay here or go to a whole network; False without a route.

        None when the kernel did not tell: no door may open then.
        """
        try:
            if not (address.is_link_local and address.version == 6):
                return self._is_own(address, None)
            # Means something on one link only, so that the kernel finds no route unless it is told which.
            found = [self._is_own(address, index) for index, _ in self._interfaces()]
        except (OSError, ValueError, struct.error):
            return None
        return True if True in found else None if None in found else False

    def _is_own(self, address: IPAddress, interface: int | None) -> bool | None:
        self._forget_old_answers()
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        body = _RTMSG.pack(family, len(address.packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _RTA_DST) + address.packed
        if interface is not None:
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + 4, _RTA_OIF) + interface.to_bytes(4, sys.byteorder)
        header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, self._sequence, 0)
        self._socket.sendto(header + body, (_KERNEL, 0))
        for _ in range(_MOST_ANSWERS):
            answer, sender = self._socket.recvfrom(_RECEIVE_BYTES)
            if sender[0] != _KERNEL:
                continue
            _, kind, _, sequence, _ = _NLMSG_HEADER.unpack_from(answer)
            if sequence == self._sequence:
                return _meaning(kind, answer, family)
        return None

    def _forget_old_answers(self) -> None:
        for _ in range(_MOST_ANSWERS):
            try:
                self._socket.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                return


def _meaning(kind: int, answer: bytes, family: int) -> bool | None:
    """What one answer of the kernel's says; None if it says nothing. struct.error if it is cut short."""
    if kind == _RTM_NEWROUTE:
        fields = _RTMSG.unpack_from(answer, _NLMSG_HEADER.size)
        if fields[0] != family or fields[7] not in _KNOWN_TYPES:
            return None
        return fields[7] in _OWN_TYPES
    if kind == _NLMSG_ERROR and -_ERROR.unpack_from(answer, _NLMSG_HEADER.size)[0] in _NO_ROUTE:
        return False
    return None
