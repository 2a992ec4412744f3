"""The kernel filter as a whole: made by the rights of a start, then told the keys by a process that has none."""

import resource
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from os import close

from openme.kernel_filter import bpf, layout
from openme.kernel_filter.bpf import Memory
from openme.kernel_filter.counts import Counts
from openme.kernel_filter.keys import Slots
from openme.kernel_filter.program import COPIES, COUNTS, SETTINGS, WITH_MAC, WITH_SHAPE, knock_filter
from openme.reasons import Reason
from openme.wire.base import ServerKey

LOCKED = 16 << 20  # bytes: before Linux 5.11 the maps count as locked memory (packaging/openme.service, LimitMEMLOCK)
PACKETS = 16384  # packets whose copies are remembered (spec wire-v2.md, step 3)
_WORD_SIZE = 8
_ROW_SIZE = _WORD_SIZE * layout.ROW_WORDS
_ENTRY_SIZE = 2 * _WORD_SIZE  # when a packet came first, and how often since
_MAPS: dict[str, Callable[[], int]] = {
    SETTINGS: partial(bpf.new_array, "openme_settings", _WORD_SIZE * layout.SETTINGS, 1),
    COUNTS: partial(bpf.new_array, "openme_counts", _ROW_SIZE, layout.ROWS),
    COPIES: partial(bpf.new_lru_hash, "openme_copies", _WORD_SIZE, _ENTRY_SIZE, PACKETS),
}


class KernelFilter:
    """What the process holds of the filter: memory, by which it says what to let through and reads what was dropped."""

    def __init__(self, settings: Memory, counts: Memory) -> None:
        self._memories = (settings, counts)
        self._settings = settings.words
        self._slots = Slots(settings.words)
        self._counts = Counts(counts.words)
        self._is_wanted = False
        self._has_room = True

    def follow(self, keys: Mapping[int, Mapping[int, ServerKey]]) -> None:
        """Let through what may be for one of these keys, by wire version and number, once it judges."""
        self._has_room = self._slots.hold({key.filter for key in keys[WITH_MAC.number].values()})
        self._settings[layout.TAKES_SHAPED] = bool(keys[WITH_SHAPE.number])
        self._put_in_force()

    def judge(self) -> None:
        """Judge from now on. Before, everything is let through, and waits in the socket until the process has keys."""
        self._is_wanted = True
        self._put_in_force()

    def _put_in_force(self) -> None:
        # With more keys than slots, which no keeper sends, the process has to judge alone: a knock is not to be lost.
        self._settings[layout.JUDGES] = self._is_wanted and self._has_room

    def dropped(self) -> Counter[Reason]:
        """What it has dropped since this was last asked."""
        return self._counts.new()

    def close(self) -> None:
        """Leave the memory to the other processes that have it; the socket keeps its filter."""
        for memory in self._memories:
            memory.close()


def put_before(knock: socket.socket, *, told: int = 0) -> KernelFilter:
    """Have the kernel judge what this socket receives, once it is told to; a filter from before is gone in any case.

    `told`: how many refusals of a kind it leaves to the process in a second. UnsupportedError on a processor that it is
    not made for; OSError if the kernel refuses. No descriptor of it stays: the socket holds the program, which holds
    the maps.
    """
    bpf.detach(knock)
    made, program = loaded(told)
    try:
        bpf.attach(knock, program)
    except OSError:
        made.close()
        raise
    finally:
        close(program)
    return made


def loaded(told: int = 0) -> tuple[KernelFilter, int]:
    """A filter, and the descriptor of its program, which is to be closed; see `put_before`."""
    with ExitStack() as descriptors, ExitStack() as undone, _may_lock(LOCKED):
        maps = {}
        for name, new_map in _MAPS.items():
            maps[name] = new_map()
            descriptors.callback(close, maps[name])
        program = bpf.load_socket_filter("openme_knock", knock_filter().assembled(maps))
        undone.callback(close, program)
        settings = Memory(maps[SETTINGS], layout.SETTINGS)
        undone.callback(settings.close)
        counts = Memory(maps[COUNTS], layout.COUNTS)
        for place in range(layout.KEY_WORDS):
            settings.words[layout.COPIES_KEY + place] = secrets.randbits(8 * _WORD_SIZE)
        settings.words[layout.TOLD_A_SECOND] = told
        undone.pop_all()
    return KernelFilter(settings, counts), program


@contextmanager
def _may_lock(size: int) -> Iterator[None]:
    """Be allowed to lock so many bytes meanwhile, as far as the hard limit or our rights go."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    soft, hard = (limit if limit == resource.RLIM_INFINITY else max(limit, size) for limit in before)
    for wanted in ((soft, hard), (before[1], before[1])):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            break
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
