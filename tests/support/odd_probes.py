"""Probes that an implementation of TCP, UDP or IP answers in its own way, and what a host answers to each.

    with wire(stranger, server, 4) as cable:
        told = drawn_answers(cable, TCP, [22, 4000])
        assert told[22] == told[4000]

Every probe has a source port of its own, by which its answers are known. What varies by itself is left out: ports,
identifications, checksums, the number of a flow label. Ports are alike when what is left is the same, byte for byte.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address

from support.handmade import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP, URG, Cable, checksum
from support.netns import Namespace, until, v6

FIRST_SOURCE = 20000
UNKNOWN_PROTOCOL = 253
ELSEWHERE = "2001:db8:9::9"
ERROR = {4: b"\3\2", 6: b"\3\0"}
"""Type and code of the error that `error_after` asks for."""
AT_ONCE = 50  # frames on their way, so that no queue runs over
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60

Answers = dict[str, tuple[bytes, ...]]
"""Name of a probe → its answers, in order; no entry where there are none."""
Frame = tuple[bytes, bytes | None]
"""A packet and, where it is not the cable's own, the Ethernet header before it."""
Probe = Callable[[int], list[Frame]]
"""The frames of a probe that comes from this port."""


def drawn_answers(cable: Cable, proto: int, ports: Sequence[int], *, to: str | None = None) -> dict[int, Answers]:
    """What the host answers to each probe at each port. Its ICMP must not be limited, and it answers echo requests."""
    waiting: dict[bytes, tuple[int, str]] = {}
    frames: list[Frame] = []
    for port in ports:
        for source, (name, probe) in enumerate(probes(cable, proto, port, to).items(), FIRST_SOURCE + len(waiting)):
            waiting[struct.pack("!HH", source, port)] = port, name
            frames += probe(source)
    told: dict[int, dict[str, list[bytes]]] = {port: {} for port in ports}
    with on_one_processor():  # on which the kernel delivers what it sends in order
        heard = _heard_after(cable, frames)
    for packet in heard:
        known, text = _told(cable, packet, waiting)
        if known is not None:
            port, name = known
            told[port].setdefault(name, []).append(text)
    return {port: {name: tuple(texts) for name, texts in found.items()} for port, found in told.items()}


def error_after(cable: Cable, *packets: bytes) -> list[bytes]:
    """Type and code of the errors that are left for the stranger after these packets, which themselves draw none: it
    asks for one that has nothing to do with a port.

    Of IPv4 that a protocol is unknown, of IPv6 that a packet has come too far which the host would forward.
    """
    number = FIRST_SOURCE
    with on_one_processor():
        cable.heard()
        cable.send(*packets)
        if cable.version == 4:
            cable.send(cable.ip(UNKNOWN_PROTOCOL, bytes(8)))
        else:
            cable.send(cable.ip(UDP, cable.datagram(1, 2, to=ELSEWHERE), to=ELSEWHERE, hops=1))
        cable.send(echo_request(cable, number))
        heard: list[bytes] = []
        until(partial(_is_over, cable, heard, number))
    errors = [cable.carried(packet) for packet in heard if not is_echo_reply(cable, packet, number)]
    return [payload[:2] for proto, payload in errors if proto == ICMP[cable.version]]


def prepare_for_errors(host: Namespace, version: int) -> None:
    """Make a host send that error, under the kernel's own limits."""
    if version == 6:
        host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        host.run("ip", "-6", "route", "replace", "default", "via", v6(2))


@contextmanager
def on_one_processor() -> Iterator[None]:
    """This thread, and the delivery of what it sends, on one processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def echo_request(cable: Cable, number: int, *, to: str | None = None) -> bytes:
    """An ICMP echo request."""
    near, far = (ip_address(address).packed for address in (cable.source, to or cable.destination))
    kind = 8 if cable.version == 4 else 128
    body = struct.pack("!HH", 1, number)
    pseudo = b"" if cable.version == 4 else near + far + struct.pack("!II", 4 + len(body), ICMP[6])
    summed = checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    return cable.ip(ICMP[cable.version], struct.pack("!BBH", kind, 0, summed) + body, to=to)


def is_echo_reply(cable: Cable, packet: bytes, number: int) -> bool:
    """Whether this answers that request."""
    proto, payload = cable.carried(packet)
    wanted = bytes([0 if cable.version == 4 else 129])
    return proto == ICMP[cable.version] and payload[:1] == wanted and payload[4:8] == struct.pack("!HH", 1, number)


def _heard_after(cable: Cable, frames: list[Frame]) -> list[bytes]:
    """Send frames, a few at a time, and hear all that comes before the answer to the echo request behind each few."""
    heard: list[bytes] = []
    cable.heard()
    for number, start in enumerate(range(0, len(frames), AT_ONCE)):
        for packet, ethernet in frames[start : start + AT_ONCE]:
            cable.send(packet, ethernet=ethernet)
        cable.send(echo_request(cable, number))
        until(partial(_is_over, cable, heard, number))
    return heard


def _is_over(cable: Cable, heard: list[bytes], number: int) -> bool:
    heard.extend(cable.heard())
    return any(is_echo_reply(cable, packet, number) for packet in heard)


def _told(cable: Cable, packet: bytes, waiting: dict[bytes, tuple[int, str]]) -> tuple[tuple[int, str] | None, bytes]:
    """The probe that a packet answers, and what it tells but for what varies by itself."""
    proto, payload = cable.carried(packet)
    outer = bytearray(packet[: packet.index(payload, 20 if cable.version == 4 else 40)])
    if cable.version == 4:
        outer[4:6] = outer[10:12] = b"\0\0"  # identification, checksum
    else:
        labelled = any((outer[1] & 15, outer[2], outer[3]))
        outer[1:4] = bytes([outer[1] & 0xF0, 0, labelled])
    if proto in (TCP, UDP):
        at = 16 if proto == TCP else 6
        return waiting.get(payload[2:4] + payload[:2]), bytes(outer) + payload[4:at] + payload[at + 2 :]
    # An error quotes the probe.
    for at in range(8, len(payload) - 3):
        if (known := waiting.get(payload[at : at + 4])) is not None:
            return known, bytes(outer) + payload[:2] + payload[4:8] + struct.pack("!HH", at, len(payload))
    return None, b""


# -- the probes


def probes(cable: Cable, proto: int, port: int, to: str | None = None) -> dict[str, Probe]:
    """All of them by their names."""
    made: dict[str, Probe] = {}

    def whole(source: int, **how: object) -> bytes:
        if proto == TCP:
            return cable.segment(source, port, **{"flags": SYN, "seq": 7, "to": to, **how})  # type: ignore[arg-type]
        return cable.datagram(source, port, bytes(165), **{"to": to, **how})  # type: ignore[arg-type]

    def ip(inner: bytes, first: int = proto, **how: object) -> bytes:
        return cable.ip(first, inner, to=to, **how)  # type: ignore[arg-type]

    def in_pieces(cuts: list[tuple[int, int | None, bool]], source: int) -> list[bytes]:
        if cable.version == 4:
            return [_fragment4(ip(b""), whole(source), *cut) for cut in cuts]
        return [ip(_fragment6(proto, whole(source), *cut), first=FRAGMENT) for cut in cuts]

    def add(name: str, packets: Callable[[int], list[bytes]], ethernet: bytes | None = None) -> None:
        def frames(source: int) -> list[Frame]:
            return [(packet, ethernet) for packet in packets(source)]

        made[name] = frames

    add("plain", lambda source: [ip(whole(source))])
    add("to everybody on the wire", lambda source: [ip(whole(source))], cable.broadcast)
    add("last hop", lambda source: [ip(whole(source), hops=1)])
    add("wrong checksum", lambda source: [ip(whole(source, wrong=1))])
    for size in (3, 4, 7, 8, 12, 19, 20):
        add(f"{size} bytes", lambda source, size=size: [ip(whole(source)[:size])])  # type: ignore[misc]
    for name, change in {**(_TCP_CHANGES if proto == TCP else {}), **(_UDP_CHANGES if proto == UDP else {})}.items():
        add(name, lambda source, change=change: [ip(whole(source, **change))])  # type: ignore[misc]
    if proto == TCP:
        for flags in range(256):
            add(f"flags {flags:#04x}", lambda source, flags=flags: [ip(whole(source, flags=flags, ack=9))])  # type: ignore[misc]
    else:
        for length in (0, 7, 8, 100, 172, 174, 9000):
            add(
                f"length {length}",
                lambda source, length=length: [ip(_put(whole(source), 4, length))],  # type: ignore[misc]
            )
        add("no checksum", lambda source: [ip(_put(whole(source), 6, 0))])
        add("bytes behind the datagram", lambda source: [ip(whole(source) + b"behind")])
    if cable.version == 4:
        for name, options in _IPV4_OPTIONS.items():
            add(f"option {name}", lambda source, options=options: [ip(whole(source), options=options)])  # type: ignore[misc]
        for name, (at, value) in _IPV4_FIELDS.items():
            add(name, lambda source, at=at, value=value: [_again(_put(ip(whole(source)), at, value))])  # type: ignore[misc]
        add("wrong header checksum", lambda source: [_put(ip(whole(source)), 10, 1)])
        for name, cuts in _FRAGMENTS.items():
            add(f"fragments {name}", partial(in_pieces, cuts))
    else:
        for name, (first, headers) in _IPV6_HEADERS.items():
            add(
                f"headers {name}",
                lambda source, first=first, headers=headers: [  # type: ignore[misc]
                    ip(whole(source), first=first, options=headers.replace(b"NEXT", bytes([proto])))
                ],
            )
        for name, (at, value) in _IPV6_FIELDS.items():
            add(name, lambda source, at=at, value=value: [_put(ip(whole(source)), at, value)])  # type: ignore[misc]
        for name, cuts in _FRAGMENTS.items():
            add(
                f"fragments {name}",
                lambda source, cuts=cuts: [ip(_fragment6(proto, whole(source), *cut), first=FRAGMENT) for cut in cuts],  # type: ignore[misc]
            )
    return made


_TCP_CHANGES: dict[str, dict[str, object]] = {
    "MD5 signature": {"options": b"\x13\x12" + bytes(16)},
    "MD5 signature on ACK": {"options": b"\x13\x12" + bytes(16), "flags": ACK, "ack": 9},
    "authentication option": {"options": b"\x1d\x10\1\1" + bytes(12)},
    "fast open cookie asked for": {"options": b"\x22\2"},
    "fast open with data": {"options": b"\x22\x0a" + bytes(8), "payload": b"data"},
    "multipath": {"options": b"\x1e\x0c\1\0" + bytes(8)},
    "multipath join": {"options": b"\x1e\x0c\x10\0" + bytes(8)},
    "time stamps": {"options": b"\x08\x0a" + bytes(8)},
    "unknown option": {"options": b"\xfd\4\0\0"},
    "option of length 0": {"options": b"\xfd\0\0\0"},
    "option beyond the header": {"options": b"\xfd\x40\0\0"},
    "data": {"payload": b"data"},
    "data on ACK": {"payload": b"data", "flags": PSH | ACK, "ack": 9},
    "urgent": {"urgent": 5, "flags": SYN | URG},
    "urgent beyond": {"urgent": 60000, "flags": URG | ACK, "ack": 9, "payload": b"x"},
    "sequence at the end": {"seq": 2**32 - 1},
    "FIN with data": {"flags": FIN | ACK, "ack": 9, "payload": b"bye"},
    "RST with data": {"flags": RST, "payload": b"because"},
    **{f"offset {offset}": {"offset": offset} for offset in range(16)},
    **{f"offset {offset} of ACK": {"offset": offset, "flags": ACK, "ack": 9} for offset in (0, 4, 6, 15)},
}
_UDP_CHANGES: dict[str, dict[str, object]] = {"wrong checksum by much": {"wrong": 0x1234}}
_IPV4_OPTIONS = {
    "nop": b"\1\1\1\1",
    "end": b"\0\1\2\3",
    "record route": b"\7\x0b\4" + bytes(8) + b"\0",
    "record route, full": b"\7\7\x08" + bytes(4) + b"\0",
    "record route, wrong pointer": b"\7\7\3" + bytes(4) + b"\0",
    "time stamp": b"\x44\x0c\5\0" + bytes(8),
    "time stamp and address": b"\x44\x0c\5\1" + bytes(8),
    "time stamp, wrong pointer": b"\x44\x0c\2\0" + bytes(8),
    "router alert": b"\x94\4\0\0",
    "loose source route": b"\x83\7\4\xc0\0\2\1\0",
    "loose source route, over": b"\x83\7\x08\xc0\0\2\1\0",
    "strict source route": b"\x89\7\4\xc0\0\2\1\0",
    "security": b"\x82\x0b" + bytes(9) + b"\0",
    "CIPSO": b"\x86\6\0\0\0\0\0\0",
    "unknown": b"\xde\4\0\0",
    "too long": b"\x44\x28\5\0",
    "of length 0": b"\x44\0\0\0",
}
_IPV4_FIELDS = {
    "class 0xbb": (0, 0x45BB),
    "class 0x03": (0, 0x4503),
    "do not fragment": (6, 0x4000),
    "reserved bit": (6, 0x8000),
    "identification 0": (4, 0),
}
_IPV6_FIELDS = {"class 0xbb": (0, 0x6BB0), "flow label": (2, 0x1234), "class and label": (0, 0x6BBF)}
_PADDING = b"\1\4" + bytes(4)


def _option(kind: int, data: bytes = b"") -> bytes:
    """An option of an extension header, padded with it to eight bytes less two."""
    made = bytes([kind, len(data)]) + data
    rest = 6 - len(made)
    return made + (b"" if rest == 0 else b"\0" if rest == 1 else bytes([1, rest - 2]) + bytes(rest - 2))


_IPV6_HEADERS = {
    **{
        f"{name} with option {kind:#04x}": (first, b"NEXT\0" + _option(kind))
        for name, first in (("hop by hop", HOP_BY_HOP), ("destination", DESTINATION))
        for kind in (0x01, 0x1E, 0x5E, 0x9E, 0xDE)
    },
    "router alert": (HOP_BY_HOP, b"NEXT\0" + _option(5, b"\0\0")),
    "hop by hop beyond": (HOP_BY_HOP, b"NEXT\x40" + _PADDING),
    "destination beyond": (DESTINATION, b"NEXT\x40" + _PADDING),
    "destination, option beyond": (DESTINATION, b"NEXT\0\x1e\x40" + bytes(4)),
    "destination twice": (DESTINATION, b"\x3c\0" + _PADDING + b"NEXT\0" + _PADDING),
    "hop by hop in the second place": (DESTINATION, b"\0\0" + _PADDING + b"NEXT\0" + _PADDING),
    "home address": (DESTINATION, b"NEXT\2" + b"\1\2\0\0" + b"\xc9\x10" + bytes(16)),
    **{
        f"routing type {kind}, {left} left": (ROUTING, b"NEXT\2" + bytes([kind, left]) + bytes(20))
        for kind in (0, 2, 3, 4, 99)
        for left in (0, 1)
    },
    "segments": (ROUTING, b"NEXT\2\4\0\0\0\0\0" + bytes.fromhex("20010db8000000000000000000000001")),
    "segments left": (ROUTING, b"NEXT\2\4\1\0\0\0\0" + bytes.fromhex("20010db8000000000000000000000001")),
    "whole as a fragment": (FRAGMENT, b"NEXT\0\0\0\0\0\0\7"),
    "authentication": (AUTHENTICATION, b"NEXT\4" + bytes(22)),
    "unknown header": (253, b"NEXT\0" + _PADDING),
}
_FRAGMENTS: dict[str, list[tuple[int, int | None, bool]]] = {
    "in order": [(0, 16, True), (16, None, False)],
    "in reverse": [(16, None, False), (0, 16, True)],
    "tiny": [(0, 8, True), (8, None, False)],
    "over each other": [(0, 16, True), (8, None, False)],
    "the first alone": [(0, 16, True)],
    "the first, of an odd length": [(0, 13, True)],
    "the last alone": [(16, None, False)],
    "at the far end": [(65528, None, False)],
}


def _put(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + struct.pack("!H", value) + packet[at + 2 :]


def _again(packet: bytes) -> bytes:
    """The packet with its IPv4 header's checksum made again."""
    size = (packet[0] & 15) * 4
    return _put(packet, 10, checksum(packet[:10] + b"\0\0" + packet[12:size]))


def _fragment4(head: bytes, inner: bytes, start: int, end: int | None, more: bool) -> bytes:  # noqa: FBT001
    part = inner[start:end] if start < len(inner) else inner
    number = int.from_bytes(inner[:2], "big")  # the source port: each probe's fragments are of one packet
    made = _put(_put(_put(head, 2, len(head) + len(part)), 4, number), 6, start // 8 | (0x2000 if more else 0))
    return _again(made) + part


def _fragment6(proto: int, inner: bytes, start: int, end: int | None, more: bool) -> bytes:  # noqa: FBT001
    part = inner[start:end] if start < len(inner) else inner
    return struct.pack("!BBHI", proto, 0, start | more, int.from_bytes(inner[:2], "big")) + part
