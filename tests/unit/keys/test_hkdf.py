"""HKDF-SHA256 against RFC 5869."""

import hashlib
import hmac

import pytest

from openme.keys.hkdf import hkdf


def test_the_rfcs_case_without_salt_and_info() -> None:
    """RFC 5869 appendix A.3."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 104, 255 * 32])
def test_blocks_are_chained_and_the_last_one_cut(length: int) -> None:
    key, info = hmac.digest(bytes(32), b"material", "sha256"), b"some info"
    block, whole = b"", b""
    for number in range(1, 256):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        whole += block
    assert hkdf(b"material", info, length) == whole[:length]


def test_what_goes_in_is_left_as_it_is() -> None:
    material, info = hashlib.sha256(b"m").digest(), hashlib.sha256(b"i").digest()
    hkdf(material, info, 104)
    assert (material, info) == (hashlib.sha256(b"m").digest(), hashlib.sha256(b"i").digest())


def test_more_than_the_rfc_allows_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        hkdf(b"material", b"", 255 * 32 + 1)
