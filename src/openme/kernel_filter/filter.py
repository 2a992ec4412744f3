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
from openme.kernel_filter.addresses import Addresses
from openme.kernel_filter.bpf import Memory
from openme.kernel_filter.counts import Counts
from openme.kernel_filter.keys import Slots
from openme.kernel_filter.layout import Senders
from openme.kernel_filter.program import COPIES, COUNTS, FAMILIAR, SETTINGS, WITH_MAC, WITH_SHAPE, knock_filter
from openme.reasons import Reason
from openme.wire.base import ServerKey
from openme.wire.knock import IPAddress

LOCKED = 16 << 20  # bytes: before Linux 5.11 the maps count as locked memory (packaging/openme.service, LimitMEMLOCK)
PACKETS = 16384  # packets whose copies are remembered (spec wire-v2.md, step 3)
_WORD_SIZE = 8
_ROW_SIZE = _WORD_SIZE * layout.ROW_WORDS
_ENTRY_SIZE = 2 * _WORD_SIZE  # when a packet came first, and how often since
_MAPS: dict[str, Callable[[], int]] = {
    SETTINGS: partial(bpf.new_array, "openme_settings", _WORD_SIZE * layout.SETTINGS, 1),
    COUNTS: partial(bpf.new_array, "openme_counts", _ROW_SIZE, layout.ROWS),
    COPIES: partial(bpf.new_lru_hash, "openme_copies", _WORD_SIZE, _ENTRY_SIZE, PACKETS),
    FAMILIAR: partial(bpf.new_array, "openme_familiar", _WORD_SIZE * layout.BUCKET_WORDS, layout.BUCKETS),
}


class KernelFilter:
    """What the process holds of the filter: memory, by which it says what to let through and reads what was dropped."""

    def __init__(self, settings: Memory, counts: Memory, familiar: Memory) -> None:
        self._memories = (settings, counts, familiar)
        self._settings = settings.words
        self._slots = Slots(settings.words)
        self._counts = Counts(counts.words)
        self._addresses = Addresses(settings.words, familiar.words)
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

    def make_familiar(self, source: IPAddress) -> None:
        """A client has knocked from this address: what comes from there has places of its own from now on."""
        self._addresses.add(source)

    def emptied(self) -> None:
        """Nothing waits in the socket, so that all places are free.

        What is on its way through the program at this moment has one that counts as free; nothing rests on the exact
        number.
        """
        for senders in Senders:
            at = layout.places_at(senders)
            self._settings[at + 1] = self._settings[at] + layout.PLACES[senders]

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
        undone.callback(counts.close)
        familiar = Memory(maps[FAMILIAR], layout.FAMILIAR)
        for place in range(layout.KEY_WORDS):
            for key in (layout.COPIES_KEY, layout.ADDRESS_KEY):
                settings.words[key + place] = secrets.randbits(8 * _WORD_SIZE)
        for senders in Senders:
            settings.words[layout.places_at(senders) + 1] = layout.UNBOUNDED
        settings.words[layout.TOLD_A_SECOND] = told
        undone.pop_all()
    return KernelFilter(settings, counts, familiar), program


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
