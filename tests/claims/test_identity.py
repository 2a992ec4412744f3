"""`identity`: version 2 has it, version 1 has it in part. Whose knock is it, about what, and when was it made?

Whoever asks here is bob, himself a client: he holds his own file, every E_i, and every client's public key. Public keys
are not treated as secrets: they stand in configs, backups and authorized_keys. Under version 1 they find their owners'
knocks, and only time and target stay closed.
"""

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, combinations
from pathlib import Path

import monocypher
import pytest
from nacl.bindings import (
    crypto_scalarmult,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError

from openme.keeper.ratchet_file import read_ratchet
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.wire import v1, v2
from openme.wire.knock import BadPacket, IPAddress, Knock, pack_target
from support import noise
from support.recorded import Recorder, recorder

CLIENTS = ("alice", "bob", "carol", "dave")
HOME = IPv4Address("192.0.2.7")
ELSEWHERE = IPv6Address("2001:db8::7")
HOUR = 3600 * 10**9
SAMPLE = 2_500
FEW = 200  # enough for the control, whose flaw is gross


@dataclass(frozen=True)
class Insider:
    """What bob holds, who is a client like alice, and has seen the server's config but for its private keys."""

    own: ClientPrivateKey
    clients: dict[str, ClientPublicKey]
    epochs: dict[int, bytes]
    v1_server_key: bytes

    def epoch_of(self, packet: bytes) -> list[int]:
        """The epochs under which M fits."""
        return [i for i, key in self.epochs.items() if v2.passes_filter_untrusted(packet, v2.filter_key(key))]

    def strings(self) -> list[bytes]:
        """Every 32 bytes at hand that might serve as a key, a scalar or a shared secret."""
        pair = self.own.seed + self.own.public.raw
        known = [*(key.raw for key in self.clients.values()), *self.epochs.values(), self.v1_server_key]
        hashed = [hashlib.sha256(string).digest() for string in known]
        filters = [v2.filter_key(key) * 2 for key in self.epochs.values()]
        return [*known, *hashed, *filters, self.own.seed, crypto_sign_ed25519_sk_to_curve25519(pair)]

    def points(self, packet: bytes) -> list[bytes]:
        """Every point at hand, the packet's own among them."""
        montgomery = [crypto_sign_ed25519_pk_to_curve25519(key.raw) for key in self.clients.values()]
        return [monocypher.elligator_map(packet[:32]), packet[:32], *montgomery, self.v1_server_key]


def opened(packet: bytes, insider: Insider, *more: bytes) -> list[v2.SignedKnock]:
    """What a packet says to somebody who tries every string as a scalar with every point, and as the shared secret."""
    (epoch,) = insider.epoch_of(packet)
    public = insider.epochs[epoch]
    tried = [*more, *insider.strings()]
    points = [*insider.points(packet), public]
    secrets_tried = chain(
        (bytearray(string) for string in tried),
        (crypto_scalarmult(scalar, point) for scalar in tried for point in points),
    )
    found = []
    for shared in secrets_tried:
        schedule = v2._schedule(bytes(shared), public, packet[:32])
        try:
            found.append(v2.open_untrusted(packet, schedule.aead_key, schedule.aead_nonce))
        except BadPacket:
            continue
    return found


def signers(packet: bytes, insider: Insider) -> set[str]:
    """Whose signature stands in a packet, read as version 1, and as version 2 with C as its plaintext."""
    found = {name for name, key in insider.clients.items() if v1.signed_by(packet, key)}
    fields, signature = packet[40:85], packet[85:149]
    read = v2.SignedKnock(Knock(0, bytes(16), None), fields[41:], fields, signature)
    for public in insider.epochs.values():
        found |= {name for name, key in insider.clients.items() if v2.signed_by(packet, read, public, key)}
    return found


def sharing(strings: Sequence[bytes]) -> int:
    """How many pairs of strings have four bytes in common, wherever these stand."""
    homes: dict[bytes, set[int]] = {}
    for number, string in enumerate(strings):
        for at in range(len(string) - 3):
            homes.setdefault(string[at : at + 4], set()).add(number)
    return len(set(chain.from_iterable(combinations(sorted(home), 2) for home in homes.values())))


def xored(first: Sequence[bytes], second: Sequence[bytes]) -> list[bytes]:
    return [bytes(a ^ b for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)]


def couples(ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Differences of packets of one client, and of two clients; each packet is used once."""
    half = len(ours) // 2
    same = chain.from_iterable(zip(*(xored(side[:half:2], side[1:half:2]) for side in (ours, theirs)), strict=True))
    return list(same), xored(ours[half:], theirs[half:])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("identity"))
    for name in CLIENTS[2:]:
        made.add(name)
    with closing(made.ear):
        yield made


@pytest.fixture(scope="module")
def v1_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = recorder(tmp_path_factory.mktemp("identity-v1"), "--v1")
    with closing(made.ear):
        yield made


def public_keys(path: Recorder) -> dict[str, ClientPublicKey]:
    return {name: client.public_key for name, client in path.config.clients.items()}


@pytest.fixture(scope="module")
def insider(path: Recorder) -> Insider:
    own = path.profile("bob")
    assert own.private_key is not None
    assert own.epoch_keys is not None
    epochs = {own.epoch_keys.first + n: key for n, key in enumerate(own.epoch_keys.keys)}
    return Insider(own.private_key, public_keys(path), epochs, path.config.public_key)


@pytest.fixture(scope="module")
def heaps(path: Recorder) -> dict[str, list[bytes]]:
    """Captured knocks, sorted as no listener-in could: those of alice, and those that differ from them in one thing."""
    now = time.time_ns()
    return {
        "alice": path.knocks("alice", SAMPLE, now, HOME),
        "client": path.knocks("bob", SAMPLE, now, HOME),
        "target": path.knocks("alice", SAMPLE, now, ELSEWHERE),
        "time": path.knocks("alice", SAMPLE, now + HOUR, HOME),
    }


def test_no_registered_key_finds_its_knock(path: Recorder, insider: Insider) -> None:
    assert set(insider.clients) == set(CLIENTS)
    for name in CLIENTS:
        assert signers(path.knock(name), insider) == set()


def test_all_that_is_public_and_another_clients_file_open_nothing(path: Recorder, insider: Insider) -> None:
    packet = path.knock("alice", "--ip", str(HOME))
    assert opened(packet, insider) == []
    # The attempt itself works: with the epoch's private key among them it opens, and then all of it is there.
    ratchet = read_ratchet(Path(path.config.state_dir))
    assert ratchet is not None
    (epoch,) = insider.epoch_of(packet)
    (signed,) = opened(packet, insider, ratchet.private_key(epoch))
    assert (signed.knock.target, signed.key_id) == (HOME, insider.clients["alice"].key_id)
    assert v2.signed_by(packet, signed, insider.epochs[epoch], insider.clients["alice"])


def test_nothing_of_a_knock_stands_in_it_and_two_have_nothing_in_common(path: Recorder, insider: Insider) -> None:
    """Two strings of 165 bytes have four in common in 162² of 2³² cases; three pairs out of 820 in less than 1e-7."""
    key, now = insider.clients["alice"], time.time_ns()
    said = [key.raw, key.key_id, pack_target(HOME)[12:], now.to_bytes(8, "big")]
    knocks = path.knocks("alice", 40, now, HOME)
    assert sharing([*knocks, b"".join(said)]) < 3
    # That this count sees a key id, at whatever place:
    marked = [packet[: 40 + at] + key.key_id + packet[44 + at :] for at, packet in enumerate(knocks)]
    assert sharing(marked) >= 40 * 39 // 2


@pytest.mark.parametrize("differs", ["client", "target", "time"])
def test_a_classifier_learns_nothing_from_captured_knocks(heaps: dict[str, list[bytes]], differs: str) -> None:
    """Trained on knocks of which it is told which is which, as nobody could be who cannot open them."""
    accuracy, chance = noise.learned(heaps["alice"], heaps[differs])
    assert accuracy <= chance


def test_a_classifier_does_not_link_two_knocks_of_one_client(heaps: dict[str, list[bytes]]) -> None:
    accuracy, chance = noise.learned(*couples(heaps["alice"], heaps["client"]))
    assert accuracy <= chance


def one_ephemeral_for_all(
    insider: Insider, ephemeral: tuple[bytes, bytes], client: bytes, target: IPAddress, now_ns: int
) -> list[bytes]:
    """What a client would send that kept its R: every knock under the same key stream."""
    public = min(insider.epochs.items())[1]
    return [
        v2.seal(public, ClientPrivateKey(client), Knock(now_ns, secrets.token_bytes(16), target), ephemeral=ephemeral)[
            0
        ]
        for _ in range(FEW)
    ]


def test_the_same_classifier_learns_all_of_it_from_a_client_that_keeps_its_ephemeral_key(insider: Insider) -> None:
    """What a fresh one for every knock is there for, and that the classifier would notice."""
    ephemeral, now = v2.new_ephemeral(), time.time_ns()
    ours = one_ephemeral_for_all(insider, ephemeral, b"\xa1" * 32, HOME, now)
    others = {
        "client": one_ephemeral_for_all(insider, ephemeral, b"\xb0" * 32, HOME, now),
        "target": one_ephemeral_for_all(insider, ephemeral, b"\xa1" * 32, ELSEWHERE, now),
        "time": one_ephemeral_for_all(insider, ephemeral, b"\xa1" * 32, HOME, now + HOUR),
    }
    for what, theirs in others.items():
        assert noise.learned(ours, theirs)[0] == 1, what
    assert noise.learned(*couples(ours, others["client"]))[0] == 1


def test_e_i_tells_the_server_and_the_epoch_and_no_more(path: Recorder, insider: Insider) -> None:
    """What its holder can do (spec wire-v2.md "What version 2 does not promise"): tell knocks for this server."""
    began = time.time_ns()
    found = [insider.epoch_of(path.knock(name)) for name in CLIENTS]
    known = path.profile("bob").epoch_keys
    assert known is not None
    length = int(known.length) * 10**9
    assert all(one in ([began // length], [time.time_ns() // length]) for one in found)
    assert insider.epoch_of(secrets.token_bytes(165)) == []


def whose(packet: bytes, keys: dict[str, ClientPublicKey]) -> list[str]:
    """What the listener-in needs: the packet and public keys. Nothing of the server's."""
    return [name for name, key in keys.items() if v1.signed_by(packet, key)]


def test_version_1_names_its_client_to_whoever_holds_the_public_key(v1_path: Recorder) -> None:
    keys = public_keys(v1_path)
    for name in ("alice", "bob", "alice", "bob"):
        assert whose(v1_path.knock(name), keys) == [name]


def test_version_1_knocks_of_one_client_are_linked(v1_path: Recorder) -> None:
    """Wherever they come from and whatever they ask for."""
    alice = {"somebody": public_keys(v1_path)["alice"]}
    asked = [("alice",), ("bob",), ("alice", "--ip", str(ELSEWHERE)), ("bob",)]
    recorded = [v1_path.knock(*words) for words in asked]
    assert [bool(whose(packet, alice)) for packet in recorded] == [True, False, True, False]


def test_time_and_target_stay_closed_without_the_servers_key(v1_path: Recorder) -> None:
    """What version 1 does keep: public keys name the client, they do not open the packet."""
    packet = v1_path.knock("alice", "--ip", str(HOME))
    ephemeral = packet[v1.EPHEMERAL_OFFSET : v1.AEAD_NONCE_OFFSET]
    public = [v1_path.config.public_key, public_keys(v1_path)["alice"].raw, ephemeral]
    read = []
    for scalar in public:
        for point in public:
            try:
                read.append(v1.open_untrusted(packet, v1._hkdf_32(crypto_scalarmult(scalar, point))))
            except (BadPacket, CryptoError):
                continue
    assert read == []
    # The lock itself works: with the private key it opens, so that the failures above mean something.
    key = v1.aead_key_untrusted(packet, v1_path.config.private_key.raw)
    assert v1.open_untrusted(packet, key).target == HOME
