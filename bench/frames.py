"""A load that says what arrived: frames made beforehand, sent by a process of its own straight to the cable.

    with Flood(world, noise_frames) as flood:
        ...
    flood.sent

Sent by sendmmsg(2) over a packet socket that passes by the queueing discipline (packet(7)), a thousand frames a call. A
sender that is faster than the network stack loses frames on the way, so rates come from `arrivals`, never from here.
"""

import ctypes
import mmap
import os
import secrets
import socket
import time
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bench.world import PEER, World
from openme.knock_size import KNOCK_SIZE
from openme.wire import v1

Bytes = npt.NDArray[np.uint8]
Addresses = npt.NDArray[np.uint32]

FORGED = 0xC6120000
"""198.18.0.0/15, for benchmarks (RFC 2544)."""
FORGED_SOURCES = 1 << 17
_NOT_OUTSIDE = (10, 127, 198)
"""First bytes of addresses that are the hosts' own, or theirs who measure."""
MOST_SECONDS = 120

_ETHERNET, _IP, _UDP = 14, 20, 8
_HEAD = _ETHERNET + _IP + _UDP
_SOL_PACKET, _QDISC_BYPASS = 263, 20
_IPV4 = b"\x08\x00"
_AT_ONCE = 1024
_SENT, _STOP = 0, 1
_MESSAGE = np.dtype(
    [
        *(("name", "u8"), ("name_size", "u8"), ("parts", "u8"), ("count", "u8")),
        *(("control", "u8"), ("control_size", "u8"), ("flags", "u8"), ("sent", "u8")),
    ]
)  # struct mmsghdr where pointers have eight bytes
_PART = np.dtype([("base", "u8"), ("size", "u8")])  # struct iovec
_libc = ctypes.CDLL(None, use_errno=True)


def noise(count: int, size: int = KNOCK_SIZE) -> Bytes:
    """Random bytes, `count` datagrams of them."""
    return np.frombuffer(secrets.token_bytes(count * size), np.uint8).reshape(count, size).copy()


def shaped_like_v1(count: int) -> Bytes:
    """Random bytes where version 1 has random bits; what never changes in it is as in a knock (docs/security.md)."""
    made = noise(count)
    made[:, 0] = v1.VERSION
    made[:, 32] &= 0x7F
    made[:, 164] &= 0x0F
    return made


def same(datagrams: list[bytes]) -> Bytes:
    """Datagrams of one size, as they are."""
    return np.frombuffer(b"".join(datagrams), np.uint8).reshape(len(datagrams), -1)


def forged(count: int, different: int = FORGED_SOURCES, first: int = FORGED) -> Addresses:
    """Source addresses for `count` frames."""
    return (first + np.arange(count, dtype=np.uint32) % different).astype(np.uint32)


def forged_anywhere(count: int) -> Addresses:
    """Source addresses for `count` frames out of all that one may meet on the Internet, by chance."""
    first = np.array([byte for byte in range(1, 224) if byte not in _NOT_OUTSIDE], np.uint32)
    chance = np.random.default_rng()
    return (chance.choice(first, count) << 24 | chance.integers(1 << 24, size=count, dtype=np.uint32)).astype(np.uint32)


def frames(world: World, payloads: Bytes, sources: Addresses, port: int) -> Bytes:
    """One frame a source to the server's port, with the payloads in turns."""
    return built(world.address_of(world.server), world.address_of(world.client), payloads, sources, port)


def built(to: bytes, own: bytes, payloads: Bytes, sources: Addresses, port: int) -> Bytes:
    """Ethernet from `own` to `to`, IPv4 to the server, UDP without checksum (RFC 768). ValueError without payloads."""
    if not len(payloads):
        raise ValueError("frames of nothing")
    count, size = len(sources), payloads.shape[1]
    made = np.zeros((count, _HEAD + size), np.uint8)
    made[:, 0:6], made[:, 6:12] = np.frombuffer(to, np.uint8), np.frombuffer(own, np.uint8)
    made[:, 12:14] = np.frombuffer(_IPV4, np.uint8)
    ip = made[:, _ETHERNET : _ETHERNET + _IP]
    ip[:, 0], ip[:, 8], ip[:, 9] = 0x45, 64, socket.IPPROTO_UDP
    ip[:, 2:4] = _big(np.full(count, _IP + _UDP + size), 2)
    ip[:, 12:16] = _big(sources, 4)
    ip[:, 16:20] = np.frombuffer(socket.inet_aton(PEER), np.uint8)
    total = ip.reshape(count, 10, 2).astype(np.uint32) @ np.array([256, 1], np.uint32)
    folded = total.sum(axis=1)
    for _ in range(2):
        folded = (folded & 0xFFFF) + (folded >> 16)
    ip[:, 10:12] = _big(0xFFFF - folded, 2)
    udp = made[:, _ETHERNET + _IP : _HEAD]
    udp[:, 0:2] = _big(1024 + np.arange(count) % 60_000, 2)
    udp[:, 2:4] = _big(np.full(count, port), 2)
    udp[:, 4:6] = _big(np.full(count, _UDP + size), 2)
    for start in range(0, count, len(payloads)):
        part = payloads[: count - start]
        made[start : start + len(part), _HEAD:] = part
    return made


def _big(values: npt.NDArray[np.generic], size: int) -> Bytes:
    return values.astype(f">u{size}").view(np.uint8).reshape(-1, size)


class Flood:
    """Sends frames over and over from the client's end of the direct cable, as fast as it goes or `rate` a second."""

    def __init__(self, world: World, made: Bytes, rate: int = 0) -> None:
        with world.client.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        self._socket.bind((world.DIRECT, 0))
        self._made = np.ascontiguousarray(made)
        self._rate = rate
        self._shared = np.frombuffer(mmap.mmap(-1, 16), np.int64)
        self._child = 0

    def __enter__(self) -> Self:
        self._child = os.fork()
        if self._child == 0:
            try:
                self._send()
            finally:
                os._exit(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shared[_STOP] = 1
        os.waitpid(self._child, 0)
        self._socket.close()

    @property
    def sent(self) -> int:
        """How many frames the cable has taken until now."""
        return int(self._shared[_SENT])

    def _send(self) -> None:
        count, size = self._made.shape
        parts = np.zeros(count, _PART)
        parts["base"] = self._made.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(size)
        parts["size"] = size
        messages = np.zeros(count, _MESSAGE)
        messages["parts"] = parts.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(_PART.itemsize)
        messages["count"] = 1
        begin, at, sent = time.monotonic(), 0, 0
        descriptor, first = self._socket.fileno(), messages.ctypes.data
        while not self._shared[_STOP] and (now := time.monotonic()) < begin + MOST_SECONDS:
            batch = min(_AT_ONCE, count - at)
            if self._rate:
                batch = min(batch, int((now - begin) * self._rate) - sent)
                if batch <= 0:
                    time.sleep(0.0005)
                    continue
            done = _libc.sendmmsg(descriptor, ctypes.c_void_p(first + at * _MESSAGE.itemsize), batch, 0)
            if done > 0:
                sent += done
                at = (at + done) % count
                self._shared[_SENT] = sent
