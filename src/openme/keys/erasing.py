"""Overwriting secrets in memory, so that whoever copies the process later does not find them.

Python neither promises where a value lies nor offers to overwrite one. Here a value is overwritten in its own place,
which holds for CPython; a copy that nobody knows of stays. tests/claims/test_forward_secrecy.py reads the memory of the
running processes to see that nothing was forgotten.
"""

from _cffi_backend import FFI  # PyNaCl runs on it, so that it costs no time; ctypes would cost a knock 8 ms

_ffi = FFI()


def wipe(*secrets: bytes | bytearray) -> None:
    """Overwrite each with zeros.

    Only for values that nobody else holds: a `bytes` changes for whoever has a reference to it. Empty ones and single
    bytes, which CPython shares, are left alone.
    """
    for secret in secrets:
        if len(secret) <= 1:
            continue
        if isinstance(secret, bytearray):
            secret[:] = bytes(len(secret))
        else:
            # from_buffer points at the content of the bytes object itself.
            _ffi.memmove(_ffi.from_buffer(secret), bytes(len(secret)), len(secret))
