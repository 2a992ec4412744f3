"""What the fuzz tests share: bounded rounds of mutation, from a seed that a failure names.

OPENME_FUZZ_ROUNDS and OPENME_FUZZ_SEED make a run longer and another one (`make fuzz`).
"""

import os
import random

SEED = os.environ.get("OPENME_FUZZ_SEED", "openme")


def rounds(short: int) -> int:
    """How often each file of a corpus is mutated: `short` in an ordinary run."""
    return int(os.environ.get("OPENME_FUZZ_ROUNDS", str(short)))


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """`raw` with a few faults of the kinds that parsers stumble over."""
    value = bytearray(raw)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(value) + 1)
        kind = chance.randrange(6)
        if kind == 0 and value:
            value[at % len(value)] ^= 1 << chance.randrange(8)
        elif kind == 1 and value:
            value[at % len(value)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            value[at:at] = chance.randbytes(chance.randrange(40))
        elif kind == 3:
            del value[at : at + chance.randrange(40)]
        elif kind == 4:
            value[at : at + 16] = chance.choice(
                [bytes(16), b"\xff" * 16, bytes(10) + b"\xff\xff" + chance.randbytes(4)]
            )
        else:
            value[at : at + 32] = value[: min(32, len(value) - at)]
    return bytes(value)
