"""From datagram to frame: what a stranger's bytes go through before anything else sees them."""

from openme.wire import v1
from openme.wire.frame import PACKET_SIZE, Frame, Order, OrderKind
from openme.wire.knock import BadPacket, IPAddress


class Listener:
    """Turns datagrams into frames. Holds the live decryption keys and no other state."""

    def __init__(self) -> None:
        self._v1_private_key: bytes | None = None

    def obey(self, order: Order) -> None:
        """Take a key into use or forget one, as the keeper says; verdicts change nothing here."""
        if order.kind is OrderKind.USE_V1_KEY:
            self._v1_private_key = order.private_key
        elif order.kind is OrderKind.FORGET_V1_KEY:
            self._v1_private_key = None

    def frame_untrusted(self, datagram: bytes, source: IPAddress) -> Frame:
        """The frame for a datagram that decrypts. BadPacket: `length`, `version`, `low_order`, `decrypt`.

        Nothing is stored and nothing is answered: a datagram that fails leaves no trace but a count. The cheap checks
        come first, as in spec wire-v2.md "What the server does with a datagram".
        """
        if len(datagram) != PACKET_SIZE:
            raise BadPacket("length")
        if self._v1_private_key is None:
            raise BadPacket("version")
        aead_key = v1.aead_key_untrusted(datagram, self._v1_private_key)
        v1.open_untrusted(datagram, aead_key)
        return Frame(
            version=v1.VERSION,
            source=source,
            epoch=0,
            aead_key=aead_key,
            aead_nonce=datagram[v1.AEAD_NONCE_OFFSET : v1.CIPHERTEXT_OFFSET],
            packet=datagram,
        )
