"""What a wire version is, for whoever makes, takes in or judges knocks and need not know which versions there are."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from openme.keys.ed25519 import ClientPublicKey, Signer
from openme.keys.erasing import wipe
from openme.wire.knock import Knock

RECEIPT_ID_SIZE = 16
RECEIPT_KEY_SIZE = 32
RECEIPT_NONCE_SIZE = 12


class Keys(Enum):
    """Which keys of the server's open a version's packets."""

    SERVER = auto()
    """The private key in the config, and the one before it."""
    EPOCH = auto()
    """Those of the live epochs. They are erased, so whatever follows from them is wiped wherever it is done with."""


class ServerKey(NamedTuple):
    """A key as a version uses it. `number`: the epoch, or which of several. `filter`: what tells noise, if anything."""

    number: int
    private: bytes
    public: bytes = b""
    filter: bytes = b""

    def __repr__(self) -> str:
        return f"ServerKey(number={self.number}, public={self.public!r}, filter={self.filter!r})"


class ReceiptKeys(NamedTuple):
    """What finds and opens a knock's receipt: id 16 bytes, key 32, nonce 12. They open nothing else."""

    id: bytes
    key: bytes
    nonce: bytes

    def __repr__(self) -> str:
        return f"ReceiptKeys(id={self.id!r})"

    def wipe(self) -> None:
        """Forget what opens the receipt; the id, which is asked for in the open, stays."""
        wipe(self.key, self.nonce)


class Unsealed(NamedTuple):
    """What opens a packet again, AEAD key (32 bytes) and nonce (12), and its receipt, where the version has one."""

    aead_key: bytes
    aead_nonce: bytes
    receipt: ReceiptKeys | None = None

    def __repr__(self) -> str:
        return f"Unsealed(aead_nonce={self.aead_nonce!r}, receipt={self.receipt!r})"


class Signed(NamedTuple):
    """What a packet says, whose signature is still to be checked by `signed_by`.

    `key_id`: whom it names, None where a version names nobody and all are candidates. `wipe` forgets what was signed;
    the knock stays.
    """

    knock: Knock
    key_id: bytes | None
    signed_by: Callable[[ClientPublicKey], bool]
    wipe: Callable[[], None]


def _nothing() -> None:
    """There is nothing to be done."""


class Version(NamedTuple):
    """A wire version: what the three who know packets do with one of it. Functions that say `_untrusted` raise
    BadPacket alone.
    """

    name: str
    """In `protocols` and `protocol`."""
    number: int
    """In a frame."""
    size: int
    """Bytes of a packet, by its own layout; see `knock_size`."""
    keys: Keys

    # The listener
    filter_mac: slice | None
    """Where a hash stands, SipHash-2-4 of all else under the key's `filter`, that tells noise; None: it has none."""
    shape: Mapping[int, tuple[int, int]]
    """The bytes that are between two values in every packet, by offset; empty: it looks like noise."""
    copy_prefix_size: int
    """Packets that begin with the same so many bytes are copies."""
    representative_size: int
    """So many bytes at a packet's head are its representative R, by which its receipt is found. Zero: it has none."""
    key: Callable[[int, bytes], ServerKey]
    """A key of the server's, by number and private key, made ready for use."""
    admitted_untrusted: Callable[[bytes, Mapping[int, ServerKey]], Sequence[ServerKey]]
    """Those of the keys that may open a packet of the right size; none: it is not of this version."""
    unsealed_untrusted: Callable[[bytes, ServerKey], Unsealed]
    """See that a packet opens, and keep nothing of what it says."""

    # The keeper
    signed_untrusted: Callable[[bytes, bytes, bytes, bytes], Signed]
    """Open a packet by its AEAD key, AEAD nonce and, for a version of epochs, the epoch's public key (else empty)."""

    # The client
    seal: Callable[[bytes, Signer, Knock], tuple[bytes, ReceiptKeys | None]]
    """A packet for the server's, or the epoch's, public key, with fresh randomness. ValueError for a low-order key."""
    pause: float
    """Seconds between two packets of it from one client."""
    names_own_address: bool
    """Whether a knock names our own address unless told otherwise, or none."""

    overwrite_traces: Callable[[], None] = _nothing
    """Put other numbers in the place of what was left on the stack; for when a key is forgotten."""

    @property
    def has_filter(self) -> bool:
        """Whether noise is told by a hash. Then a copy is, too, and copies of what was refused are worth knowing."""
        return self.filter_mac is not None

    def has_shape_untrusted(self, packet: bytes) -> bool:
        """Whether a packet of the right size has the shape."""
        return all(least <= packet[offset] <= most for offset, (least, most) in self.shape.items())
