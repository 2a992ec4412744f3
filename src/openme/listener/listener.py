"""From datagram to frame: what a stranger's bytes go through before anything else sees them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from openme.keys.erasing import wipe
from openme.reasons import Reason
from openme.seam.handlers import Handler
from openme.seam.messages import PACKET_SIZE, ForgetEpochKey, ForgetV1Key, Frame, Message, UseEpochKey, UseV1Key
from openme.wire.base import Keys, ReceiptKeys, ServerKey, Version
from openme.wire.knock import BadPacket, IPAddress
from openme.wire.versions import VERSIONS, overwrite_traces


class Filter(Protocol):
    """What drops noise before it gets here, by the same keys."""

    def follow(self, keys: Mapping[int, Mapping[int, ServerKey]]) -> None:
        """From now on these are the keys, by wire version and number."""


class Listener:
    """Turns datagrams into frames. Holds the live decryption keys and no other state."""

    def __init__(self, before: Filter | None = None) -> None:
        """`before`: what is told of every change of the keys."""
        self._before = before
        self._keys: dict[int, dict[int, ServerKey]] = {version.number: {} for version in VERSIONS}

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What the keeper's orders about keys do here."""
        return {
            UseV1Key: lambda order: self._use(Keys.SERVER, order.number, order.key),
            ForgetV1Key: lambda order: self._forget(Keys.SERVER, order.number),
            UseEpochKey: lambda order: self._use(Keys.EPOCH, order.epoch, order.key),
            ForgetEpochKey: lambda order: self._forget(Keys.EPOCH, order.epoch),
        }

    def _use(self, sort: Keys, number: int, private: bytes) -> None:
        made = {version.number: version.key(number, private) for version in VERSIONS if version.keys is sort}
        former = self._taken(sort, number)
        for version, key in made.items():
            self._keys[version][number] = key
        self._changed(sort, former)

    def _forget(self, sort: Keys, number: int) -> None:
        self._changed(sort, self._taken(sort, number))

    def _taken(self, sort: Keys, number: int) -> list[ServerKey]:
        known = [self._keys[version.number].pop(number, None) for version in VERSIONS if version.keys is sort]
        return [key for key in known if key is not None]

    def _changed(self, sort: Keys, former: list[ServerKey]) -> None:
        # Once a change, so that a key which is only told again is at no moment missing there.
        if self._before is not None:
            self._before.follow(self._keys)
        if former and sort is Keys.EPOCH:
            wipe(*(key.private for key in former))
            overwrite_traces()

    def version_untrusted(self, datagram: bytes) -> int:
        """The wire version of a datagram, at the price of one or two short hashes. BadPacket: `length`, `filter`."""
        return self._admitted_untrusted(datagram)[0].number

    def _admitted_untrusted(self, datagram: bytes) -> tuple[Version, Sequence[ServerKey]]:
        """What a datagram may be, and the keys that may open it. BadPacket: `length`, `filter`."""
        if len(datagram) != PACKET_SIZE:
            raise BadPacket(Reason.LENGTH)
        for version in VERSIONS:
            keys = version.admitted_untrusted(datagram, self._keys[version.number])
            if keys:
                return version, keys
        raise BadPacket(Reason.FILTER)

    def frame_untrusted(self, datagram: bytes, source: IPAddress) -> tuple[Frame, ReceiptKeys | None]:
        """The frame for a datagram that decrypts, and the keys of the receipt that it may get, if any.

        BadPacket: `length`, `filter`, `low_order`, `decrypt`, `version`. Nothing is stored and nothing is answered: a
        datagram that fails leaves no trace but a count. The cheap checks come first (spec wire-v2.md "What the server
        does with a datagram").
        """
        version, keys = self._admitted_untrusted(datagram)
        failed = BadPacket(Reason.DECRYPT)
        for key in keys:
            try:
                opened = version.unsealed_untrusted(datagram, key)
            except BadPacket as bad:
                failed = bad
                continue
            frame = Frame(
                version=version.number,
                source=source,
                epoch=key.number if version.keys is Keys.EPOCH else 0,
                aead_key=opened.aead_key,
                aead_nonce=opened.aead_nonce,
                packet=datagram,
            )
            return frame, opened.receipt
        raise failed
