"""A digest over a set of rows that costs one hash for each row that comes or goes, whatever the set's size.

The sum of the rows' hashes modulo 2^256. It tells accident from order: a bit that flips in a page that SQLite does not
check changes it, whatever row it hits. It is no protection against somebody who writes into `state_dir`: nothing is.
"""

from collections.abc import Iterable
from hashlib import blake2b

_SIZE = 32
_MODULUS = 1 << 8 * _SIZE

Row = tuple[object, ...]


class SetDigest:
    """The digest of what was added and not removed again. A row is a table's name and its values."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._sum = sum(map(_hash, rows)) % _MODULUS

    def add(self, row: Row) -> None:
        """A row that comes."""
        self._sum = (self._sum + _hash(row)) % _MODULUS

    def remove(self, row: Row) -> None:
        """A row that goes."""
        self._sum = (self._sum - _hash(row)) % _MODULUS

    def copy(self) -> "SetDigest":
        """Another one that is equal now."""
        other = SetDigest()
        other._sum = self._sum
        return other

    @property
    def value(self) -> bytes:
        """32 bytes; the empty set's are not zero, which stands for a digest that fits nothing."""
        return ((self._sum + 1) % _MODULUS).to_bytes(_SIZE, "big")


def _hash(row: Row) -> int:
    # repr tells numbers, bytes and text apart, also where damage has changed a value's type.
    return int.from_bytes(blake2b(repr(row).encode(errors="replace"), digest_size=_SIZE).digest(), "big")
