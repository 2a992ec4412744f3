"""What the kernel filter says of a datagram, by the kernel's own test run (BPF_PROG_TEST_RUN, bpf(2)). Needs root.

with judging() as judge:
    judge.filter.follow(keys)
    judge.filter.judge()
    assert judge(datagram)
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from openme.kernel_filter import bpf
from openme.kernel_filter.filter import KernelFilter, loaded

_TEST_RUN = 10
_ETHERNET = bytes(14)  # a test run takes this away before the program sees the rest
# What is long enough for a header of IPv4 is said to begin with one, so that its source is looked for.
_BEFORE_IPV4 = bytes(12) + b"\x08\x00"
_IPV4_HEADER_SIZE = 20
_UDP_HEADER = bytes(8)
_ALL = 0xFFFF_FFFF


@dataclass(frozen=True)
class Judge:
    """A loaded filter on no socket."""

    filter: KernelFilter
    program: int

    def __call__(self, datagram: bytes) -> bool:
        """Whether this UDP payload is let through."""
        result, _ = self.run(datagram)
        assert result in {0, _ALL}, f"{result:#x} would cut the datagram"
        return result == _ALL

    def run(self, datagram: bytes, times: int = 1) -> tuple[int, int]:
        """The program's result for this payload, and the mean nanoseconds of so many runs."""
        packet = _UDP_HEADER + datagram
        packet = (_ETHERNET if len(packet) < _IPV4_HEADER_SIZE else _BEFORE_IPV4) + packet
        place = ctypes.create_string_buffer(packet, len(packet))
        fields = struct.pack(
            "=IIIIQQIIIIQQ", self.program, 0, len(packet), 0, ctypes.addressof(place), 0, times, 0, 0, 0, 0, 0
        )
        block = ctypes.create_string_buffer(fields, len(fields))
        bpf.call(_TEST_RUN, block)
        _, result, _, _, _, _, _, duration, *_ = struct.unpack("=IIIIQQIIIIQQ", block.raw)
        return result, duration


@contextmanager
def judging(told: int = 0) -> Iterator[Judge]:
    """A filter; gone at the end."""
    made, program = loaded(told)
    try:
        yield Judge(made, program)
    finally:
        made.close()
        os.close(program)
