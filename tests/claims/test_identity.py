"""`identity`: version 1 does NOT have it. Whoever holds a client's public key finds its knocks, and this is how.

Public keys are not treated as secrets: they stand in configs, backups and authorized_keys. Version 2, which hides the
client even from those who hold every public key, is not there yet.
"""

from collections.abc import Iterator
from contextlib import closing

import pytest
from nacl.bindings import crypto_scalarmult
from nacl.exceptions import CryptoError

from openme.keys.ed25519 import ClientPublicKey
from openme.wire import v1
from openme.wire.knock import BadPacket
from support.recorded import Recorder, recorder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("identity"))
    with closing(made.ear):
        yield made


def public_keys(path: Recorder) -> dict[str, ClientPublicKey]:
    return {name: client.public_key for name, client in path.config.clients.items()}


def whose(packet: bytes, keys: dict[str, ClientPublicKey]) -> list[str]:
    """What the listener-in needs: the packet and public keys. Nothing of the server's."""
    return [name for name, key in keys.items() if v1.signed_by(packet, key)]


def test_version_1_names_its_client_to_whoever_holds_the_public_key(path: Recorder) -> None:
    keys = public_keys(path)
    for name in ("alice", "bob", "alice", "bob"):
        assert whose(path.knock(name), keys) == [name]


def test_version_1_knocks_of_one_client_are_linked(path: Recorder) -> None:
    """Wherever they come from and whatever they ask for."""
    alice = {"somebody": public_keys(path)["alice"]}
    recorded = [path.knock("alice"), path.knock("bob"), path.knock("alice", "--ip", "2001:db8::7"), path.knock("bob")]
    assert [bool(whose(packet, alice)) for packet in recorded] == [True, False, True, False]


def test_time_and_target_stay_closed_without_the_servers_key(path: Recorder) -> None:
    """What version 1 does keep: public keys name the client, they do not open the packet."""
    packet = path.knock("alice", "--ip", "192.0.2.7")
    ephemeral = packet[v1.EPHEMERAL_OFFSET : v1.AEAD_NONCE_OFFSET]
    public = [path.config.public_key, public_keys(path)["alice"].raw, ephemeral]
    opened = []
    for scalar in public:
        for point in public:
            try:
                opened.append(v1.open_untrusted(packet, v1._hkdf_32(crypto_scalarmult(scalar, point))))
            except (BadPacket, CryptoError):
                continue
    assert opened == []
    # The lock itself works: with the private key it opens, so that the failures above mean something.
    key = v1.aead_key_untrusted(packet, path.config.private_key.raw)
    assert str(v1.open_untrusted(packet, key).target) == "192.0.2.7"
