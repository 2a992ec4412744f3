"""eBPF instructions, written by name and put together with their labels and maps (RFC 9669).

An instruction has 8 bytes: operation, registers, jump offset (16 bits), immediate (32 bits). One that loads 64 bits
takes two places. All fields are in the byte order of the processor; what is written here is for little-endian ones.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum

SIZE = 8  # bytes of an instruction


class Register(IntEnum):
    """R0 has results. R1 to R5 have arguments, and are lost in a call; R6 to R9 stay. R10 is the end of the stack."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register


class Op(IntEnum):
    """64-bit arithmetic, RFC 9669 section 4.1."""

    ADD = 0x00
    SUB = 0x10
    OR = 0x40
    AND = 0x50
    LSH = 0x60
    RSH = 0x70
    XOR = 0xA0
    MOV = 0xB0


class If(IntEnum):
    """Unsigned 64-bit comparisons, section 4.3; `LESS_THAN_ZERO` is a signed one."""

    EQUAL = 0x10
    GREATER = 0x20
    AT_LEAST = 0x30
    NOT_EQUAL = 0x50
    LESS_THAN_ZERO = 0xC0


class Width(IntEnum):
    """Of what is read or written, in bytes."""

    BYTE = 1
    WORD = 4
    DOUBLE = 8


class Helper(IntEnum):
    """The kernel's functions that the program calls, by number (bpf-helpers(7))."""

    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    KTIME_GET_NS = 5
    GET_SMP_PROCESSOR_ID = 8
    SKB_LOAD_BYTES = 26
    SKB_LOAD_BYTES_RELATIVE = 68


_ALU64, _JMP, _LDX, _ST, _STX, _LD = 0x07, 0x05, 0x01, 0x02, 0x03, 0x00
_FROM_REGISTER = 0x08
_MEMORY, _ATOMIC_ADD = 0x60, 0xC0
_SIZES = {Width.BYTE: 0x10, Width.WORD: 0x00, Width.DOUBLE: 0x18}
_JUMP, _CALL, _EXIT = 0x00, 0x80, 0x90
_OF_A_MAP, _IN_A_MAP = 1, 2  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_OF_OURS = 1  # BPF_PSEUDO_CALL


class Assembler:
    """Takes instructions in their order; `assembled` gives their bytes."""

    def __init__(self) -> None:
        self._code: list[bytes] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._calls: list[tuple[int, str]] = []
        self._maps: list[tuple[int, str]] = []

    def __len__(self) -> int:
        """How many places are taken."""
        return len(self._code)

    def _add(self, operation: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self._code.append(_packed(operation, to, source, offset, immediate))

    def label(self, name: str) -> None:
        """The next instruction is where jumps and calls to this name go. ValueError if there is one of that name."""
        if name in self._labels:
            raise ValueError(f"the label {name} stands twice")
        self._labels[name] = len(self._code)

    def alu(self, operation: Op, to: Register, operand: Register | int) -> None:
        """`to` becomes `to operation operand`; a number is of 32 bits, with its sign."""
        if isinstance(operand, Register):
            self._add(_ALU64 | operation | _FROM_REGISTER, to, operand)
        else:
            self._add(_ALU64 | operation, to, immediate=operand)

    def move(self, to: Register, operand: Register | int) -> None:
        """`to` becomes `operand`."""
        self.alu(Op.MOV, to, operand)

    def rotate_left(self, to: Register, bits: int, scratch: Register) -> None:
        """Rotate 64 bits; `scratch` is lost."""
        self.move(scratch, to)
        self.alu(Op.LSH, to, bits)
        self.alu(Op.RSH, scratch, 64 - bits)
        self.alu(Op.OR, to, scratch)

    def wide(self, to: Register, value: int) -> None:
        """`to` becomes a number of 64 bits, unsigned."""
        low, high = struct.unpack("<ii", struct.pack("<Q", value))
        self._add(_LD | _SIZES[Width.DOUBLE], to, immediate=low)
        self._add(0, immediate=high)

    def map(self, to: Register, name: str) -> None:
        """`to` becomes the map of this name, as helpers want it."""
        self._maps.append((len(self._code), name))
        self._add(_LD | _SIZES[Width.DOUBLE], to, _OF_A_MAP)
        self._add(0)

    def map_value(self, to: Register, name: str) -> None:
        """`to` becomes the address of the only value of an array map of this name."""
        self._maps.append((len(self._code), name))
        self._add(_LD | _SIZES[Width.DOUBLE], to, _IN_A_MAP)
        self._add(0)

    def load(self, to: Register, base: Register, offset: int, width: Width = Width.DOUBLE) -> None:
        """`to` becomes what stands at `base + offset`."""
        self._add(_LDX | _MEMORY | _SIZES[width], to, base, offset)

    def store(self, base: Register, offset: int, what: Register | int, width: Width = Width.DOUBLE) -> None:
        """Put a register, or a number, to `base + offset`."""
        if isinstance(what, Register):
            self._add(_STX | _MEMORY | _SIZES[width], base, what, offset)
        else:
            self._add(_ST | _MEMORY | _SIZES[width], base, offset=offset, immediate=what)

    def atomic_add(self, base: Register, offset: int, what: Register) -> None:
        """Add a register to the 8 bytes at `base + offset`, in one step for all processors."""
        self._add(_STX | _ATOMIC_ADD | _SIZES[Width.DOUBLE], base, what, offset)

    def jump(self, label: str) -> None:
        """Go on at a label, which comes later."""
        self._jumps.append((len(self._code), label))
        self._add(_JMP | _JUMP)

    def jump_if(self, register: Register, comparison: If, operand: Register | int, label: str) -> None:
        """Go on at a label, which comes later, if the comparison holds."""
        self._jumps.append((len(self._code), label))
        if isinstance(operand, Register):
            self._add(_JMP | comparison | _FROM_REGISTER, register, operand)
        else:
            self._add(_JMP | comparison, register, immediate=operand)

    def call(self, helper: Helper) -> None:
        """Call a function of the kernel's."""
        self._add(_JMP | _CALL, immediate=helper)

    def call_ours(self, label: str) -> None:
        """Call a function of this program, which begins at a label."""
        self._calls.append((len(self._code), label))
        self._add(_JMP | _CALL, source=_OF_OURS)

    def exit(self) -> None:
        """End the function; its result is in R0."""
        self._add(_JMP | _EXIT)

    def assembled(self, maps: Mapping[str, int]) -> bytes:
        """The program's bytes; `maps` has the descriptor of each map that it names.

        ValueError for a jump backwards: only a program without loops does the kernel take from whoever has CAP_BPF
        alone.
        """
        code = list(self._code)
        for at, name in self._jumps:
            distance = self._labels[name] - at - 1
            if distance < 0:
                raise ValueError(f"a jump back to {name}")
            code[at] = _patched(code[at], offset=distance)
        for at, name in self._calls:
            code[at] = _patched(code[at], immediate=self._labels[name] - at - 1)
        for at, name in self._maps:
            code[at] = _patched(code[at], immediate=maps[name])
        return b"".join(code)


def _packed(operation: int, to: int, source: int, offset: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", operation, source << 4 | to, offset, immediate)


def _patched(instruction: bytes, *, offset: int | None = None, immediate: int | None = None) -> bytes:
    operation, registers, old_offset, old_immediate = struct.unpack("<BBhi", instruction)
    return struct.pack(
        "<BBhi",
        operation,
        registers,
        old_offset if offset is None else offset,
        old_immediate if immediate is None else immediate,
    )
