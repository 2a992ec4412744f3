"""The index of a config's clients: made in parts, and without some of them at no cost."""

from openme.config.client_index import ClientIndex
from support.knocks import ALICE, BOB, config

PARSED = config("{alice: {ed25519_pubkey: KEY_A, allowed_ports: [443/tcp]}, bob: {ed25519_pubkey: KEY_B}}")
A, B = ALICE.public, BOB.public


def test_parts_make_the_same_as_the_whole() -> None:
    index = ClientIndex()
    for client in PARSED.clients.values():
        index.add([client])
    assert dict(index.items()) == dict(PARSED.index.items()) == {c.public_key.raw: c for c in PARSED.clients.values()}
    assert index.openable == PARSED.index.openable
    assert [c.name for c in index.by_key_id(A.key_id)] == ["alice"]


def test_who_is_out_is_found_by_nothing_and_what_he_named_is_named_still() -> None:
    less = PARSED.index.without([A.raw, b"nobody" * 6])
    assert less.by_key(A.raw) is None
    assert not less.by_key_id(A.key_id)
    assert [key for key, _ in less.items()] == [B.raw]
    assert less.openable == PARSED.index.openable
    assert PARSED.index.by_key(A.raw) is not None, "the one that it was made of is as it was"
    assert less.without([B.raw]).by_key(A.raw) is None
    assert less.missing([A.raw, B.raw]) == [A.raw]
    assert less.is_part_of(PARSED.index)
    assert not PARSED.index.is_part_of(less), "who was out is in again"
    assert not ClientIndex(PARSED.clients.values()).is_part_of(PARSED.index)


def test_of_two_with_one_key_the_first_counts_and_both_go() -> None:
    parsed = config("{alice: {ed25519_pubkey: KEY_A}}")
    (alice,) = parsed.clients.values()
    index = ClientIndex([alice, *PARSED.clients.values()])
    assert index.by_key(A.raw) is alice
    assert index.without([A.raw]).by_key(A.raw) is None
