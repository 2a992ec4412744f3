"""The program: which datagrams the knock socket gets. What it drops is dropped without a trace but a count.

    not judging yet ─────────────────────────────────────────▶ let through
    not of a knock's length ─────▶ refused: length
    M of no live epoch, and not
    version 1's shape, if it is on ▶ refused: filter
    no place for such senders ───▶ refused: busy
    often in this second ────────▶ refused: copy
    else ────────────────────────────────────────────────────▶ let through

It decides nothing: the process makes the same checks of all that is let through, and more. It sees a datagram from the
UDP header on, over IPv4 and IPv6 alike, whole and with a right checksum.

Copies: of one packet 16 a second are let through, wherever they come from. A packet is known by its M, or, where that
has none, by a hash of all of it under a key that nobody else has, so that nobody can make another packet that uses up
its share. What remembers packets has a bounded size, and forgets first what it has not seen again of late. It is no
replay check.

Places: so many datagrams wait in the socket at most, from addresses that clients have knocked from and, for each
version, from all others (`layout`). Such an address has places for 1,024 datagrams a second; what more comes under its
name, which anybody may write there, is a stranger's.

Straight on: no jump goes back, since a loop is refused to whoever has CAP_BPF alone. So the hash has its rounds written
out, once for each length of what is hashed, as a function.
"""

from openme.kernel_filter import layout
from openme.kernel_filter.assembler import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    Assembler,
    Helper,
    If,
    Op,
    Register,
    Width,
)
from openme.kernel_filter.layout import Refused, Senders
from openme.kernel_filter.siphash import siphash
from openme.knock_size import KNOCK_SIZE
from openme.wire.versions import VERSIONS

# One of each kind; a further version needs a place of its own in the settings.
(WITH_MAC,) = (version for version in VERSIONS if version.filter_mac is not None)
(WITH_SHAPE,) = (version for version in VERSIONS if version.shape)

UDP_HEADER_SIZE = 8
COPIES_A_SECOND = 16
FAMILIAR_A_SECOND = 1024  # datagrams of one address
SECOND = 10**9  # nanoseconds

# The maps that it names.
SETTINGS, COUNTS, COPIES, FAMILIAR = "settings", "counts", "copies", "familiar"

_WORD = 8
_SKB_LENGTH, _SKB_PROTOCOL = 0, 16  # in `struct __sk_buff`, which a program sees of a datagram (linux/bpf.h)
_IPV4, _IPV6 = 0x0008, 0xDD86  # Ethernet's numbers for them, in network order
_V4_SOURCE, _V4_SIZE = 12, 4  # where the source stands in a header of IP, and its bytes
_V6_SOURCE, _V6_SIZE = 8, 16
_V4_MARK = (10, 11)  # the bytes of it that are ff
_FROM_IP_HEADER = 1  # BPF_HDR_START_NET
_MAC_OFFSET = WITH_MAC.filter_mac.start if WITH_MAC.filter_mac else 0  # 32
_HASHED_SIZE = KNOCK_SIZE - _WORD  # 157: all but M
_WORDS = -(-KNOCK_SIZE // _WORD)  # 21; M is one of them, and the last one has 5 bytes
_HASHED = tuple(_WORD * word for word in range(_WORDS) if _WORD * word != _MAC_OFFSET)

# The stack, from its end.
_PACKET = -_WORD * _WORDS
_MAC = _PACKET + _MAC_OFFSET
_LAST_WORD = _PACKET + _HASHED[-1]
_LENGTH_BYTE = _LAST_WORD + _WORD - 1
_KEY = _PACKET - _WORD
_COUNT = _KEY - _WORD
_BEGUN = _COUNT - _WORD
_ROW = _BEGUN - _WORD
_PACKET_KEY = _ROW - _WORD
_ADDRESS_KEY = _PACKET_KEY - _WORD
_ADDRESS = _ADDRESS_KEY - 3 * _WORD
_ADDRESS_LENGTH_BYTE = _ADDRESS + 3 * _WORD - 1


def knock_filter() -> Assembler:
    """The program. In R7 it has the settings, in R8 why it refuses; in R9 the datagram, later the time.

    In R6 it has the places of the sender's kind, or how many refusals are let through in a second.
    """
    code = Assembler()
    code.move(R9, R1)
    code.map_value(R7, SETTINGS)
    _setting(code, R0, layout.JUDGES)
    code.jump_if(R0, If.EQUAL, 0, "let through")
    _take_packet(code)
    for slot in range(layout.SLOTS):
        _try_slot(code, slot)
    _try_shape(code)
    code.label("has M")
    code.load(R0, R10, _MAC)
    _places_of(code, Senders.STRANGE)
    code.label("may be a knock")
    code.store(R10, _PACKET_KEY, R0)
    _find_address(code)
    _places_of(code, Senders.FAMILIAR)
    code.label("stranger")
    code.move(R8, Refused.BUSY)
    code.load(R1, R6, 0)
    code.load(R2, R6, _WORD)
    code.jump_if(R1, If.AT_LEAST, R2, "refuse")
    code.move(R8, Refused.COPY)
    code.load(R0, R10, _PACKET_KEY)
    _jump_if_often(code, COPIES_A_SECOND, "drop")
    code.move(R1, 1)
    code.atomic_add(R6, 0, R1)
    code.jump("let through")
    code.label("filter")
    code.move(R8, Refused.FILTER)
    code.label("refuse")
    _setting(code, R6, layout.TOLD_A_SECOND)
    code.jump_if(R6, If.EQUAL, 0, "drop")
    code.move(R0, R8)
    _jump_if_often(code, R6, "drop")
    code.label("let through")
    code.move(R0, -1)  # as many bytes as there are
    code.exit()
    code.label("drop")
    _count(code)
    code.label("dropped")
    code.move(R0, 0)
    code.exit()
    siphash(code, "hash of packet", _HASHED)
    siphash(code, "hash of address", (0, _WORD, 2 * _WORD))
    return code


def _setting(code: Assembler, to: Register, place: int) -> None:
    code.load(to, R7, _WORD * place)


def _take_packet(code: Assembler) -> None:
    """Copy a datagram of a knock's size to the stack, with zeros behind it."""
    code.move(R8, Refused.LENGTH)
    code.load(R2, R9, _SKB_LENGTH, Width.WORD)
    code.jump_if(R2, If.NOT_EQUAL, UDP_HEADER_SIZE + KNOCK_SIZE, "refuse")
    code.store(R10, _LAST_WORD, 0)
    code.move(R1, R9)
    code.move(R2, UDP_HEADER_SIZE)
    code.move(R3, R10)
    code.alu(Op.ADD, R3, _PACKET)
    code.move(R4, KNOCK_SIZE)
    code.call(Helper.SKB_LOAD_BYTES)
    code.jump_if(R0, If.NOT_EQUAL, 0, "refuse")
    code.store(R10, _LENGTH_BYTE, _HASHED_SIZE, Width.BYTE)


def _try_slot(code: Assembler, slot: int) -> None:
    """Go on at `has M` if M fits the key of this slot. It is read once: the process may change it at any time."""
    beyond = f"not of slot {slot}"
    first = layout.slot_at(slot)
    _setting(code, R2, first)
    _setting(code, R3, first + 1)
    _setting(code, R4, first + layout.KEY_WORDS)
    code.wide(R5, layout.SEAL)
    code.alu(Op.XOR, R5, R2)
    code.alu(Op.XOR, R5, R3)
    code.jump_if(R5, If.NOT_EQUAL, R4, beyond)
    _call_siphash(code)
    code.load(R1, R10, _MAC)
    code.jump_if(R0, If.EQUAL, R1, "has M")
    code.label(beyond)


def _try_shape(code: Assembler) -> None:
    """Go on at `may be a knock`, in R0 what copies are known by, if it has that shape and its version is on."""
    _setting(code, R0, layout.TAKES_SHAPED)
    code.jump_if(R0, If.EQUAL, 0, "filter")
    for offset, (least, most) in WITH_SHAPE.shape.items():
        code.load(R0, R10, _PACKET + offset, Width.BYTE)
        if least == most:
            code.jump_if(R0, If.NOT_EQUAL, least, "filter")
        else:
            code.jump_if(R0, If.GREATER, most, "filter")
    _setting(code, R2, layout.COPIES_KEY)
    _setting(code, R3, layout.COPIES_KEY + 1)
    _call_siphash(code)
    # What the hash leaves out, the place of M, is in the number too: one bit changed anywhere makes another number, and
    # whoever does not know the key cannot say which.
    code.load(R1, R10, _MAC)
    code.alu(Op.XOR, R0, R1)
    _places_of(code, Senders.STRANGE_SHAPED)
    code.jump("may be a knock")


def _call_siphash(code: Assembler) -> None:
    code.move(R1, R10)
    code.alu(Op.ADD, R1, _PACKET)
    code.call_ours("hash of packet")


def _places_of(code: Assembler, senders: Senders) -> None:
    code.move(R6, R7)
    code.alu(Op.ADD, R6, _WORD * layout.places_at(senders))


def _find_address(code: Assembler) -> None:
    """Go on at `stranger` unless the source is an address that clients have knocked from, and has not sent too much."""
    code.store(R10, _ADDRESS + 2 * _WORD, 0)
    code.store(R10, _ADDRESS_LENGTH_BYTE, _V6_SIZE, Width.BYTE)
    code.load(R0, R9, _SKB_PROTOCOL, Width.WORD)
    code.jump_if(R0, If.EQUAL, _IPV6, "IPv6")
    code.jump_if(R0, If.NOT_EQUAL, _IPV4, "stranger")
    code.store(R10, _ADDRESS, 0)
    # As IPv6 writes an address of IPv4. Byte by byte: where 64 bits begin, 5.10 and 6.1 take a smaller number for a
    # register that was put there, and let no helper write beside it.
    code.store(R10, _ADDRESS + _WORD, 0)
    for place in _V4_MARK:
        code.store(R10, _ADDRESS + place, 0xFF, Width.BYTE)
    _take_address(code, _V4_SOURCE, _V4_SIZE)
    code.jump("has address")
    code.label("IPv6")
    _take_address(code, _V6_SOURCE, _V6_SIZE)
    code.label("has address")
    code.move(R1, R10)
    code.alu(Op.ADD, R1, _ADDRESS)
    _setting(code, R2, layout.ADDRESS_KEY)
    _setting(code, R3, layout.ADDRESS_KEY + 1)
    code.call_ours("hash of address")
    code.store(R10, _ADDRESS_KEY, R0)
    code.alu(Op.AND, R0, layout.BUCKETS - 1)
    _look_up(code, FAMILIAR, R0)
    code.jump_if(R0, If.EQUAL, 0, "stranger")
    code.load(R1, R10, _ADDRESS_KEY)
    for word in range(layout.BUCKET_WORDS):
        code.load(R2, R0, _WORD * word)
        code.jump_if(R2, If.EQUAL, R1, "familiar")
    code.jump("stranger")
    code.label("familiar")
    code.move(R0, R1)
    _jump_if_often(code, FAMILIAR_A_SECOND, "stranger")


def _take_address(code: Assembler, offset: int, size: int) -> None:
    """Copy an address from the header of IP to the end of its place on the stack."""
    code.move(R1, R9)
    code.move(R2, offset)
    code.move(R3, R10)
    code.alu(Op.ADD, R3, _ADDRESS + _V6_SIZE - size)
    code.move(R4, size)
    code.move(R5, _FROM_IP_HEADER)
    code.call(Helper.SKB_LOAD_BYTES_RELATIVE)
    code.jump_if(R0, If.NOT_EQUAL, 0, "stranger")


def _jump_if_often(code: Assembler, most: Register | int, often: str) -> None:
    """Go on at `often` if what is known by R0 came here so many times in the second that began with its first time.

    Two processors that add at once may let one more through; nothing rests on the exact number.
    """
    place = len(code)
    first_time, another_second, counted = (f"{word} {place}" for word in ("first time", "another second", "counted"))
    code.store(R10, _KEY, R0)
    code.call(Helper.KTIME_GET_NS)
    code.move(R9, R0)
    _point(code)
    code.call(Helper.MAP_LOOKUP)
    code.jump_if(R0, If.EQUAL, 0, first_time)
    code.load(R1, R0, 0)
    code.move(R2, R9)
    code.alu(Op.SUB, R2, R1)
    code.jump_if(R2, If.AT_LEAST, SECOND, another_second)
    code.load(R1, R0, _WORD)
    code.jump_if(R1, If.AT_LEAST, most, often)
    code.move(R1, 1)
    code.atomic_add(R0, _WORD, R1)
    code.jump(counted)
    code.label(another_second)
    code.store(R0, 0, R9)
    code.store(R0, _WORD, 1)
    code.jump(counted)
    code.label(first_time)
    code.store(R10, _BEGUN, R9)
    code.store(R10, _COUNT, 1)
    _point(code)
    code.move(R3, R10)
    code.alu(Op.ADD, R3, _BEGUN)
    code.move(R4, 0)  # BPF_ANY
    code.call(Helper.MAP_UPDATE)  # also where there is no room it counts as the first time
    code.label(counted)


def _point(code: Assembler) -> None:
    code.map(R1, COPIES)
    code.move(R2, R10)
    code.alu(Op.ADD, R2, _KEY)


def _count(code: Assembler) -> None:
    """Count a refusal of the kind in R8, in the row of this processor."""
    code.call(Helper.GET_SMP_PROCESSOR_ID)
    code.alu(Op.AND, R0, layout.PROCESSORS - 1)
    code.alu(Op.LSH, R8, layout.PROCESSORS.bit_length() - 1)
    code.alu(Op.OR, R0, R8)
    _look_up(code, COUNTS, R0)
    code.jump_if(R0, If.EQUAL, 0, "dropped")
    code.move(R1, 1)
    code.atomic_add(R0, 0, R1)


def _look_up(code: Assembler, array: str, number: Register) -> None:
    """R0 becomes the address of a value of an array, by its number."""
    code.store(R10, _ROW, number, Width.WORD)
    code.map(R1, array)
    code.move(R2, R10)
    code.alu(Op.ADD, R2, _ROW)
    code.call(Helper.MAP_LOOKUP)
