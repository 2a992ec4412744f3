"""What stands where in the memory that program and process share, and why nothing there is ever half of something.

Settings, 64-bit numbers that the process writes and the program reads:

    0      whether the program judges; zero: everything is let through
    1      whether the version that noise is not told from by a hash (version 1) is on
    2      of what is refused, so many of a kind are let through in a second, for the process to tell who sent them
    3, 4   the key by which copies of that version are told from each other
    5…     a slot for each live epoch: the halves of its filter key (spec wire-v2.md "Filter MAC"), and their seal

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
SETTINGS = FIRST_SLOT + SLOTS * SLOT_WORDS  # 11

SEAL = 0x6F70656E6D652053  # any number but zero, which is the seal of an empty slot


class Refused(IntEnum):
    """The kinds of refusals, in the order of their rows."""

    LENGTH = 0
    FILTER = 1
    COPY = 2


PROCESSORS = 64  # a power of two; more of them share rows
ROW_WORDS = 8
ROWS = len(Refused) * PROCESSORS
COUNTS = ROWS * ROW_WORDS


def slot_at(number: int) -> int:
    """The place of the first half of a slot's key."""
    return FIRST_SLOT + number * SLOT_WORDS


def sealed(first: int, second: int) -> int:
    """The seal of a key's halves."""
    return first ^ second ^ SEAL
