"""bpf(2), by ctypes: maps, programs and their memory. For 64-bit little-endian processors whose numbers stand here.

Who may: CAP_BPF, or CAP_SYS_ADMIN, in the first user namespace. All that is made is a descriptor, and lives as long as
somebody holds it: a socket its program, a program its maps, and whoever has mapped a map's memory that map.
"""

import ctypes
import mmap
import os
import platform
import socket
import struct
import sys
from contextlib import suppress

_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_MAP_CREATE, _PROG_LOAD = 0, 5
_SOCKET_FILTER = 1
_SO_ATTACH_BPF = 50  # asm-generic/socket.h; what it takes is a descriptor of 4 bytes
_SO_DETACH_FILTER = 27
_NAME_SIZE = 16
_LICENCE = b"MIT"
_LOG_SIZE = 1 << 20  # bytes; the verifier says why it refuses a program in its last lines
_MAP_FAILED = ctypes.c_void_p(-1).value

_ARRAY, _LRU_HASH = 2, 9
_MMAPABLE = 1 << 10
_INDEX_SIZE = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class UnsupportedError(Exception):
    """The filter is not made for this processor."""


class RefusedProgramError(OSError):
    """The kernel has looked at a program and does not take it; `strerror` is its last word on that."""


def call(command: int, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    """bpf(2): its result; what else it answers is in `attributes` then.

    OSError as the kernel refuses; UnsupportedError on a processor without a number here.
    """
    number = _CALL.get(platform.machine())
    if number is None or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != ctypes.sizeof(ctypes.c_uint64):
        raise UnsupportedError(platform.machine())
    result = int(_libc.syscall(number, command, attributes, len(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _block(form: str, *fields: object) -> "ctypes.Array[ctypes.c_char]":
    packed = struct.pack(form, *fields)
    return ctypes.create_string_buffer(packed, len(packed))


def new_array(name: str, value_size: int, entries: int) -> int:
    """Make a map whose values, each of so many bytes, can be had as `Memory`: its descriptor. Keys are numbers."""
    return _new_map(name, (_ARRAY, _INDEX_SIZE, value_size, entries, _MMAPABLE))


def new_lru_hash(name: str, key_size: int, value_size: int, entries: int) -> int:
    """Make a map that forgets what was not asked for of late, where it has no room: its descriptor. Sizes in bytes."""
    return _new_map(name, (_LRU_HASH, key_size, value_size, entries, 0))


def _new_map(name: str, numbers: tuple[int, int, int, int, int]) -> int:
    return call(_MAP_CREATE, _block("=7I16s", *numbers, 0, 0, _name(name)))


def load_socket_filter(name: str, code: bytes) -> int:
    """Have the kernel take a program: its descriptor. RefusedProgramError if it does not."""
    try:
        return _load(name, code, None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        with suppress(OSError):
            return _load(name, code, log)
        said = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        reason = next((line for line in reversed(said) if not line.startswith("processed ")), None)
        if reason is None:
            raise
        raise RefusedProgramError(error.errno, f"{error.strerror}: {reason}") from None


def _load(name: str, code: bytes, log: "ctypes.Array[ctypes.c_char] | None") -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(_LICENCE)
    return call(
        _PROG_LOAD,
        _block(
            "=IIQQIIQII16s",
            *(_SOCKET_FILTER, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence)),
            *(0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log)),
            *(0, 0, _name(name)),
        ),
    )


def _name(name: str) -> bytes:
    return name.encode("ascii").ljust(_NAME_SIZE, b"\0")


def attach(sock: socket.socket, program: int) -> None:
    """Let the program judge what this socket receives from now on, in the place of any other that did."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)


def detach(sock: socket.socket) -> None:
    """Let everything through to this socket; nothing changes if everything was."""
    with suppress(FileNotFoundError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


class Memory:
    """A map's values as 64-bit numbers, in the memory that the kernel's programs read and write.

    Its descriptor may be closed. A process that is forked has it too; whoever is done with it calls `close`.
    """

    def __init__(self, descriptor: int, words: int) -> None:
        """`words`: how many 64-bit numbers the map's values are, all together."""
        pages = -(-8 * words // mmap.PAGESIZE)
        self._size = pages * mmap.PAGESIZE
        # Not by the mmap module: its objects hold a descriptor of their own (until Python 3.13), which is closed behind
        # their back when a process that parts closes what is not its own, and again with the object.
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, self._size, protection, mmap.MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address = address
        # A number is written and read in one piece: 8 bytes at a multiple of 8.
        block = (ctypes.c_char * (8 * words)).from_address(address)
        self.words = memoryview(block).cast("B").cast("Q")

    def close(self) -> None:
        """Have it no more in this process; `words` is of no use afterwards."""
        self.words.release()
        _libc.munmap(self._address, self._size)
