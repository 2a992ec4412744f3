"""A client key may be an SSH key too: what it signs for a knock is never a message of SSH's, whatever a profile holds.

Decision 0029 has the argument; the shapes of SSH's messages are from RFC 4252 section 7, OpenSSH's PROTOCOL.sshsig,
PROTOCOL.certkeys and PROTOCOL (hostkeys-prove), and RFC 8446 section 4.4.3 for TLS.
"""

import os
from ipaddress import ip_address

import pytest

from openme.client.agent_messages import MOST_BYTES
from openme.keys.ed25519 import ClientPublicKey
from openme.keys.x25519 import public_key_of
from openme.wire.knock import BadPacket, Knock
from openme.wire.versions import VERSIONS
from support.knocks import ALICE, START

TARGETS = (None, ip_address("203.0.113.5"), ip_address("2001:db8::5"))
FIRST_BYTES_OF_OTHERS = {0x00, ord("S"), ord(" ")}
HASH_SIZES = {20, 28, 32, 48, 64}  # bare hashes that are signed, of key exchanges and by others


class Recorder:
    """Signs, and keeps what it has signed."""

    public: ClientPublicKey = ALICE.public

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def sign(self, message: bytes) -> bytes:
        self.messages.append(message)
        return ALICE.sign(message)


@pytest.mark.parametrize("name", [version.name for version in VERSIONS])
def test_what_a_client_signs_is_no_message_of_another_protocol(name: str) -> None:
    (version,) = (version for version in VERSIONS if version.name == name)
    signer = Recorder()
    for target in TARGETS:
        for moment in (0, -1, START, 2**63 - 1):
            for _ in range(20):
                version.seal(public_key_of(os.urandom(32)), signer, Knock(moment, os.urandom(16), target))
    assert len(signer.messages) == 240
    for message in signer.messages:
        assert message[0] not in FIRST_BYTES_OF_OTHERS
        assert len(message) not in HASH_SIZES
        # As the length of a string it would be longer than any message that an agent takes.
        assert int.from_bytes(message[:4], "big") > MOST_BYTES


def test_the_two_versions_sign_nothing_that_is_the_others() -> None:
    sizes, heads = set(), set()
    for version in VERSIONS:
        signer = Recorder()
        for _ in range(20):
            version.seal(public_key_of(os.urandom(32)), signer, Knock(START, os.urandom(16), None))
        assert len({len(message) for message in signer.messages}) == len({m[0] for m in signer.messages}) == 1
        sizes.add(len(signer.messages[0]))
        heads.add(signer.messages[0][0])
    assert (sizes, heads) == ({101, 125}, {0x01, ord("o")})


def test_what_ssh_signs_is_no_knock() -> None:
    """A login, a signed file and a certificate, cut to a knock's length and signed, have no version's first byte."""
    v1 = next(version for version in VERSIONS if version.name == "v1")
    login = b"\0\0\0\x20" + os.urandom(32) + b"\x32" + b"\0\0\0\5alice" + bytes(60)
    for message in (login[:101], (b"SSHSIG" + bytes(95))[:101], (b"\0\0\0\x20ssh-ed25519-cert" + bytes(90))[:101]):
        packet = message + ALICE.sign(message)
        assert len(packet) == v1.size
        assert v1.admitted_untrusted(packet, {0: v1.key(0, os.urandom(32))}) == ()
        with pytest.raises(BadPacket):
            v1.unsealed_untrusted(packet, v1.key(0, os.urandom(32)))
