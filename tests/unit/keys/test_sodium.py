"""libsodium on buffers of our own: the results of PyNaCl's bindings and the standard library, and nothing left over."""

import hmac
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.signing import SigningKey

from openme.keys import sodium
from openme.keys.hkdf import hkdf
from openme.keys.sodium import Secret

KEY, NONCE, MORE = secrets.token_bytes(32), secrets.token_bytes(12), secrets.token_bytes(32)


def secret(content: bytes) -> Secret:
    made = Secret(len(content))
    made.data[:] = content
    return made


def test_x25519_agrees() -> None:
    public = crypto_scalarmult_base(MORE)
    with Secret(32) as shared:
        assert sodium.x25519(shared, KEY, public)
        assert shared.data == crypto_scalarmult(KEY, public)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_x25519_refuses_a_low_order_point(point: bytes) -> None:
    with Secret(32) as shared:
        assert not sodium.x25519(shared, KEY, point)


@pytest.mark.parametrize("length", [1, 32, 33, 104, 255 * 32])
@pytest.mark.parametrize("sizes", [(1, 0), (32, 74), (64, 1), (256, 256)])
def test_hkdf_agrees(length: int, sizes: tuple[int, int]) -> None:
    material, info = (secrets.token_bytes(size) for size in sizes)
    extracted = hmac.digest(bytes(32), material, "sha256")
    block, expected = b"", b""
    for number in range(1, 256):
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        expected += block
    with Secret(length) as output:
        sodium.hkdf(output, material, info)
        assert output.data == expected[:length]


@pytest.mark.parametrize(("length", "material", "info"), [(255 * 32 + 1, 32, 0), (32, 257, 0), (32, 32, 257)])
def test_hkdf_refuses_what_is_too_long(length: int, material: int, info: int) -> None:
    with pytest.raises(ValueError, match="too long"):
        sodium.hkdf(Secret(length), bytes(material), bytes(info))


def test_threads_do_not_mix_their_keys() -> None:
    cases = [(bytes([n]) * 32, bytes([n]) * 70) for n in range(4)]
    expected = [hkdf(material, info, 104) for material, info in cases]
    start = threading.Barrier(len(cases))

    def derive(case: tuple[bytes, bytes]) -> set[bytes]:
        start.wait()
        return {hkdf(*case, 104) for _ in range(3000)}

    with ThreadPoolExecutor(len(cases)) as pool:
        assert list(pool.map(derive, cases)) == [{value} for value in expected]


def test_hkdf_leaves_nothing_in_its_own_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[memoryview] = []

    class Kept(Secret):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self.data)

    monkeypatch.setattr(sodium, "Secret", Kept)
    with Kept(104) as output:
        sodium.hkdf(output, KEY, MORE)
        assert any(output.data)
    assert len(made) == 2
    assert not any(any(data) for data in made)


@pytest.mark.parametrize("size", [0, 1, 109, 4080])
def test_aead_agrees_both_ways(size: int) -> None:
    plaintext = secrets.token_bytes(size)
    sealed = sodium.seal_aead(secret(plaintext), MORE, NONCE, KEY)
    assert sealed == crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, MORE, NONCE, KEY)
    assert crypto_aead_chacha20poly1305_ietf_decrypt(sealed, MORE, NONCE, KEY) == plaintext
    with Secret(size) as opened:
        assert sodium.open_aead(opened, sealed, MORE, NONCE, KEY)
        assert opened.data == plaintext


def test_aead_refuses_every_altered_part_and_gives_nothing_away() -> None:
    sealed = sodium.seal_aead(secret(b"said" * 10), MORE, NONCE, KEY)
    parts = [sealed, MORE, NONCE, KEY]
    for place, part in enumerate(parts):
        for at in range(len(part)):
            altered = [*parts]
            altered[place] = part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]
            with Secret(40) as opened:
                assert not sodium.open_aead(opened, *altered)
                assert not any(opened.data)


def test_a_plaintext_of_another_size_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="16 bytes shorter"):
        sodium.open_aead(Secret(10), bytes(25), MORE, NONCE, KEY)


def test_signatures_are_told_from_others() -> None:
    key = SigningKey(KEY)
    message = key.sign(b"what is signed")
    whole = message.signature + message.message
    assert sodium.signed(secret(whole), bytes(key.verify_key))
    assert not sodium.signed(secret(whole), bytes(SigningKey(MORE).verify_key))
    for at in range(len(whole)):
        altered = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert not sodium.signed(secret(altered), bytes(key.verify_key))


def test_a_secret_is_wiped_in_its_own_place_also_when_something_goes_wrong() -> None:
    one = secret(KEY)

    def fail() -> None:
        with one:
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert one.data == bytes(32)
    two = secret(KEY)
    copy = two.part(8, 24)
    two.wipe()
    assert bytes(two.data) == bytes(32)
    assert copy == KEY[8:24]
