"""`forward_secrecy`: version 1 does NOT have it on the server's side. A recorded knock waits for the server's key.

What is stolen from a client, on the other hand, opens none of its past knocks. Version 2, whose epoch keys are erased,
is not there yet.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from nacl.bindings import crypto_scalarmult

from openme.wire import v1
from openme.wire.knock import BadPacket
from support.recorded import Recorder, recorder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("forward"))
    with closing(made.ear):
        yield made


def test_version_1_has_no_forward_secrecy_the_servers_file_opens_the_past(path: Recorder) -> None:
    began = time.time_ns()
    recorded = [path.knock("alice", "--ip", "192.0.2.7"), path.knock("bob")]
    ended = time.time_ns()
    # Later, perhaps years later, somebody copies one line of the server's file.
    stolen = path.config.private_key.raw
    knocks = [v1.open_untrusted(packet, v1.aead_key_untrusted(packet, stolen)) for packet in recorded]
    assert [str(knock.target) for knock in knocks] == ["192.0.2.7", "None"]
    assert all(began <= knock.timestamp_ns <= ended for knock in knocks)
    assert len({knock.random_nonce for knock in knocks}) == 2


def test_a_stolen_client_does_not_open_its_own_past(path: Recorder) -> None:
    """The ephemeral private key is gone with the packet; nothing in the client's file stands in for it."""
    packet = path.knock("alice", "--ip", "192.0.2.7")
    stolen = path.profile("alice")
    assert stolen.private_key is not None
    seed = stolen.private_key.seed
    ephemeral = packet[v1.EPHEMERAL_OFFSET : v1.AEAD_NONCE_OFFSET]
    for scalar in (seed, hashlib.sha512(seed).digest()[:32], stolen.private_key.public.raw):
        for point in (ephemeral, stolen.server_pubkey):
            with pytest.raises(BadPacket, match="decrypt"):
                v1.open_untrusted(packet, v1._hkdf_32(crypto_scalarmult(scalar, point)))
