"""Instructions as the kernel has them: each compared with bytes written down from RFC 9669, its labels and its maps."""

from collections.abc import Callable

import pytest

from openme.kernel_filter.assembler import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R10,
    SIZE,
    Assembler,
    Helper,
    If,
    Op,
    Width,
)
from openme.kernel_filter.program import COPIES, COUNTS, FAMILIAR, SETTINGS, knock_filter

MAPS = {name: number for number, name in enumerate((SETTINGS, COUNTS, COPIES, FAMILIAR), 3)}


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda code: code.move(R1, R6), "bf61000000000000"),
        (lambda code: code.move(R0, -1), "b7000000ffffffff"),
        (lambda code: code.alu(Op.ADD, R2, R10), "0fa2000000000000"),
        (lambda code: code.alu(Op.XOR, R3, 255), "a7030000ff000000"),
        (lambda code: code.alu(Op.LSH, R1, 13), "670100000d000000"),
        (
            lambda code: code.rotate_left(R1, 13, R0),
            "bf10000000000000670100000d0000007700000033000000 4f01000000000000",
        ),
        (lambda code: code.wide(R2, 0x8070605040302010), "18020000102030400000000050607080"),
        (lambda code: code.map(R1, "m"), "1811000007000000 0000000000000000"),
        (lambda code: code.map_value(R1, "m"), "1821000007000000 0000000000000000"),
        (lambda code: code.load(R0, R6, 0, Width.WORD), "6160000000000000"),
        (lambda code: code.load(R0, R10, -8), "79a0f8ff00000000"),
        (lambda code: code.load(R0, R10, -4, Width.BYTE), "71a0fcff00000000"),
        (lambda code: code.store(R10, -16, R1), "7b1af0ff00000000"),
        (lambda code: code.store(R10, -16, 5, Width.BYTE), "720af0ff05000000"),
        (lambda code: code.atomic_add(R0, 8, R1), "db10080000000000"),
        (lambda code: code.call(Helper.SKB_LOAD_BYTES), "850000001a000000"),
        (lambda code: code.exit(), "9500000000000000"),
    ],
)
def test_an_instruction_is_as_the_kernel_has_it(write: Callable[[Assembler], None], expected: str) -> None:
    code = Assembler()
    write(code)
    assert code.assembled({"m": 7}) == bytes.fromhex(expected)
    assert len(code) * SIZE == len(bytes.fromhex(expected))


def test_jumps_and_calls_count_from_the_next_instruction() -> None:
    code = Assembler()
    code.jump_if(R1, If.EQUAL, 5, "end")
    code.jump_if(R1, If.GREATER, R2, "end")
    code.jump("end")
    code.call_ours("ours")
    code.label("end")
    code.exit()
    code.label("ours")
    code.exit()
    assert code.assembled({}) == bytes.fromhex(
        "1501030005000000 2d21020000000000 0500010000000000 8510000001000000 9500000000000000 9500000000000000"
    )


def test_a_jump_back_is_refused() -> None:
    code = Assembler()
    code.label("again")
    code.move(R0, 0)
    code.jump("again")
    with pytest.raises(ValueError, match="back to again"):
        code.assembled({})


def test_a_label_stands_once() -> None:
    code = Assembler()
    code.label("here")
    with pytest.raises(ValueError, match="here stands twice"):
        code.label("here")


def test_the_program_fits_what_a_socket_may_hold() -> None:
    """`net.core.optmem_max` was 20,480 bytes before Linux 6.7; the kernel's own part beside it is below 1 KiB."""
    assert len(knock_filter().assembled(MAPS)) < 20_480 - 1024


def test_the_program_assembles_and_is_the_same_each_time() -> None:
    made = knock_filter().assembled(MAPS)
    assert made == knock_filter().assembled(MAPS)
    assert len(made) % SIZE == 0
