"""Receipts that wait to be asked for on the health port, and knocks that may still get one. Without I/O.

Everything is bounded: a knock whose verdict does not come is forgotten after some seconds, a receipt with its opening.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from openme.keys.erasing import wipe
from openme.seam.messages import MAX_RECEIPTS, ForgetReceipt, KnockNotOpened, KnockOpened, ReceiptPart
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import seal_receipt

MAX_PENDING = 4096
PENDING_SECONDS = 5.0
_NS = 10**9


@dataclass(slots=True)
class _Pending:
    keys: ReceiptKeys
    deadline: float
    parts: list[bytes] = field(default_factory=list)

    def wipe(self) -> None:
        """Forget what opens the receipt, and what it says."""
        self.keys.wipe()
        wipe(*self.parts)


@dataclass(frozen=True, slots=True)
class _Made:
    knock: bytes
    answer: bytes
    deadline: float


class Receipts:
    """By knock (its R) until the verdict is there, by receipt id afterwards. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._made: OrderedDict[bytes, _Made] = OrderedDict()
        self._ids: dict[bytes, bytes] = {}

    def expect(self, knock: bytes, keys: ReceiptKeys, now: float) -> None:
        """A knock is on its way to the keeper. A copy of it changes nothing that was heard since."""
        if knock in self._pending:
            keys.wipe()
            return
        self.forget_overdue(now)
        if len(self._pending) >= MAX_PENDING:
            self._give_up(next(iter(self._pending)))
        self._pending[knock] = _Pending(keys, now + PENDING_SECONDS)

    def opened(self, order: KnockOpened, now: float) -> bytes | None:
        """Make the receipt of a knock that has opened; its id, if there is one now."""
        pending = self._add(order)
        if pending is None:
            return None
        receipt_id = self._make(order, pending, now) if order.text else None
        self._give_up(order.knock)
        return receipt_id

    def part(self, order: ReceiptPart) -> None:
        """Keep a part of a receipt, whose verdict follows."""
        self._add(order)

    def not_opened(self, order: KnockNotOpened) -> None:
        """There will be no receipt."""
        self._give_up(order.knock)

    def _add(self, order: KnockOpened | ReceiptPart) -> _Pending | None:
        pending = self._pending.get(order.knock)
        if pending is None:
            order.wipe()  # the verdict comes too late: nobody else would forget what the receipt says
        else:
            pending.parts.append(order.text)
        return pending

    @property
    def next_at(self) -> float:
        """When `forget_overdue` has something to forget, `inf` if nothing."""
        return next(iter(self._pending.values())).deadline if self._pending else inf

    def forget_overdue(self, now: float) -> None:
        """Forget knocks whose verdict does not come."""
        while self.next_at <= now:
            self._give_up(next(iter(self._pending)))

    def _give_up(self, knock: bytes) -> None:
        if (pending := self._pending.pop(knock, None)) is not None:
            pending.wipe()

    def _make(self, order: KnockOpened, pending: _Pending, now: float) -> bytes | None:
        deadline = order.ends_ns / _NS
        text = b"".join(pending.parts)
        try:
            # Once: the key and nonce of a receipt encrypt one message, and every asker gets the same bytes.
            answer = seal_receipt(text, pending.keys)
        except ValueError:
            return None
        finally:
            wipe(text)
        while self._made:
            first = next(iter(self._made))
            if len(self._made) < MAX_RECEIPTS and self._made[first].deadline > now:
                break
            self._drop(first)
        self._made[pending.keys.id] = _Made(order.knock, answer, deadline)
        self._ids[order.knock] = pending.keys.id
        return pending.keys.id

    def answer(self, receipt_id: bytes, now: float) -> bytes | None:
        """What to say to whoever asks with this receipt id; None if there is no such receipt, or none any more."""
        made = self._made.get(receipt_id)
        if made is None:
            return None
        if made.deadline <= now:
            self._drop(receipt_id)
            return None
        return made.answer

    def knock_of(self, receipt_id: bytes) -> bytes | None:
        """The R of the knock whose receipt has this id; None if that is not there any more."""
        made = self._made.get(receipt_id)
        return None if made is None else made.knock

    def forget(self, order: ForgetReceipt) -> None:
        """Forget the receipt of an opening that has ended early, whether it is made already or not."""
        self._give_up(order.knock)
        if (receipt_id := self._ids.get(order.knock)) is not None:
            self._drop(receipt_id)

    def _drop(self, receipt_id: bytes) -> None:
        made = self._made.pop(receipt_id)
        del self._ids[made.knock]
