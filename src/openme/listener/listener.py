"""From datagram to frame: what a stranger's bytes go through before anything else sees them."""

from dataclasses import dataclass, field

from openme.keys.erasing import wipe
from openme.keys.x25519 import public_key_of
from openme.seam.handlers import Handler
from openme.seam.messages import PACKET_SIZE, ForgetEpochKey, ForgetV1Key, Frame, Message, UseEpochKey, UseV1Key
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

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What the keeper's orders about keys do here."""
        return {
            UseV1Key: self._use_v1_key,
            ForgetV1Key: self._forget_v1_key,
            UseEpochKey: self._use_epoch_key,
            ForgetEpochKey: lambda order: self._forget(order.epoch),
        }

    def _use_v1_key(self, order: UseV1Key) -> None:
        self._v1_keys[order.number] = order.key

    def _forget_v1_key(self, order: ForgetV1Key) -> None:
        self._v1_keys.pop(order.number, None)

    def _use_epoch_key(self, order: UseEpochKey) -> None:
        public = public_key_of(order.key)
        self._forget(order.epoch)
        self._epochs[order.epoch] = _Epoch(order.epoch, order.key, public, v2.filter_key(public))

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
