"""The judge of version 2 knocks: the order of its checks, by the names of the refusals."""

import base64
import json
from dataclasses import replace

import pytest

from openme.clocks import Now
from openme.config.model import ClientEntry
from openme.keeper.registry import Registry
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.seam.messages import FRAME_SIZE, unpack_frame_untrusted
from openme.wire import v1, v2
from openme.wire.v2 import SignedKnock
from support import independent_v2
from support.knocks import (
    ALICE,
    BOB,
    ELSEWHERE,
    EPOCH,
    HOME,
    NOW,
    START,
    STRANGER,
    WEEK,
    Judge,
    Judgement,
    config,
    frame,
    judged,
    keeper,
    later,
    lines,
    nonce,
    packet,
    packet_v2,
    ratchet,
)

PUBLIC = ratchet().public_keys(EPOCH, 1)[0]
ONLY_ALICE = "{alice: {ed25519_pubkey: KEY_A}}"
# Two keys with one key id, 65fdb495, found by trying the numbers from 0 on as seeds.
TWIN, OTHER_TWIN = (ClientPrivateKey(number.to_bytes(32, "big")) for number in (14_099, 47_417))


def forged(key_id: bytes, signer: ClientPrivateKey, label: str = "f", transcript_key: bytes = PUBLIC) -> bytes:
    """A packet with any key id and any signer's signature."""
    representative, secret = independent_v2.ephemeral(label.encode())
    fields = b"\x02" + START.to_bytes(8, "big") + nonce(label) + bytes(16) + key_id
    signature = signer.sign(v2.transcript(transcript_key, representative, fields))
    schedule = v2.ephemeral_schedule(secret, PUBLIC, representative)
    return v2.assemble(representative, schedule, PUBLIC, fields + signature)


def reason(judge: Judge, raw: bytes, now: Now = NOW) -> str:
    outcome = judge.judge_untrusted(raw, now)
    assert (outcome.grant is not None) == (outcome.reason == "accepted")
    return outcome.reason


# -- a good knock


@pytest.mark.parametrize("target", [None, "198.51.100.7"])
def test_a_good_knock_is_granted_and_named_by_its_r_and_epoch(target: str | None) -> None:
    datagram = packet_v2(target=target)
    outcome = judged(keeper(), datagram)
    assert (outcome.reason, outcome.representative, outcome.epoch) == ("accepted", datagram[:32], EPOCH)
    assert outcome.grant is not None
    assert outcome.remembered is not None
    assert (outcome.grant.client_name, outcome.grant.address) == ("alice", ELSEWHERE if target else HOME)
    assert (outcome.remembered.random_nonce, outcome.remembered.timestamp_ns) == (nonce("a"), START)


def test_an_accepted_knock_is_evidence_of_its_epoch_and_a_refused_one_is_not() -> None:
    judge = keeper()
    assert judge.epochs is not None
    seen: list[int] = []
    judge.epochs.accepted = seen.append  # type: ignore[method-assign,assignment]
    judged(judge, packet_v2(STRANGER))
    judged(judge, packet_v2(timestamp_ns=START - 61 * 10**9))
    judged(judge, packet(label="of version 1"))
    assert seen == []
    judged(judge, packet_v2())
    judged(judge, packet_v2())
    assert seen == [EPOCH]


# -- the order of checks


def test_each_check_comes_before_the_next() -> None:
    """Each knock fails at one check and at every one behind it."""
    clients = (
        "{alice: {ed25519_pubkey: KEY_A, protocols: [v1], expires: 2020-01-01T00:00:00Z},"
        " bob: {ed25519_pubkey: KEY_B, expires: 2020-01-01T00:00:00Z}}"
    )
    judge = keeper(config(clients))
    old = START - 3600 * 10**9
    unsigned = frame(forged(ALICE.public.key_id, STRANGER))
    named = unpack_frame_untrusted(unsigned)
    assert reason(judge, unsigned[:-1]) == "frame"
    assert reason(judge, b"\x03" + unsigned[1:]) == "version"
    assert reason(judge, replace(named, epoch=EPOCH + 1, aead_key=bytes(32)).pack()) == "epoch"
    assert reason(judge, replace(named, aead_key=bytes(32)).pack()) == "decrypt"
    assert reason(judge, frame(packet_v2(STRANGER, old))) == "unknown_key"
    assert reason(judge, unsigned) == "signature"
    assert reason(judge, frame(packet_v2(ALICE, old))) == "protocol"
    assert reason(judge, frame(packet_v2(BOB, old))) == "expired"
    assert reason(keeper(), frame(packet_v2(BOB, old))) == "time"
    assert dict(judge.journal.counts.total) == dict.fromkeys(
        ("frame", "version", "epoch", "decrypt", "unknown_key", "signature", "protocol", "expired"), 1
    )


def test_the_replay_memory_comes_last_before_the_policy() -> None:
    judge = keeper(config("{alice: {ed25519_pubkey: KEY_A, require_target_ip: true}}"))
    first = judged(judge, packet_v2())
    assert (first.reason, first.remembered is None) == ("target_required", False)
    again = judged(judge, packet_v2())
    assert (again.reason, again.remembered) == ("replay", None)
    assert reason(judge, frame(packet_v2()), later(61)) == "time"


@pytest.mark.parametrize(("seconds", "expected"), [(60, "accepted"), (-60, "accepted"), (61, "time"), (-61, "time")])
def test_the_window_holds_at_both_of_its_ends(seconds: int, expected: str) -> None:
    assert judged(keeper(), packet_v2(timestamp_ns=START + seconds * 10**9)).reason == expected


def test_a_client_whose_clock_is_wrong_is_named_and_strangers_are_only_counted() -> None:
    with lines("openme.journal") as records:
        judge = keeper()
        judged(judge, packet_v2(timestamp_ns=START - 3600 * 10**9))
        judged(judge, packet_v2(STRANGER))
    texts = [r.getMessage() for r in records if r.levelname != "DEBUG"]
    assert texts == ["alice: refused: time, its clock is 3600 s behind ours (from 203.0.113.5)"]


def test_a_copy_from_another_address_is_logged_with_both() -> None:
    judge = keeper()
    judged(judge, packet_v2())
    with lines("openme.journal") as records:
        assert judged(judge, packet_v2(), source=ELSEWHERE).reason == "replay"
    (record,) = records
    assert str(HOME) in record.getMessage()
    assert str(ELSEWHERE) in record.getMessage()


# -- versions


def test_each_client_has_its_versions() -> None:
    clients = "{alice: {ed25519_pubkey: KEY_A, protocols: [v2]}, bob: {ed25519_pubkey: KEY_B, protocols: [v1]}}"
    judge = keeper(config(clients))
    outcomes = [judged(judge, datagram).reason for datagram in (packet(ALICE), packet_v2(BOB))]
    assert outcomes == ["protocol", "protocol"]
    outcomes = [judged(judge, datagram).reason for datagram in (packet(BOB), packet_v2(ALICE))]
    assert outcomes == ["accepted", "accepted"]


def test_both_versions_share_one_replay_memory() -> None:
    judge = keeper()
    assert judged(judge, packet(label="same")).reason == "accepted"
    assert judged(judge, packet_v2(label="same")).reason == "replay"


@pytest.mark.parametrize("epoch", [0, EPOCH - 1, EPOCH + 1, 2**64 - 1])
def test_only_a_live_epochs_key_is_judged_with(epoch: int) -> None:
    named = unpack_frame_untrusted(frame(packet_v2()))
    assert reason(keeper(), replace(named, epoch=epoch).pack()) == "epoch"


def test_with_version_2_off_no_frame_of_it_is_judged() -> None:
    judge = keeper()
    judge.epochs = None
    assert judged(judge, packet_v2()).reason == "epoch"
    assert judged(judge, packet()).reason == "accepted"


def test_an_epoch_that_was_named_wrongly_breaks_the_signature() -> None:
    """A listener that was taken over cannot move a knock to another live epoch: E_i is signed."""
    judge = keeper()
    assert judge.epochs is not None
    judge.epochs.look(START + 4 * WEEK * 10**9, 0)
    other = next(iter(judge.epochs.live))
    named = unpack_frame_untrusted(frame(packet_v2()))
    assert reason(judge, replace(named, epoch=other).pack()) == "signature"


def test_a_frame_whose_key_was_used_is_wiped() -> None:
    judge = keeper()
    named = unpack_frame_untrusted(frame(packet_v2()))
    judge._open_untrusted(named)
    assert (named.aead_key, named.aead_nonce) == (bytes(32), bytes(12))


# -- who it is


def test_a_key_id_alone_proves_nothing() -> None:
    judge = keeper()
    assert reason(judge, frame(forged(ALICE.public.key_id, BOB))) == "signature"
    assert reason(judge, frame(forged(BOB.public.key_id, ALICE))) == "signature"
    assert reason(judge, frame(forged(bytes(4), ALICE))) == "unknown_key"
    assert reason(judge, frame(forged(ALICE.public.key_id, ALICE))) == "accepted"


def test_a_signature_for_another_server_is_none() -> None:
    other = ratchet().public_keys(EPOCH + 1, 1)[0]
    assert reason(keeper(), frame(forged(ALICE.public.key_id, ALICE, transcript_key=other))) == "signature"


def test_two_clients_with_one_key_id_are_both_tried() -> None:
    assert TWIN.public.key_id == OTHER_TWIN.public.key_id == bytes.fromhex("65fdb495")
    clients = f"{{one: {{ed25519_pubkey: '{TWIN.public}'}}, two: {{ed25519_pubkey: '{OTHER_TWIN.public}'}}}}"
    for names in (clients, clients.replace("one", "x").replace("two", "one").replace("x:", "two:")):
        judge = keeper(config(names))
        found = [judged(judge, packet_v2(key, label=n)).client for n, key in enumerate((TWIN, OTHER_TWIN))]
        assert [client and client.public_key for client in found] == [TWIN.public, OTHER_TWIN.public]
        assert reason(judge, frame(forged(TWIN.public.key_id, STRANGER))) == "signature"


def test_one_client_among_100_000_is_found_without_trying_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(number: int) -> ClientEntry:
        key = object.__new__(ClientPublicKey)  # the check of the point costs most of the time, and is not asked for
        object.__setattr__(key, "raw", number.to_bytes(32, "big"))
        return ClientEntry(str(number), key)

    judge = keeper(config(ONLY_ALICE))
    alice = judge.config.clients["alice"]
    judge._registry = Registry([*map(entry, range(100_000)), alice])
    tried: list[ClientPublicKey] = []
    real = v2.signed_by

    def counted(packet: bytes, signed: SignedKnock, epoch_public: bytes, client: ClientPublicKey) -> bool:
        tried.append(client)
        return real(packet, signed, epoch_public, client)

    monkeypatch.setattr(v2, "signed_by", counted)
    monkeypatch.setattr(v1, "signed_by", lambda *_: pytest.fail("version 1's search"))
    assert judged(judge, packet_v2()).client == alice
    assert alice.public_key in tried
    assert len(tried) <= 2
    tried.clear()
    assert judged(judge, packet_v2(STRANGER)).reason in {"unknown_key", "signature"}
    assert len(tried) <= 1


# -- its receipt


def receipt(judge: Judge, outcome: Judgement) -> dict[str, object]:
    text = judge.receipt_for(outcome.opened, NOW)
    assert text is not None
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def test_a_receipt_says_what_was_granted_and_carries_a_years_keys_from_the_knocks_epoch_on() -> None:
    judge = keeper()
    outcome = judged(judge, packet_v2(target=str(ELSEWHERE)))
    value = receipt(judge, outcome)
    keys = value.pop("epoch_keys")
    assert value == {
        "client": "alice",
        "ip": str(ELSEWHERE),
        "ports": ["22/tcp"],
        "expires_at": int(NOW.unix) + 30,
        "server_time": int(NOW.unix),
    }
    expected = b"".join(ratchet().public_keys(EPOCH, 53))
    assert keys == {"first": EPOCH, "keys": base64.b64encode(expected).decode()}
    assert judge.renewed_to(outcome.opened) == EPOCH + 52


def test_what_opened_nothing_and_version_1_and_whoever_has_no_health_port_get_no_receipt() -> None:
    judge = keeper(config("{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B, disable_health_port: true}}"))
    assert judged(judge, packet_v2(STRANGER)).claim is None
    for datagram in (packet(), packet_v2(BOB)):
        opened = judged(judge, datagram).opened
        assert judge.receipt_for(opened, NOW) is None
        assert judge.renewed_to(opened) is None


# -- hostile frames


@pytest.mark.parametrize("version", [0, 3, 255])
def test_a_frame_of_no_version_is_refused(version: int) -> None:
    assert reason(keeper(), bytes([version]) + bytes(FRAME_SIZE - 1)) == "version"


def test_no_part_of_a_frame_changes_what_the_client_signed() -> None:
    judge = keeper(config(ONLY_ALICE))
    good = frame(packet_v2(target=str(ELSEWHERE)))
    for at in [0, *range(17, FRAME_SIZE)]:
        assert reason(judge, bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]])) != "accepted" or 101 <= at < 109
    assert judge.judge_untrusted(good, NOW).reason in {"accepted", "replay"}
