"""From datagram to frame: what a stranger's bytes go through before anything else sees them."""

from dataclasses import dataclass, field

from openme.keys.erasing import wipe
from openme.keys.x25519 import public_key_of
from openme.seam.messages import PACKET_SIZE, Frame, Order, OrderKind
from openme.wire import v1, v2
from openme.wire.knock import BadPacket, IPAddress


@dataclass(frozen=True, slots=True)
class _Epoch:
    index: int
    private: bytes = field(repr=False)
    public: bytes
    filter_key: bytes


class Listener:
    """Turns datagrams into frames. Holds the live decryption keys and no other state."""

    def __init__(self) -> None:
        self._v1_keys: dict[int, bytes] = {}
        self._epochs: dict[int, _Epoch] = {}

    def obey(self, order: Order) -> None:
        """Take a key into use or forget one, as the keeper says; other orders change nothing here."""
        if order.kind is OrderKind.USE_V1_KEY:
            self._v1_keys[order.number] = order.key
        elif order.kind is OrderKind.FORGET_V1_KEY:
            self._v1_keys.pop(order.number, None)
        elif order.kind is OrderKind.USE_EPOCH_KEY:
            public = public_key_of(order.key)
            self._forget(order.number)
            self._epochs[order.number] = _Epoch(order.number, order.key, public, v2.filter_key(public))
        elif order.kind is OrderKind.FORGET_EPOCH_KEY:
            self._forget(order.number)

    def _forget(self, index: int) -> None:
        epoch = self._epochs.pop(index, None)
        if epoch is not None:
            wipe(epoch.private)
            v2.overwrite_traces()

    def version_untrusted(self, datagram: bytes) -> int:
        """The wire version of a datagram, at the price of one or two short hashes. BadPacket: `length`, `filter`.

        The filter MAC decides, not the first byte: one version 2 packet in 256 begins like one of version 1 (spec
        wire-v2.md "Both versions on one port").
        """
        return v1.VERSION if self._epoch_untrusted(datagram) is None else v2.VERSION

    def _epoch_untrusted(self, datagram: bytes) -> _Epoch | None:
        """The epoch whose filter MAC a datagram has; None for what may be version 1. BadPacket: `length`, `filter`."""
        if len(datagram) != PACKET_SIZE:
            raise BadPacket("length")
        for epoch in self._epochs.values():
            if v2.passes_filter_untrusted(datagram, epoch.filter_key):
                return epoch
        if datagram[0] == v1.VERSION and self._v1_keys:
            return None
        raise BadPacket("filter")

    def frame_untrusted(self, datagram: bytes, source: IPAddress) -> tuple[Frame, v2.ReceiptKeys | None]:
        """The frame for a datagram that decrypts, and under version 2 the keys of the receipt that it may get.

        BadPacket: `length`, `filter`, `low_order`, `decrypt`, `version`. Nothing is stored and nothing is answered: a
        datagram that fails leaves no trace but a count. The cheap checks come first (spec wire-v2.md "What the server
        does with a datagram").
        """
        epoch = self._epoch_untrusted(datagram)
        if epoch is None:
            return self._v1_frame_untrusted(datagram, source), None
        schedule = v2.schedule_untrusted(datagram, epoch.private, epoch.public)
        try:
            v2.check_opens_untrusted(datagram, schedule.aead_key, schedule.aead_nonce)
        except BadPacket:
            schedule.wipe()
            schedule.receipt.wipe()
            raise
        frame = Frame(
            version=v2.VERSION,
            source=source,
            epoch=epoch.index,
            aead_key=schedule.aead_key,
            aead_nonce=schedule.aead_nonce,
            packet=datagram,
        )
        return frame, schedule.receipt

    def _v1_frame_untrusted(self, datagram: bytes, source: IPAddress) -> Frame:
        failed = BadPacket("decrypt")
        for private_key in self._v1_keys.values():
            try:
                aead_key = v1.aead_key_untrusted(datagram, private_key)
                v1.open_untrusted(datagram, aead_key)
            except BadPacket as bad:
                failed = bad
                continue
            return Frame(
                version=v1.VERSION,
                source=source,
                epoch=0,
                aead_key=aead_key,
                aead_nonce=datagram[v1.AEAD_NONCE_OFFSET : v1.CIPHERTEXT_OFFSET],
                packet=datagram,
            )
        raise failed
