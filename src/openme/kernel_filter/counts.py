"""How much the program has dropped, read from the memory that it counts in. No system call."""

from collections import Counter

from openme.kernel_filter import layout
from openme.kernel_filter.layout import Refused
from openme.reasons import Reason

_REASONS = {
    Refused.LENGTH: Reason.LENGTH,
    Refused.FILTER: Reason.FILTER,
    Refused.COPY: Reason.COPY,
    Refused.BUSY: Reason.BUSY,
}


class Counts:
    """What has been dropped since one has last looked. `words`: the counts, numbers of 64 bits."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._seen: Counter[Reason] = Counter()

    def new(self) -> Counter[Reason]:
        """How many were dropped since the last look, by reason; none for a reason with none."""
        numbers = self._words[:: layout.ROW_WORDS].tolist()
        total = Counter(
            {
                reason: sum(numbers[kind * layout.PROCESSORS : (kind + 1) * layout.PROCESSORS])
                for kind, reason in _REASONS.items()
            }
        )
        new, self._seen = total - self._seen, total
        return new
