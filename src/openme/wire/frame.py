"""What listener and keeper say to each other: messages of fixed size, so that neither has anything to parse.

    frame, listener to keeper, 234 bytes            order, keeper to listener, 41 bytes
    offset  size  field                             offset  size  field
         0     1  wire version, 1 or 2                   0     1  kind, see OrderKind
         1    16  source address of the datagram,        1     8  epoch index, unsigned
                  IPv4 as ::ffff:a.b.c.d                 9    32  private key, or zeros
        17     8  epoch index (version 1: zero)
        25    32  AEAD key
        57    12  AEAD nonce
        69   165  the packet as it came

All integers are big-endian. Everything in a frame is the listener's word, and whoever has taken the listener over may
say anything: the keeper opens the packet again and trusts nothing but the client's signature in it.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from openme.wire.knock import BadPacket, IPAddress, pack_address, unpack_address

VERSION_SIZE = 1
SOURCE_SIZE = 16
EPOCH_SIZE = 8
AEAD_KEY_SIZE = 32
AEAD_NONCE_SIZE = 12
PACKET_SIZE = 165

SOURCE_OFFSET = VERSION_SIZE  # 1
EPOCH_OFFSET = SOURCE_OFFSET + SOURCE_SIZE  # 17
AEAD_KEY_OFFSET = EPOCH_OFFSET + EPOCH_SIZE  # 25
AEAD_NONCE_OFFSET = AEAD_KEY_OFFSET + AEAD_KEY_SIZE  # 57
PACKET_OFFSET = AEAD_NONCE_OFFSET + AEAD_NONCE_SIZE  # 69
FRAME_SIZE = PACKET_OFFSET + PACKET_SIZE  # 234

KIND_SIZE = 1
PRIVATE_KEY_SIZE = 32
ORDER_SIZE = KIND_SIZE + EPOCH_SIZE + PRIVATE_KEY_SIZE  # 41


class OrderKind(IntEnum):
    """What the keeper tells the listener: the verdict on a frame, as they are judged, or a key's fate."""

    ACCEPTED = 0
    REFUSED = 1
    FAILED = 2  # the knock was good, the firewall was not
    USE_V1_KEY = 3
    FORGET_V1_KEY = 4
    KNOWN_SOURCE = 5  # a client has knocked from this address, which stands where a key would


@dataclass(frozen=True, slots=True)
class Order:
    """One message from the keeper to the listener."""

    kind: OrderKind
    epoch: int = 0
    private_key: bytes = field(default=bytes(PRIVATE_KEY_SIZE), repr=False)

    def pack(self) -> bytes:
        """The 41 bytes."""
        return self.kind.to_bytes(KIND_SIZE, "big") + self.epoch.to_bytes(EPOCH_SIZE, "big") + self.private_key


def known_source(address: IPAddress) -> Order:
    """Tells the listener of an address that a client has knocked from."""
    return Order(OrderKind.KNOWN_SOURCE, private_key=pack_address(address) + bytes(PRIVATE_KEY_SIZE - SOURCE_SIZE))


def source_of(order: Order) -> IPAddress:
    """The address in a KNOWN_SOURCE."""
    return unpack_address(order.private_key[:SOURCE_SIZE])


def unpack_order(raw: bytes) -> Order:
    """The order in exactly 41 bytes; ValueError for anything else.

    The listener may trust the keeper: this guards against mistakes, not against strangers.
    """
    if len(raw) != ORDER_SIZE:
        raise ValueError(f"an order has {ORDER_SIZE} bytes")
    return Order(
        OrderKind(raw[0]), int.from_bytes(raw[KIND_SIZE : KIND_SIZE + EPOCH_SIZE], "big"), raw[KIND_SIZE + EPOCH_SIZE :]
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """One datagram on its way from the listener to the keeper."""

    version: int
    source: IPAddress
    epoch: int
    aead_key: bytes = field(repr=False)
    aead_nonce: bytes
    packet: bytes

    def pack(self) -> bytes:
        """The 234 bytes."""
        return (
            self.version.to_bytes(VERSION_SIZE, "big")
            + pack_address(self.source)
            + self.epoch.to_bytes(EPOCH_SIZE, "big")
            + self.aead_key
            + self.aead_nonce
            + self.packet
        )


def unpack_frame_untrusted(raw: bytes) -> Frame:
    """The frame in exactly 234 bytes. BadPacket: `frame` for any other length."""
    if len(raw) != FRAME_SIZE:
        raise BadPacket("frame")
    return Frame(
        version=raw[0],
        source=unpack_address(raw[SOURCE_OFFSET:EPOCH_OFFSET]),
        epoch=int.from_bytes(raw[EPOCH_OFFSET:AEAD_KEY_OFFSET], "big"),
        aead_key=raw[AEAD_KEY_OFFSET:AEAD_NONCE_OFFSET],
        aead_nonce=raw[AEAD_NONCE_OFFSET:PACKET_OFFSET],
        packet=raw[PACKET_OFFSET:],
    )
