"""The index of a config's clients, as objects and as a table, and both without some of them at no cost."""

import pytest

from openme.config.client_index import ClientIndex, Fewer
from openme.config.client_table import ClientTable, table_of, with_table
from openme.config.model import ClientEntry, ServerConfig
from openme.keys.ed25519 import ClientPublicKey
from support.knocks import ALICE, BOB, config

AS_OBJECTS = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}, bob: {ed25519_pubkey: KEY_B}}")
A, B = ALICE.public, BOB.public


@pytest.fixture(params=["objects", "a table"])
def parsed(request: pytest.FixtureRequest) -> ServerConfig:
    return AS_OBJECTS if request.param == "objects" else with_table(AS_OBJECTS)


def test_clients_are_found_by_key_and_key_id(parsed: ServerConfig) -> None:
    assert parsed.index.by_key(A.raw) == parsed.clients["alice"]
    assert list(parsed.index.by_key_id(B.key_id)) == [parsed.clients["bob"]]
    assert list(parsed.index.keys()) == [A.raw, B.raw]
    assert not parsed.index.by_key_id(b"????")
    assert parsed.index.by_key(b"nobody" * 6) is None


def test_who_is_out_is_found_by_nothing_and_what_he_named_is_named_still(parsed: ServerConfig) -> None:
    less = parsed.index.without([A.raw, b"nobody" * 6])
    assert less.by_key(A.raw) is None
    assert not less.by_key_id(A.key_id)
    assert list(less.keys()) == [B.raw]
    assert less.openable == parsed.index.openable
    assert parsed.index.by_key(A.raw) is not None, "the one that it was made of is as it was"
    assert less.without([B.raw]).by_key(A.raw) is None
    assert less.missing([A.raw, B.raw]) == [A.raw]
    assert less.is_part_of(parsed.index)
    assert less.taken_out_of(parsed.index) == frozenset([A.raw])
    assert less.without([B.raw]).taken_out_of(less) == frozenset([B.raw])
    assert parsed.index.taken_out_of(less) is None
    assert not parsed.index.is_part_of(less), "who was out is in again"
    assert not ClientIndex(parsed.clients.values()).is_part_of(parsed.index)


def test_of_two_with_one_key_the_first_counts_and_both_go() -> None:
    (alice,) = config("{alice: {ed25519_pubkey: KEY_A}}").clients.values()
    index = ClientIndex([alice, *AS_OBJECTS.clients.values()])
    assert index.by_key(A.raw) is alice
    assert index.without([A.raw]).by_key(A.raw) is None


@pytest.mark.parametrize("as_table", [False, True])
def test_two_clients_with_one_key_id_are_two(*, as_table: bool) -> None:
    """An id has 4 bytes: among 100,000 clients two share one."""
    first, second = (ClientPublicKey.checked_before(number.to_bytes(4, "big") * 8) for number in (4732, 65949))
    assert first.key_id == second.key_id
    entries = [ClientEntry(name, key) for name, key in (("one", first), ("two", second), ("other", A))]
    index = ClientIndex(known=ClientTable(memoryview(table_of(entries)))) if as_table else ClientIndex(entries)
    assert [client.name for client in index.by_key_id(first.key_id)] == ["one", "two"]
    for entry in entries:
        assert index.by_key(entry.public_key.raw) == entry
    left = index.without([first.raw])
    assert [client.name for client in left.by_key_id(first.key_id)] == ["two"]
    assert left.by_key(first.raw) is None
    assert index.missing([first.raw, second.raw]) == []


def test_fewer_clients_are_those_that_are_left(parsed: ServerConfig) -> None:
    less = Fewer(parsed.clients, ["alice"])
    assert less == {"bob": parsed.clients["bob"]}
    assert len(less) == 1
    assert "alice" not in less
    with pytest.raises(KeyError):
        less["alice"]
    assert less.index.by_key(A.raw) is None
    assert less.index.by_key(B.raw) == parsed.clients["bob"]
    none = Fewer(less, ["bob"])
    assert not none
    assert not list(none)
    assert less.keys() == {"bob"}, "the one that it was made of is as it was"


def test_of_a_config_that_the_firewall_refused_whoever_went_goes(parsed: ServerConfig) -> None:
    left = parsed.less_those_gone_in(config("{robert: {ed25519_pubkey: KEY_B}}"))
    assert left.clients.keys() == {"bob"}, "by key, and under the name that is in force"
    assert left.index.by_key(A.raw) is None
    assert left.named_ports == parsed.named_ports, "nothing is shown by that"
    assert parsed.less_those_gone_in(config("{alice: {ed25519_pubkey: KEY_A}}")).clients.keys() == {"alice"}
    assert parsed.less_those_gone_in(parsed) is parsed
