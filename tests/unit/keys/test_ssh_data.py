"""SSH's strings and numbers: exactly what RFC 4251 has, and nothing beyond their end."""

import pytest

from openme.keys.ssh_data import BadSshDataError, Reader, called, kind_untrusted, number, string


def test_what_is_written_is_read_back() -> None:
    reader = Reader(string(b"ssh-ed25519") + number(7) + string(b"") + b"x")
    assert reader.string_untrusted() == b"ssh-ed25519"
    assert (reader.number_untrusted(), reader.string_untrusted(), reader.bytes_untrusted(1)) == (7, b"", b"x")
    reader.end_untrusted()


def test_the_rfcs_own_examples() -> None:
    """RFC 4251 section 5: the number 699921578, and the string `testing`."""
    assert number(699921578) == bytes.fromhex("29b7f4aa")
    assert string(b"testing") == bytes.fromhex("00000007") + b"testing"


@pytest.mark.parametrize("raw", [b"", b"\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xffabc", b"\0\0\0\4abc"])
def test_what_is_too_short_is_one_error(raw: bytes) -> None:
    with pytest.raises(BadSshDataError, match="too early"):
        Reader(raw).string_untrusted()


def test_what_follows_the_end_is_an_error() -> None:
    reader = Reader(string(b"a") + b"b")
    reader.string_untrusted()
    with pytest.raises(BadSshDataError, match="follows"):
        reader.end_untrusted()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sk-ssh-ed25519@openssh.com", "a FIDO key"),
        ("sk-ecdsa-sha2-nistp256@openssh.com", "a FIDO key"),
        ("ssh-rsa", "an RSA key"),
        ("ecdsa-sha2-nistp521", "an ECDSA key"),
        ("ssh-rsa-cert-v01@openssh.com", "a certificate"),
        ("ssh-dss", "a DSA key"),
        ("ssh-mldsa", "of another type"),
    ],
)
def test_types_are_called_by_words(kind: str, words: str) -> None:
    assert called(kind_untrusted(string(kind.encode()) + b"rest")) == words


def test_a_type_that_is_no_text_is_none() -> None:
    with pytest.raises(BadSshDataError, match="without a type"):
        kind_untrusted(string(b"\xff\xfe"))
