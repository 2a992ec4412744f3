"""SipHash-2-4 (Aumasson and Bernstein, 2012) in eBPF, over a message whose length is known when it is assembled."""

from collections.abc import Sequence

from openme.kernel_filter.assembler import R0, R1, R2, R3, R4, R5, Assembler, Op

_CONSTANTS = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_STATE = (R2, R3, R4, R5)
_FINALIZATION = 0xFF
_ROUNDS, _LAST_ROUNDS = 2, 4


def siphash(code: Assembler, label: str, offsets: Sequence[int]) -> None:
    """A function R0(R1, R2, R3): the hash of the words at R1 + each of `offsets`, under the key R2, R3.

    The last word ends with the message's length, as SipHash has it. A word has 8 bytes and little-endian order, as have
    the key's halves and the hash.
    """
    code.label(label)
    code.move(R4, R2)
    code.move(R5, R3)
    for register, constant in zip(_STATE, _CONSTANTS, strict=True):
        code.wide(R0, constant)
        code.alu(Op.XOR, register, R0)
    for offset in offsets:
        code.load(R0, R1, offset)
        code.alu(Op.XOR, R5, R0)
        for _ in range(_ROUNDS):
            _round(code)
        code.load(R0, R1, offset)
        code.alu(Op.XOR, R2, R0)
    code.alu(Op.XOR, R4, _FINALIZATION)
    for _ in range(_LAST_ROUNDS):
        _round(code)
    code.move(R0, R2)
    for register in _STATE[1:]:
        code.alu(Op.XOR, R0, register)
    code.exit()


def _round(code: Assembler) -> None:
    v0, v1, v2, v3 = _STATE
    for first, second, bits in ((v0, v1, 13), (v2, v3, 16)):
        code.alu(Op.ADD, first, second)
        code.rotate_left(second, bits, R0)
        code.alu(Op.XOR, second, first)
    code.rotate_left(v0, 32, R0)
    for first, second, bits in ((v0, v3, 21), (v2, v1, 17)):
        code.alu(Op.ADD, first, second)
        code.rotate_left(second, bits, R0)
        code.alu(Op.XOR, second, first)
    code.rotate_left(v2, 32, R0)
