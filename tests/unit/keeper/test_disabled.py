"""Who is named in the config and disabled is named in the log, and opens nothing."""

import pytest

from openme.config.model import MOST_DISABLED
from openme.keeper.revoked_keys import Revocation, without_revoked
from support.knocks import ALICE, BOB, HOME, STRANGER, config, judged, keeper, lines, packet, packet_v2

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
