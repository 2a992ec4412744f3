"""Which revoked client a key id belongs to, while the list changes."""

import hashlib
from pathlib import Path

import pytest

from openme.keeper.revoked_keys import lift_key, revoke_keys
from openme.keys.ed25519 import ClientPrivateKey, key_id_of
from openme.server import revoked_watch
from openme.server.revoked_watch import RevokedWatch
from support.knocks import ALICE, BOB

KEYS = [ClientPrivateKey(hashlib.sha256(bytes([at])).digest()).public for at in range(8)]


def named(watch: RevokedWatch, key: bytes) -> list[str]:
    return [client.name for client in watch.with_key_id(key_id_of(key))]


def test_a_revoked_key_is_found_by_its_id_as_long_as_it_is_revoked(tmp_path: Path) -> None:
    alice, bob = ALICE.public.raw, BOB.public.raw
    revoke_keys(tmp_path, [alice], "alice", 0)
    watch = RevokedWatch(tmp_path)
    assert (named(watch, alice), named(watch, bob)) == (["alice"], [])
    assert watch.with_key_id(ALICE.public.key_id)[0].public_key == ALICE.public
    watch.revoke([bob], "bob")
    assert named(watch, bob) == ["bob"]
    watch.lift([bob])
    assert named(watch, bob) == []
    revoke_keys(tmp_path, [bob], "bob", 0)
    lift_key(tmp_path, alice)
    watch.refresh()
    assert (named(watch, alice), named(watch, bob)) == ([], ["bob"])


def test_keys_with_one_id_are_a_few_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoked_watch, "key_id_of", lambda _: b"same")
    watch = RevokedWatch(tmp_path)
    for at, key in enumerate(KEYS):
        watch.revoke([key.raw], f"c{at}")
    assert [client.name for client in watch.with_key_id(b"same")] == ["c0", "c1", "c2", "c3"]
    watch.lift([KEYS[1].raw])
    assert [client.name for client in watch.with_key_id(b"same")] == ["c0", "c2", "c3", "c4"]
    for key in KEYS:
        watch.lift([key.raw])
    assert watch.with_key_id(b"same") == []


def test_what_is_no_usable_key_is_nobodys(tmp_path: Path) -> None:
    revoke_keys(tmp_path, [bytes(32)], "nobody", 0)
    assert named(RevokedWatch(tmp_path), bytes(32)) == []
