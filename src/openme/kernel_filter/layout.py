"""What stands where in the memory that program and process share, and why nothing there is ever half of something.

Settings, 64-bit numbers that the process writes and the program reads:

    0      whether the program judges; zero: everything is let through
    1      whether the version that noise is not told from by a hash (version 1) is on
    2      of what is refused, so many of a kind are let through in a second, for the process to tell who sent them
    3, 4   the key by which copies of that version are told from each other
    5…     a slot for each live epoch: the halves of its filter key (spec wire-v2.md "Filter MAC"), and their seal
    11, 12 the key by which addresses are told from each other
    13…    the places of each kind of senders: how many were taken, which the program adds to, and up to which number
           more may be

**Places.** A datagram that is let through takes one of its kind. Whenever the process has emptied the socket it says up
to which number more may be taken: so no more than that of a kind wait there, and none is lost because others fill the
socket. Until it says so for the first time there is no bound. Both numbers only grow, and each has one writer.

**The seal** is the halves and `SEAL` in one exclusive or. The program takes both halves and the seal into registers,
and uses a slot only if they fit together. So it does not matter in which order, or in how many pieces, a processor sees
the three numbers change: of an old and a new slot mixed in any way none fits, nor does an empty one.

**A slot in use is not written to**: a key that begins goes into an empty one, while the other goes on to judge.

Counts, which the program adds to and the process reads: a row of 64 bytes, the size of what processors tell each other
of memory, for each kind of refusal and each of `PROCESSORS` of them, so that two do not wait for each other.
"""

from enum import IntEnum

JUDGES = 0
TAKES_SHAPED = 1
TOLD_A_SECOND = 2
COPIES_KEY = 3
KEY_WORDS = 2
FIRST_SLOT = COPIES_KEY + KEY_WORDS  # 5
SLOT_WORDS = KEY_WORDS + 1  # 3
SLOTS = 2  # live epochs: spec wire-v2.md "Epoch keys"
ADDRESS_KEY = FIRST_SLOT + SLOTS * SLOT_WORDS  # 11
FIRST_PLACES = ADDRESS_KEY + KEY_WORDS  # 13

SEAL = 0x6F70656E6D652053  # any number but zero, which is the seal of an empty slot


class Refused(IntEnum):
    """The kinds of refusals, in the order of their rows."""

    LENGTH = 0
    FILTER = 1
    COPY = 2
    BUSY = 3


class Senders(IntEnum):
    """The kinds of senders, in the order of their places."""

    FAMILIAR = 0
    """Of either version, from an address that a client has knocked from."""
    STRANGE = 1
    """From any other, of the version that noise is told from by a hash (version 2)."""
    STRANGE_SHAPED = 2
    """The same of the version that it is told from by its shape alone (version 1)."""


PLACES = {Senders.FAMILIAR: 2048, Senders.STRANGE: 1024, Senders.STRANGE_SHAPED: 128}
"""How many of a kind wait in the socket at most. All together fit into it (server/sockets.py), with what each costs."""
UNBOUNDED = (1 << 64) - 1
PLACES_WORDS = 2
SETTINGS = FIRST_PLACES + len(Senders) * PLACES_WORDS  # 19

# Familiar addresses: hashes, in buckets that have room for some each. Zero is no hash.
BUCKETS = 2048  # a power of two
BUCKET_WORDS = 8
FAMILIAR = BUCKETS * BUCKET_WORDS

PROCESSORS = 64  # a power of two; more of them share rows
ROW_WORDS = 8
ROWS = len(Refused) * PROCESSORS
COUNTS = ROWS * ROW_WORDS


def slot_at(number: int) -> int:
    """The place of the first half of a slot's key."""
    return FIRST_SLOT + number * SLOT_WORDS


def places_at(senders: Senders) -> int:
    """The place of the number of those taken; the one up to which more may be is behind it."""
    return FIRST_PLACES + senders * PLACES_WORDS


def sealed(first: int, second: int) -> int:
    """The seal of a key's halves."""
    return first ^ second ^ SEAL
