"""Which addresses are this host's own: the kernel's routing table is asked (rtnetlink(7), RTM_GETROUTE)."""

import contextlib
import socket
import struct
import sys
from ipaddress import IPv4Address

from openme.wire.knock import IPAddress

_NLMSG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTA_OIF = 4
_NETLINK_ROUTE = 0
# rtm_type: the kernel would deliver here (local), or to everybody (broadcast, anycast, multicast).
_OWN_TYPES = frozenset({2, 3, 4, 5})


class OwnAddresses:
    """Asks the kernel; needs no privileges. Sends nothing to any network."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(1.0)
        self._sequence = 0

    def __call__(self, address: IPAddress) -> bool:
        """Whether a packet to `address` would stay here or go to a whole network; False without a route."""
        if address.is_link_local and address.version == 6:
            # Means something on one link only, so that the kernel finds no route unless it is told which.
            return any(self._is_own(address, index) for index, _ in socket.if_nameindex())
        return self._is_own(address, None)

    def _is_own(self, address: IPAddress, interface: int | None) -> bool:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        body = _RTMSG.pack(family, len(address.packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _RTA_DST) + address.packed
        if interface is not None:
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + 4, _RTA_OIF) + interface.to_bytes(4, sys.byteorder)
        header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, self._sequence, 0)
        with contextlib.suppress(OSError):
            self._socket.send(header + body)
            while True:
                answer = self._socket.recv(8192)
                _, kind, _, sequence, _ = _NLMSG_HEADER.unpack_from(answer)
                if sequence == self._sequence:
                    break
            if kind == _RTM_NEWROUTE:
                return int(_RTMSG.unpack_from(answer, _NLMSG_HEADER.size)[7]) in _OWN_TYPES
        return False
