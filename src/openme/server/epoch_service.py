"""The epochs of a running server: what the listener opens with, what is erased, and a new ratchet on request."""

import logging
from collections.abc import Iterable
from math import inf

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.control.requests import NewRatchet, NewRatchetReply, RatchetReply, SaveRatchet
from openme.durations import format_duration
from openme.errors import OpenmeError
from openme.keeper.deliveries import Deliveries
from openme.keeper.epochs import Epochs
from openme.keeper.events import Events, NewConfig
from openme.keeper.keeper import Keeper
from openme.keeper.ratchet_file import write_ratchet
from openme.seam.channel import Outbox
from openme.seam.messages import ForgetEpochKey, UseEpochKey
from openme.server.epoch_keys import erase_before, open_epochs, write_new
from openme.store.base import Store

ERASING_INTERVAL = 60.0
"""Seconds between two tries to erase an epoch's key from a disk that refuses."""

_log = logging.getLogger("openme.keeper")


class EpochService:
    """Keeps keeper and listener with the epochs that are live; it alone puts epochs into the keeper, and takes them."""

    def __init__(self, keeper: Keeper, store: Store, outbox: Outbox, deliveries: Deliveries) -> None:
        self._keeper = keeper
        self._store = store
        self._outbox = outbox
        self._deliveries = deliveries
        self._next_erasing = float("-inf")

    def follow(self, events: Events) -> None:
        """Subscribe to the configs that come into force, which may switch version 2 on or off."""
        events.subscribe(NewConfig, self.new_config)

    def new_config(self, event: NewConfig) -> None:
        """Have epochs, or have none, as the config says."""
        config = event.config
        if config.has_epochs == (self._keeper.epochs is not None):
            return
        if self._keeper.epochs is not None:
            self._drop()
            return
        try:
            self._keeper.epochs = open_epochs(config, self._store, event.now)
        except OpenmeError as error:
            _log.error("version 2 is not switched on: %s", error.message)  # one line for the operator

    def tick(self, now: Now) -> None:
        """Give the listener the keys of live epochs, take the others away, and erase what evidence allows."""
        epochs = self._keeper.epochs
        if epochs is None:
            return
        change = epochs.look(now.unix_ns, now.monotonic)
        self._outbox.put([ForgetEpochKey(index) for index in change.ended])
        for index in change.begun:
            self._outbox.put([UseEpochKey(index, epochs.private_key(index))])
        first = epochs.first_to_keep(now.monotonic)
        if first is None or now.monotonic < self._next_erasing:
            return
        self._outbox.put([ForgetEpochKey(index) for index in epochs.live if index < first])
        config = self._keeper.config
        if not erase_before(first, epochs, config.state_dir, self._store):
            self._next_erasing = now.monotonic + ERASING_INTERVAL

    def next_at(self, now: Now) -> float:
        """When `tick` has something to do, if nobody knocks or sets the clock, in monotonic seconds; `inf`: never."""
        if (epochs := self._keeper.epochs) is None:
            return inf
        erasing = self._next_erasing if self._next_erasing > now.monotonic else inf
        return min(epochs.next_at(now.unix_ns, now.monotonic), erasing)

    def save(self, _request: SaveRatchet, now: Now) -> RatchetReply:
        """See that the ratchet file is there: somebody may have removed it, or there was none yet."""
        epochs, config = self._keeper.epochs, self._keeper.config
        try:
            if epochs is not None:
                write_ratchet(config.state_dir, epochs.ratchet)
                return RatchetReply(made=False)
            opened = open_epochs(config, self._store, now)
        except OSError as error:
            raise OpenmeError(f"the epoch keys cannot be written: {error.strerror}") from None
        if opened is None:
            raise OpenmeError("the epoch keys cannot be written")
        self._use(opened, config, now)
        return RatchetReply(made=True)

    def begin_anew(self, request: NewRatchet, now: Now) -> NewRatchetReply:
        """Begin a new ratchet, on the operator's word: every version 2 client file is of no use from now on."""
        config = self._keeper.config
        if request.epoch_length not in {None, config.epoch_length}:
            running = format_duration(config.epoch_length)
            raise OpenmeError(f"the running server was started with epoch_length {running}: stop it first, then rotate")
        ratchet = write_new(config, now.unix_ns)
        self._store.note_ratchet(ratchet.index, ratchet.public_key(ratchet.index))
        self._store.forget_renewals()
        self._deliveries.forget()
        _log.warning("there is a new ratchet: version 2 clients need new files")
        self._use(Epochs(ratchet, config.replay_window, config.epoch_horizon), config, now)
        return NewRatchetReply()

    def note_fetched(self, knocks: Iterable[bytes]) -> None:
        """Count the keys of receipts that were fetched, by what the listener says of their knocks."""
        offers = [offer for knock in knocks if (offer := self._deliveries.fetched(knock)) is not None]
        for offer in offers:
            self._store.renew(offer.client_key, offer.last)
        if offers:
            self._store.flush()

    def forget_secrets(self) -> None:
        """Wipe the ratchet's key, in a process that does not serve."""
        if (epochs := self._keeper.epochs) is not None:
            epochs.forget()

    def _use(self, epochs: Epochs, config: ServerConfig, now: Now) -> None:
        """Put these in the place of those in force; where version 2 is off, the file is read when it is switched on."""
        self._drop()
        if not config.has_epochs:
            epochs.forget()
            return
        self._keeper.epochs = epochs
        self.tick(now)

    def _drop(self) -> None:
        """Forget the epochs in force, here and in the listener; the file is left as it is."""
        if (epochs := self._keeper.epochs) is not None:
            self._outbox.put([ForgetEpochKey(index) for index in epochs.live])
            epochs.forget()
            self._keeper.epochs = None
