"""What the listener is told of a knock: its verdict, and the text of its receipt while there may be one."""

from openme.clocks import Now
from openme.keeper.deliveries import Deliveries, Offer, OpenReceipts
from openme.keeper.events import Ended, Events, Moved
from openme.keeper.keeper import Keeper
from openme.keeper.stages import Opened, Refused
from openme.keys.erasing import wipe
from openme.reasons import End
from openme.seam.channel import Outbox
from openme.seam.messages import FamiliarAddress, ForgetReceipt, KnockNotOpened, KnockOpened, opening_orders
from openme.steps import Steps

_ORDERS_AT_ONCE = 100  # openings that end


class Verdicts:
    """Tells them in the order of the knocks, and knows which receipts an opening has."""

    def __init__(self, keeper: Keeper, outbox: Outbox, deliveries: Deliveries) -> None:
        self._keeper = keeper
        self._outbox = outbox
        self._deliveries = deliveries
        self._receipts = OpenReceipts()

    def opened(self, opened: Opened, now: Now) -> None:
        """Tell the listener, who makes the receipt now that the firewall has answered. Version 1 has none."""
        representative, grant = opened.decided.what.representative, opened.grant
        if representative is None:
            self._outbox.put([KnockOpened()])
            return
        text = self._keeper.receipt_for(opened, now) or b""
        if (last := self._keeper.renewed_to(opened)) is not None:
            self._deliveries.offer(representative, Offer(grant.client_key, last))
        orders = opening_orders(representative, round(grant.deadline * 10**9), text)
        if len(orders) > 1:
            wipe(text)  # what was cut from it are copies, which the outbox wipes when they are sent
        self._outbox.put(orders)
        if text:
            self._receipts.add(representative, grant.key)

    def refused(self, refused: Refused) -> None:
        """Tell the listener that nothing has opened."""
        self._outbox.put(
            [KnockNotOpened() if refused.representative is None else KnockNotOpened(refused.representative)]
        )

    def tell_sources(self) -> None:
        """Name the addresses that clients knock from, so that the listener does not make them wait.

        None while it takes no orders, which would be lost: each address is named once.
        """
        sources = self._keeper.new_sources
        while sources and not self._outbox:
            self._outbox.put([FamiliarAddress(sources.popleft())])

    def follow(self, events: Events) -> None:
        """Subscribe to what ends receipts, or has others hold them."""
        events.subscribe(Moved, self.moved)
        events.subscribe(Ended, self.ended)

    def moved(self, event: Moved) -> None:
        """Know the receipts of grants whose network has another first address now by that one."""
        for before, after in event.grants:
            self._receipts.move(before.key, after.key)

    def ended(self, event: Ended) -> Steps[None]:
        """Have the listener forget the receipts of early ends; those of the others end by their time, as it knows."""
        # Whoever is let in anew meanwhile keeps what that gives him.
        receipts = [(self._receipts.take(grant.key), why) for grant, why in event.grants]
        for number, (representatives, why) in enumerate(receipts, 1):
            if why is not End.TIME_OVER:
                self._outbox.put([ForgetReceipt(representative) for representative in representatives])
            if number % _ORDERS_AT_ONCE == 0:
                yield
