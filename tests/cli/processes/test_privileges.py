"""What a process keeps to itself, read back from the kernel."""

import ctypes
import os
import resource
from collections.abc import Callable

from openme.processes.privileges import die_with_parent, keep_secrets_in_memory

PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS = 2, 3, 39
_libc = ctypes.CDLL(None)


def in_a_child(run: Callable[[], bytes]) -> bytes:
    """What `run` gives back in a process of its own, since it cannot be undone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, run())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    os.waitpid(child, 0)
    return answer


def test_memory_is_kept_from_core_dumps_and_from_other_processes_of_the_user() -> None:
    def run() -> bytes:
        keep_secrets_in_memory()
        return repr(
            (
                _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
                resource.getrlimit(resource.RLIMIT_CORE),
                _libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
            )
        ).encode()

    assert in_a_child(run) == b"(0, (0, 0), 1)"


def test_a_child_that_shall_die_with_its_parent_is_killed_and_not_asked() -> None:
    def run() -> bytes:
        die_with_parent()
        number = ctypes.c_int()
        _libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
        return str(number.value).encode()

    assert in_a_child(run) == b"9"
