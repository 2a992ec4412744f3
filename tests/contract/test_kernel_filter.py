"""The kernel filter says of every datagram what the listener's own check says, before it is the listener's turn.

The programs are this kernel's, run by its own test run; two tests have real sockets. What SipHash is, and what fits,
comes from the independent implementation (support/independent_v2.py) and from PyNaCl.
"""

import contextlib
import errno
import hashlib
import random
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest
from nacl.bindings import crypto_shorthash_siphash24

from openme.kernel_filter import bpf, layout
from openme.kernel_filter.filter import PACKETS, KernelFilter, put_before
from openme.kernel_filter.layout import PLACES, Senders
from openme.kernel_filter.program import COPIES_A_SECOND, FAMILIAR_A_SECOND
from openme.knock_size import KNOCK_SIZE
from openme.listener.listener import Listener
from openme.reasons import Reason
from openme.seam.messages import ForgetEpochKey, ForgetV1Key, UseEpochKey, UseV1Key
from openme.server.sockets import RECEIVE_BUFFER
from openme.wire.base import ServerKey
from openme.wire.knock import BadPacket
from support import independent_v2
from support.judged import Judge, judging
from support.knocks import EPOCH, SERVER, obey, packet, packet_v2, ratchet
from support.netns import until
from support.shaped import shaped

pytestmark = pytest.mark.root

chance = random.Random(12)
KEYS = [secrets.token_bytes(16) for _ in range(3)]
LONGEST = 2048
_UDP_SEGMENT = 103


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judging() as made:
        yield made


def follow(judge: Judge, *keys: bytes, v1: bool = False) -> None:
    """Have the filter in force with these filter keys, and version 1 on or off."""
    judge.filter.follow(
        {
            1: {0: ServerKey(0, SERVER.raw)} if v1 else {},
            2: {number: ServerKey(number, b"", b"", key) for number, key in enumerate(keys)},
        }
    )
    judge.filter.judge()


def fitting(key: bytes, content: bytes | None = None) -> bytes:
    """A packet whose M fits."""
    content = chance.randbytes(157) if content is None else content
    return content[:32] + crypto_shorthash_siphash24(content, key) + content[32:]


def flipped(packet: bytes, bit: int) -> bytes:
    """The packet with one bit changed."""
    changed = bytearray(packet)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- version 2


def test_a_right_mac_under_either_live_epoch_is_let_through_and_under_no_other_key(judge: Judge) -> None:
    follow(judge, *KEYS[:2])
    for _ in range(300):
        assert judge(fitting(KEYS[0]))
        assert judge(fitting(KEYS[1]))
        assert not judge(fitting(KEYS[2]))
        assert not judge(chance.randbytes(KNOCK_SIZE))
    assert judge.filter.dropped() == {"filter": 600}


def test_the_hash_is_siphash_as_the_independent_implementation_has_it(judge: Judge) -> None:
    """Keys and messages of all zeros and ones, and the reference implementation's own key, among them."""
    keys = [bytes(16), b"\xff" * 16, bytes(range(16)), chance.randbytes(16)]
    messages = [bytes(157), b"\xff" * 157, bytes(range(157)), chance.randbytes(157), b"\x80" * 157]
    for key in keys:
        follow(judge, key)
        for message in messages:
            mac = independent_v2.siphash(key, message)
            assert judge(message[:32] + mac + message[32:])
            assert not judge(message[:32] + bytes(8) + message[32:])


def test_every_flipped_bit_is_refused(judge: Judge) -> None:
    follow(judge, *KEYS[:2])
    for key in KEYS[:2]:
        right = fitting(key)
        assert not any(judge(flipped(right, bit)) for bit in range(8 * KNOCK_SIZE))
        assert judge(right)


@pytest.mark.parametrize("has_v1", [False, True])
def test_every_other_length_is_refused_whatever_it_holds(judge: Judge, has_v1: bool) -> None:  # noqa: FBT001  # pytest's
    follow(judge, *KEYS[:2], v1=has_v1)
    lengths = [length for length in range(LONGEST + 1) if length != KNOCK_SIZE]
    for begin in (fitting(KEYS[0]), shaped()):
        for length in lengths:
            assert not judge((begin + bytes(LONGEST))[:length]), length
    assert judge.filter.dropped() == {"length": 2 * len(lengths)}


# -- both versions


@pytest.mark.parametrize("live", [[], [EPOCH], [EPOCH + 1], [EPOCH, EPOCH + 1]], ids=len)
@pytest.mark.parametrize("v1_keys", [0, 1, 2])
def test_it_says_what_the_listener_says(judge: Judge, live: list[int], v1_keys: int) -> None:
    """By the listener's own handlers, with its own keys; each version on and off, hundreds of packets."""
    listener = Listener(judge.filter)
    judge.filter.judge()
    for number in range(v1_keys):
        obey(listener, UseV1Key(number, hashlib.sha256(bytes([number])).digest()))
    for epoch in live:
        obey(listener, UseEpochKey(epoch, ratchet().private_key(epoch)))
    # What was on before and is off now.
    obey(listener, UseEpochKey(EPOCH + 2, ratchet().private_key(EPOCH + 2)))
    obey(listener, ForgetEpochKey(EPOCH + 2))
    obey(listener, UseV1Key(7, SERVER.raw))
    obey(listener, ForgetV1Key(7))
    edges = [bytearray(shaped()) for _ in range(9)]
    for made, (offset, value) in zip(
        edges,
        ((0, 0), (0, 2), (0, 0x81), (32, 0x7F), (32, 0x80), (32, 0xFF), (164, 0x10), (164, 0x11), (164, 0xFF)),
        strict=True,
    ):
        made[offset] = value
    datagrams = [
        *(packet_v2(epoch=epoch, label=label) for epoch in range(EPOCH - 1, EPOCH + 4) for label in range(8)),
        *(packet(label=label) for label in range(20)),
        *(shaped() for _ in range(200)),
        *(chance.randbytes(KNOCK_SIZE) for _ in range(200)),
        *(bytes([1]) + chance.randbytes(KNOCK_SIZE - 1) for _ in range(200)),
        *map(bytes, edges),
        *(chance.randbytes(length) for length in (0, 1, KNOCK_SIZE - 1, KNOCK_SIZE + 1, 1400)),
    ]
    chance.shuffle(datagrams)
    verdicts = set()
    for datagram in datagrams:
        expected = None
        try:
            listener.version_untrusted(datagram)
        except BadPacket as bad:
            expected = bad.reason
        passed = judge(datagram)
        assert (passed, judge.filter.dropped()) == (expected is None, {} if expected is None else {expected: 1})
        verdicts.add(expected)
    assert verdicts == {"length", "filter", *([None] if live or v1_keys else [])}


def test_until_it_is_told_to_judge_everything_is_let_through(judge: Judge) -> None:
    """Whoever knocks while a server starts waits in the socket until it has its keys."""
    judge.filter.follow({1: {}, 2: {}})
    assert all(judge(chance.randbytes(length)) for length in (0, 1, KNOCK_SIZE, 1400))
    judge.filter.judge()
    assert not any(judge(chance.randbytes(length)) for length in (0, 1, KNOCK_SIZE, 1400))


# -- keys that change


def test_a_slot_that_is_half_written_fits_nothing(judge: Judge) -> None:
    """Whatever of an old and a new key a processor sees: of all mixtures none is a key but the two themselves."""
    words = judge.filter._settings
    at = layout.slot_at(0)
    follow(judge)
    empty = (0, 0, 0)
    whole = {}
    for key in KEYS[:2]:
        first, second = struct.unpack("<QQ", key)
        whole[key] = (first, second, layout.sealed(first, second))
    states = [empty, *whole.values()]
    for first in {state[0] for state in states}:
        for second in {state[1] for state in states}:
            for seal in {state[2] for state in states}:
                words[at], words[at + 1], words[at + 2] = first, second, seal
                seen = struct.pack("<QQ", first, second)
                is_whole = whole.get(seen) == (first, second, seal)
                assert judge(fitting(seen)) == is_whole
                for key in KEYS[:2]:
                    assert judge(fitting(key)) == (is_whole and key == seen)


def test_more_keys_than_slots_lose_no_knock(judge: Judge) -> None:
    """No keeper has three live epochs; if one had, the process would judge alone."""
    follow(judge, *KEYS)
    assert all(judge(fitting(key)) for key in KEYS)
    assert judge(chance.randbytes(KNOCK_SIZE))
    follow(judge, *KEYS[1:])
    assert [judge(fitting(key)) for key in KEYS] == [False, True, True]


class Told:
    """A `Filter` that notes what it is told."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.looks: list[bool] = []
        self.packet: Callable[[], bytes] = bytes

    def follow(self, keys: dict[int, dict[int, ServerKey]]) -> None:
        self.judge.filter.follow(keys)
        self.looks.append(self.judge(self.packet()))


def test_a_key_that_is_told_again_is_at_no_moment_missing(judge: Judge) -> None:
    told = Told(judge)
    listener = Listener(told)  # type: ignore[arg-type]  # its keys are dictionaries
    judge.filter.judge()
    number = iter(range(100))
    told.packet = lambda: packet_v2(label=f"again {next(number)}")
    for _ in range(5):
        obey(listener, UseEpochKey(EPOCH, ratchet().private_key(EPOCH)))
    obey(listener, UseEpochKey(EPOCH + 1, ratchet().private_key(EPOCH + 1)))
    assert told.looks == [True] * 6


# -- copies


def burst(judge: Judge, made: Callable[[], bytes], times: int) -> tuple[bytes, list[bool]]:
    """A packet, judged so often within a second, and the verdicts; another one if this machine took longer."""
    while True:
        datagram, begun = made(), time.monotonic()
        verdicts = [judge(datagram) for _ in range(times)]
        if time.monotonic() - begun < 1:
            return datagram, verdicts


SORTS: dict[str, Callable[[], bytes]] = {
    "one epoch": lambda: fitting(KEYS[0]),
    "the other": lambda: fitting(KEYS[1]),
    "version 1": shaped,
}
sorts = pytest.mark.parametrize("made", SORTS.values(), ids=SORTS)


@sorts
def test_of_one_packet_sixteen_a_second_are_let_through(judge: Judge, made: Callable[[], bytes]) -> None:
    follow(judge, *KEYS[:2], v1=True)
    copied, verdicts = burst(judge, made, 100)
    assert verdicts == [True] * COPIES_A_SECOND + [False] * (100 - COPIES_A_SECOND)
    assert judge.filter.dropped() == {"copy": 100 - COPIES_A_SECOND}
    assert judge(made())
    until(lambda: judge(copied), 5)


def share_in_a_later_second(judge: Judge, made: Callable[[], bytes]) -> int:
    """How many copies of one packet are let through in a second that is not its first."""
    while True:
        copied, _ = burst(judge, made, COPIES_A_SECOND + 1)
        until(partial(judge, copied), 5)
        begun = time.monotonic()
        found = 1 + sum(judge(copied) for _ in range(100))
        if time.monotonic() - begun < 0.9:
            return found


@sorts
def test_a_later_second_has_no_more(judge: Judge, made: Callable[[], bytes]) -> None:
    follow(judge, *KEYS[:2], v1=True)
    assert share_in_a_later_second(judge, made) == COPIES_A_SECOND


@pytest.mark.parametrize("bit", [8, 255, 256, 262, 264, 319, 320, 1311, 1312])
def test_no_other_packet_uses_up_the_share_of_a_version_1_knock(judge: Judge, bit: int) -> None:
    """Whoever sees a knock on its way cannot be faster with others that count as it."""
    follow(judge, v1=True)
    changed, verdicts = burst(judge, lambda: flipped(shaped()[:-1] + bytes(1), bit), 100)
    assert verdicts.count(True) == COPIES_A_SECOND
    assert judge(flipped(changed, bit))


@sorts
def test_any_number_of_packets_is_remembered_in_bounded_room(judge: Judge, made: Callable[[], bytes]) -> None:
    """All of them come in, and one that goes on coming is not forgotten for them."""
    follow(judge, *KEYS[:2], v1=True)
    copied, passed, begun = fitting(KEYS[0]), 0, time.monotonic()
    for _ in range(PACKETS // 8):
        passed += judge(copied)
        assert all(judge(made()) for _ in range(16))
    seconds = time.monotonic() - begun
    assert passed <= COPIES_A_SECOND * (seconds + 2)


def test_each_filter_has_a_key_of_its_own_for_copies_of_version_1(judge: Judge) -> None:
    """Who knew it could make another packet that uses up a knock's share."""
    place = slice(layout.COPIES_KEY, layout.COPIES_KEY + layout.KEY_WORDS)
    keys = {tuple(judge.filter._settings[place])}
    for _ in range(3):
        with judging() as other:
            keys.add(tuple(other.filter._settings[place]))
    assert len(keys) == 4
    assert len({half for key in keys for half in key}) == 8


# -- what is left to the process to tell


def test_so_many_refusals_of_a_kind_in_a_second_are_left_to_the_process() -> None:
    noise, seconds = chance.randbytes(KNOCK_SIZE), 1.0
    verdicts: list[list[bool]] = []
    dropped = Counter[Reason]()
    while seconds >= 1:
        with judging(told=5) as judge:
            follow(judge, KEYS[0])
            begun = time.monotonic()
            verdicts = [[judge(datagram) for _ in range(8)] for datagram in (noise, b"")]
            seconds = time.monotonic() - begun
            dropped = judge.filter.dropped()
    assert verdicts == [[True] * 5 + [False] * 3] * 2
    assert dropped == {"filter": 3, "length": 3}


# -- on a socket


def descriptors() -> set[str]:
    """Those of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


class Receiving:
    """A knock socket with a filter, on both families, and a sender to it."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)  # SO_RCVBUFFORCE
        self.socket.bind(("::", 0))
        self.socket.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._senders = {4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)}
        self._senders[6] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    def send(self, datagram: bytes, family: int = 4) -> None:
        """Over loopback it is there, or dropped, when this returns."""
        self._senders[family].sendto(datagram, ({4: "127.0.0.1", 6: "::1"}[family], self.socket.getsockname()[1]))

    def send_from(self, source: str, datagrams: list[bytes]) -> None:
        """The same, from another address of loopback's network."""
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.bind((source, 0))
            for datagram in datagrams:
                sender.sendto(datagram, ("127.0.0.1", self.socket.getsockname()[1]))

    def received(self) -> list[bytes]:
        """All that is there."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(65536))
        return found

    def close(self) -> None:
        for each in (self.socket, *self._senders.values()):
            each.close()


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    with closing(Receiving()) as made:
        yield made


def put_in_force(receiving: Receiving, *keys: bytes, v1: bool = False) -> KernelFilter:
    made = put_before(receiving.socket)
    follow(Judge(made, -1), *keys, v1=v1)
    return made


# -- places


def shaped_ones(count: int) -> list[bytes]:
    return [shaped() for _ in range(count)]


def fitting_ones(count: int) -> list[bytes]:
    return [fitting(KEYS[0]) for _ in range(count)]


KINDS = {Senders.STRANGE: fitting_ones, Senders.STRANGE_SHAPED: shaped_ones}


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_of_a_version_have_so_many_places_until_the_socket_is_emptied(
    receiving: Receiving, kind: Senders
) -> None:
    most = PLACES[kind]
    with closing(put_in_force(receiving, KEYS[0], v1=True)) as made:
        for _ in range(2):
            made.emptied()
            sent = KINDS[kind](most + 10)
            receiving.send_from("127.0.0.2", sent)
            assert receiving.received() == sent[:most]
            assert made.dropped() == {"busy": 10}
            (other,) = KINDS.keys() - {kind}
            sent = KINDS[other](10)
            receiving.send_from("127.0.0.2", sent)
            assert receiving.received() == sent, "the other version has places of its own"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_familiar_address_finds_a_place_when_strangers_find_none(
    receiving: Receiving, kind: Senders, family: int
) -> None:
    with closing(put_in_force(receiving, KEYS[0], v1=True)) as made:
        made.make_familiar(ip_address({4: "127.0.0.1", 6: "::1"}[family]))
        made.emptied()
        receiving.send_from("127.0.0.2", KINDS[kind](PLACES[kind] + 1))
        (knock,) = KINDS[kind](1)
        receiving.send(knock, 10 - family)
        receiving.send(knock, family)
        assert receiving.received()[PLACES[kind] :] == [knock]
        assert made.dropped() == {"busy": 2}


def test_who_forges_a_familiar_address_is_in_the_way_of_that_one_alone(receiving: Receiving) -> None:
    """So many a second; what comes beyond that is a stranger's."""
    count = FAMILIAR_A_SECOND + PLACES[Senders.STRANGE]
    while True:
        sent, (honest,), begun = fitting_ones(count + 10), fitting_ones(1), time.monotonic()
        with closing(put_in_force(receiving, KEYS[0])) as made:
            for address in ("127.0.0.2", "127.0.0.3"):
                made.make_familiar(ip_address(address))
            made.emptied()
            receiving.send_from("127.0.0.2", sent)
            receiving.send_from("127.0.0.3", [honest])
            found, dropped = receiving.received(), made.dropped()
        if time.monotonic() - begun < 1:  # else the next second has begun for that address
            break
    assert found == [*sent[:count], honest]
    assert dropped == {"busy": 10}


def test_all_places_together_fit_into_the_socket(receiving: Receiving) -> None:
    """So that it drops nothing itself, for which it would not ask who sent it."""
    with closing(put_in_force(receiving, KEYS[0], v1=True)) as made:
        familiar = [f"127.0.1.{number}" for number in range(1, 1 + PLACES[Senders.FAMILIAR] // 512)]
        for address in familiar:
            made.make_familiar(ip_address(address))
        made.emptied()
        sent = []
        for address in familiar:
            sent += (part := fitting_ones(512))
            receiving.send_from(address, part)
        for kind, made_ones in KINDS.items():
            sent += (part := made_ones(PLACES[kind]))
            receiving.send_from("127.0.0.2", part)
        assert receiving.received() == sent
        receiving.send_from(familiar[0], fitting_ones(1))
        assert receiving.received() == [], "there was a place left"


def test_thousands_of_addresses_are_familiar_at_a_time(receiving: Receiving) -> None:
    addresses = [f"127.{number >> 8}.{number & 255}.7" for number in range(4096)]
    with closing(put_in_force(receiving, KEYS[0])) as made:
        for address in addresses:
            made.make_familiar(ip_address(address))
        made.emptied()
        receiving.send_from("127.255.0.1", fitting_ones(PLACES[Senders.STRANGE]))
        receiving.received()
        missing = 0
        for address in addresses[:: len(addresses) // 512]:
            (knock,) = fitting_ones(1)
            receiving.send_from(address, [knock])
            missing += receiving.received() != [knock]
        assert missing <= 2
        receiving.send_from("127.255.0.2", fitting_ones(1))
        assert receiving.received() == []


# -- over both families


@pytest.mark.parametrize("family", [4, 6])
def test_over_both_families_a_socket_gets_whole_packets_and_no_noise(receiving: Receiving, family: int) -> None:
    with closing(put_in_force(receiving, KEYS[0], v1=True)) as made:
        right = [fitting(KEYS[0]), shaped(), fitting(KEYS[0])]
        for datagram in (*right, chance.randbytes(KNOCK_SIZE), b"", fitting(KEYS[1]), right[0] + b"x"):
            receiving.send(datagram, family)
        assert receiving.received() == right
        assert made.dropped() == {"filter": 2, "length": 2}


def test_segments_of_one_large_send_are_judged_one_by_one(receiving: Receiving) -> None:
    """Over loopback the kernel passes on what was sent by UDP_SEGMENT (udp(7)) as one piece."""
    right = [fitting(KEYS[0]) for _ in range(4)]
    with closing(put_in_force(receiving, KEYS[0])) as made, closing(socket.socket(type=socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, KNOCK_SIZE)
        segments = b"".join(datagram + chance.randbytes(KNOCK_SIZE) for datagram in right) + b"a shorter one"
        sender.sendto(segments, ("127.0.0.1", receiving.socket.getsockname()[1]))
        assert receiving.received() == right
        assert made.dropped() == {"filter": 4, "length": 1}


def test_it_goes_on_without_a_descriptor_and_in_every_process_that_has_the_memory(receiving: Receiving) -> None:
    before = descriptors()
    with closing(put_in_force(receiving, KEYS[0])):
        assert descriptors() == before
        receiving.send(chance.randbytes(KNOCK_SIZE))
        receiving.send(fitting(KEYS[0]))
        assert len(receiving.received()) == 1
        maps = Path("/proc/self/maps").read_text()
        assert maps.count("bpf-map") == 3
    assert "bpf-map" not in Path("/proc/self/maps").read_text()
    receiving.send(chance.randbytes(KNOCK_SIZE))
    assert receiving.received() == [], "it judges by the last keys"


def test_a_next_start_with_the_same_socket_has_a_filter_of_its_own(receiving: Receiving) -> None:
    put_in_force(receiving, KEYS[0]).close()
    with closing(put_before(receiving.socket)) as made:
        noise = chance.randbytes(KNOCK_SIZE)
        receiving.send(noise)
        assert receiving.received() == [noise], "the keys of the one before are nobody's"
        follow(Judge(made, -1), KEYS[1])
        for key in KEYS[:2]:
            receiving.send(fitting(key))
        assert len(receiving.received()) == 1


@pytest.mark.parametrize("refuses", ["_new_map", "_load", "attach"])
def test_a_next_start_that_gets_no_filter_has_not_the_one_before(
    receiving: Receiving, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    """And no descriptor or memory of the attempt is left."""
    put_in_force(receiving, KEYS[0]).close()
    before = descriptors()

    def refused(*_: object) -> NoReturn:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(bpf, refuses, refused)
    with pytest.raises(PermissionError):
        put_before(receiving.socket)
    noise = chance.randbytes(KNOCK_SIZE)
    receiving.send(noise)
    assert receiving.received() == [noise]
    assert descriptors() == before
    assert "bpf-map" not in Path("/proc/self/maps").read_text()


def test_keys_are_renewed_without_losing_a_packet_and_letting_none_in(receiving: Receiving) -> None:
    """One epoch goes on while the other slot is written again and again; forgers know each half of each key."""
    lives, *others = (secrets.token_bytes(16) for _ in range(9))
    forged = [bytes(16), *(a[:8] + b[8:] for a in (*others, bytes(16)) for b in (*others, bytes(16)) if a != b)]
    with closing(put_in_force(receiving, lives)) as made:
        stop = threading.Event()

        def renew() -> None:
            number = 0
            while not stop.is_set():
                # Without the rest of `follow`, so that most of the time is spent in writing.
                made._slots.hold({lives, others[number % len(others)]})
                number += 1

        writer = threading.Thread(target=renew)
        writer.start()
        try:
            for number in range(3000):
                right = fitting(lives)
                receiving.send(right)
                receiving.send(fitting(forged[number % len(forged)]))
                assert receiving.received() == [right], number
        finally:
            stop.set()
            writer.join()


# -- what it is allowed


def test_to_have_the_right_bpf_is_enough() -> None:
    """Without CAP_PERFMON, which the kernel asks of whoever brings a loop."""
    load = "from openme.kernel_filter.filter import loaded; loaded()"
    command = ["setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all", sys.executable, "-c", load]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command[1] = "--bounding-set=-all"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stderr
