"""Who is named in the config and disabled is named in the log, and opens nothing."""

from collections.abc import Callable

import pytest

from openme.config.model import MOST_DISABLED, DisabledClient
from openme.keeper.revoked_keys import WHY, Revocation, without_revoked
from openme.keeper.stages import Refused, Searched
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.wire import v1, v2
from support.knocks import ALICE, BOB, HOME, STRANGER, config, frame, judged, keeper, lines, packet, packet_v2

FAULT = "{alice: {ed25519_pubkey: KEY_A, allowed_ports: [nope]}, bob: {ed25519_pubkey: KEY_B}}"
BOTH = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"


@pytest.mark.parametrize("make", [packet, packet_v2])
def test_a_client_whose_entry_has_a_fault_is_named_when_it_knocks(make: object) -> None:
    judge = keeper(config(FAULT, faulty=True))
    with lines("openme.journal") as log:
        outcome = judged(judge, make(ALICE))  # type: ignore[operator]
    assert (outcome.reason, outcome.grant, outcome.remembered) == ("disabled", None, None)
    assert [record.getMessage() for record in log] == [
        f"alice: refused: disabled, its entry in the config has a fault (from {HOME})"
    ]
    assert judged(judge, make(BOB)).grant is not None  # type: ignore[operator]
    assert judged(judge, make(STRANGER)).reason == "unknown_key"  # type: ignore[operator]


@pytest.mark.parametrize("make", [packet, packet_v2])
def test_a_client_whose_key_is_revoked_is_named_when_it_knocks(make: object) -> None:
    whole = config(BOTH)
    judge = keeper(without_revoked(whole, {ALICE.public.raw: Revocation("alice", "2026-01-01T00:00:00Z")}))
    with lines("openme.journal") as log:
        assert judged(judge, make(ALICE)).reason == "disabled"  # type: ignore[operator]
    assert "alice: refused: disabled, its key is revoked" in log[0].getMessage()


@pytest.mark.parametrize("key", ["nonsense", "", "[KEY_A]"])
def test_a_client_whose_key_cannot_be_read_is_a_stranger(key: str) -> None:
    judge = keeper(config(f"{{alice: {{ed25519_pubkey: {key or 'null'}}}}}", faulty=True))
    assert judge.config.disabled == ()
    assert judged(judge, packet(ALICE)).reason == "unknown_key"


def test_of_very_many_the_search_costs_a_bounded_number() -> None:
    entries = ", ".join(
        f"c{number}: {{ed25519_pubkey: KEY_A, allowed_ports: [nope]}}" for number in range(MOST_DISABLED + 5)
    )
    assert len(config(f"{{{entries}}}", faulty=True).disabled) == MOST_DISABLED


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that a packet's signature was compared with, one after the other."""
    compared: list[bytes] = []

    def counted(wire: object, fits: Callable[..., bool]) -> None:
        def signed_by(*words: object) -> bool:
            key = words[-1]
            assert isinstance(key, ClientPublicKey)
            compared.append(key.raw)
            return fits(*words)

        monkeypatch.setattr(wire, "signed_by", signed_by)

    counted(v1, v1.signed_by)
    counted(v2, v2.signed_by)
    return compared


def of_disabled(keys: list[ClientPublicKey]) -> str:
    entries = (f"c{at}: {{ed25519_pubkey: '{key}', allowed_ports: [nope]}}" for at, key in enumerate(keys))
    return f"{{{', '.join(entries)}}}"


def test_disabled_clients_count_in_the_strangers_share(checks: list[bytes]) -> None:
    """Three looks are three signature checks, and the next turn goes on where this one ended."""
    keys = [ClientPrivateKey(bytes([at]) * 32).public for at in range(1, 21)]
    judge = keeper(config(of_disabled(keys), faulty=True))
    stranger = judge.authenticate_untrusted(frame(packet(STRANGER)))
    assert isinstance(stranger, Searched)
    for turn in range(1, 7):
        looks = iter([True, True, True, False])
        assert judge.search(stranger, lambda looks=looks: next(looks)) is None  # type: ignore[misc]
        assert len(checks) == 3 * turn
    found = judge.search(stranger, lambda: True)
    assert isinstance(found, Refused)
    assert (found.reason, sorted(checks)) == ("unknown_key", sorted(key.raw for key in keys))


@pytest.mark.parametrize("make", [packet, packet_v2])
def test_one_key_in_many_disabled_entries_costs_one_check(make: Callable[..., bytes], checks: list[bytes]) -> None:
    judge = keeper(config(of_disabled([ALICE.public] * 50), faulty=True))
    with lines("openme.journal") as log:
        assert judged(judge, make(ALICE)).reason == "disabled"
    assert checks == [ALICE.public.raw]
    assert log[0].getMessage().startswith("c0: ")


def test_who_is_revoked_and_gone_from_the_config_is_named_for_one_check(checks: list[bytes]) -> None:
    judge = keeper(config("{bob: {ed25519_pubkey: KEY_B}}"))
    revoked = {ALICE.public.key_id: [DisabledClient("alice", ALICE.public, WHY)]}
    judge.revoked_with = lambda key_id: revoked.get(key_id, [])
    with lines("openme.journal") as log:
        assert judged(judge, packet_v2(ALICE)).reason == "disabled"
    assert log[0].getMessage() == f"alice: refused: disabled, its key is revoked (from {HOME})"
    assert checks == [ALICE.public.raw]
    assert judged(judge, packet_v2(STRANGER)).reason == "unknown_key"
    assert checks == [ALICE.public.raw], "whose id nobody has is compared with nobody"


def test_who_is_revoked_and_in_the_config_costs_one_check(checks: list[bytes]) -> None:
    whole = config(BOTH)
    judge = keeper(without_revoked(whole, {ALICE.public.raw: Revocation("alice", "2026-01-01T00:00:00Z")}))
    judge.revoked_with = lambda _: [DisabledClient("al", ALICE.public, WHY)]
    with lines("openme.journal") as log:
        assert judged(judge, packet_v2(ALICE)).reason == "disabled"
    assert (checks, log[0].getMessage()[:7]) == ([ALICE.public.raw], "alice: ")
