"""What every store does alike (openme.store.base), in SQLite and in memory."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openme.ports import parse_port_spec
from openme.reasons import Reason
from openme.store.base import (
    FIRST,
    AlreadyUsed,
    CannotStore,
    Claim,
    ClaimRefusal,
    Holder,
    Outcome,
    Seen,
    Store,
    Unavailable,
)
from openme.store.memory import MemoryStore
from openme.store.replay import MAX_NONCES
from openme.store.sqlite import SqliteStore, make_memory
from openme.wire.knock import IPAddress, Knock
from support.knocks import ELSEWHERE, HOME, NS, START, nonce

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY, OTHER = b"K" * 32, b"O" * 32
W = 60 * NS
PORTS = parse_port_spec("22/tcp")


@dataclass
class Subject:
    store: Store
    another: Callable[[], Store]
    """What a later run of the server would hold, not loaded yet; the first one is closed."""
    survivor: Callable[[], Store]
    """The same after a power cut in this very moment: nothing was closed."""

    def reopened(self, now: int = START, window: int = W) -> Store:
        self.store.close()
        later = self.another()
        later.load(window, now)
        return later

    def after_a_power_cut(self) -> Store:
        later = self.survivor()
        later.load(W, START)
        return later


def _memory(_: ExitStack, __: Path) -> Subject:
    store = MemoryStore()
    return Subject(store, lambda: store, lambda: store)


def _sqlite(stack: ExitStack, folder: Path) -> Subject:
    home, copy, run = (folder / name for name in ("state", "copy", "run"))
    for path in (home, run):
        path.mkdir()
    make_memory(home)

    def made(where: Path) -> Store:
        store = SqliteStore(where, run)
        stack.callback(store.close)
        return store

    def survivor() -> Store:
        shutil.copytree(home, copy)
        for path in run.iterdir():  # which a power cut takes away
            path.unlink()
        return made(copy)

    return Subject(made(home), lambda: made(home), survivor)


@pytest.fixture(params=[pytest.param(_memory, id="memory"), pytest.param(_sqlite, id="sqlite")])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with ExitStack() as stack:
        yield request.param(stack, tmp_path)


@pytest.fixture
def store(subject: Subject) -> Store:
    subject.store.load(W, START)
    return subject.store


def now_and_later(subject: Subject) -> Iterator[Store]:
    yield subject.store
    yield subject.reopened()


def holder(at: int = START, key: bytes = KEY, address: IPAddress = HOME) -> Holder:
    return Holder(key, address, "alice", PORTS, at / NS, at / NS + 30)


def asking(  # a claim's own fields
    label: object,
    at: int = START,
    key: bytes = KEY,
    source: IPAddress = HOME,
    *,
    name: str = "alice",
    held: bool = True,
) -> Claim:
    knock = Knock(at, nonce(label), None)
    return Claim(key, knock, source, name, at / NS, holder(at, key, source) if held else None)


def outcomes(store: Store, *claims: Claim) -> list[Outcome]:
    answers: list[Sequence[Outcome]] = []
    store.claim(claims, answers.append)
    (answer,) = answers
    assert len(answer) == len(claims)
    return list(answer)


def said(store: Store, *claims: Claim) -> list[str]:
    return [found.reason if isinstance(found, ClaimRefusal) else "first" for found in outcomes(store, *claims)]


# -- once, ever


def test_a_knock_is_the_first_once(store: Store) -> None:
    assert outcomes(store, asking("a")) == [FIRST]
    assert outcomes(store, asking("a", source=ELSEWHERE)) == [AlreadyUsed(Reason.REPLAY, HOME)]
    assert outcomes(store, asking("b")) == [FIRST]


def test_who_signed_it_counts_and_not_the_nonce_alone(store: Store) -> None:
    assert said(store, asking("a"), asking("a", key=OTHER), asking("a", key=OTHER)) == ["first", "first", "replay"]


def test_a_copy_in_the_same_batch_is_a_copy_and_the_answers_stand_in_the_order_of_the_claims(store: Store) -> None:
    batch = [asking("a"), asking("b"), asking("a", source=ELSEWHERE), asking("c"), asking("b")]
    assert said(store, *batch) == ["first", "first", "replay", "first", "replay"]
    assert said(store, *batch) == ["replay"] * 5


def test_nothing_asked_is_nothing_answered(store: Store) -> None:
    assert outcomes(store) == []


def test_what_policy_refuses_is_used_up_and_holds_nothing(store: Store) -> None:
    assert said(store, asking("a", held=False), asking("a")) == ["first", "replay"]
    assert list(store.holders()) == []
    assert store.seen() == {}, "it is the last knock that let somebody in"


def test_it_is_so_after_a_restart(subject: Subject, store: Store) -> None:
    assert said(store, asking("a"), asking("b", key=OTHER)) == ["first", "first"]
    later = subject.reopened()
    assert later.loss is None
    assert outcomes(later, asking("a", source=ELSEWHERE)) == [AlreadyUsed(Reason.REPLAY, HOME)]
    assert said(later, asking("b", key=OTHER), asking("c")) == ["replay", "first"]


def test_it_is_so_after_a_power_cut(subject: Subject, store: Store) -> None:
    """The answer had been given: whatever happens from then on, it holds."""
    assert said(store, asking("a"), *(asking(number, key=OTHER) for number in range(20))) == ["first"] * 21
    later = subject.after_a_power_cut()
    assert later.loss is None
    assert said(later, asking("a"), *(asking(number, key=OTHER) for number in range(20))) == ["replay"] * 21


def test_before_it_is_loaded_and_once_it_is_closed_a_store_answers_nobody(subject: Subject) -> None:
    assert outcomes(subject.store, asking("a"), asking("b")) == [Unavailable(Reason.UNAVAILABLE)] * 2
    subject.store.load(W, START)
    assert said(subject.store, asking("a")) == ["first"]
    subject.store.close()
    assert outcomes(subject.store, asking("b")) == [Unavailable(Reason.UNAVAILABLE)]
    later = subject.reopened()
    assert said(later, asking("a"), asking("b")) == ["replay", "first"]


# -- signed time alone lets go


def test_what_lies_two_windows_back_is_stale_whether_or_not_it_was_there(subject: Subject, store: Store) -> None:
    assert said(store, asking("a"), asking("edge", START + 1)) == ["first", "first"]
    assert said(store, asking("later", START + 2 * W + 1)) == ["first"]
    expected = [
        ("a", START, "stale"),
        ("new", START, "stale"),
        ("edge", START + 1, "replay"),
        ("x", START + 1, "first"),
    ]
    for label, at, word in expected:
        assert said(store, asking(label, at)) == [word]
    later = subject.reopened()
    assert [said(later, asking(label, at)) for label, at, _ in expected] == [
        ["stale"],
        ["stale"],
        ["replay"],
        ["replay"],
    ]


def test_a_batch_that_spans_more_than_two_windows_lets_go_within_itself(subject: Subject, store: Store) -> None:
    batch = [asking("a"), asking("b", START + 3 * W), asking("a", START + 3 * W + 1), asking("c", START)]
    assert said(store, *batch) == ["first", "first", "first", "stale"]
    later = subject.reopened()
    assert later.loss is None
    assert said(later, *batch) == ["replay", "replay", "replay", "stale"]


def test_a_clock_that_goes_back_brings_nothing_back(subject: Subject, store: Store) -> None:
    assert said(store, asking("a", START + 10 * W)) == ["first"]
    for now in (START - 10**6 * NS, START + 10**6 * NS):
        subject.store = subject.reopened(now)
        assert subject.store.loss is None
        assert said(subject.store, asking("a", START + 10 * W), asking("b", START)) == ["replay", "stale"]


def test_a_longer_window_brings_nothing_back(subject: Subject, store: Store) -> None:
    for number in range(5):
        assert said(store, asking(number, START + number * W)) == ["first"]
    store.set_window(100 * W)
    assert said(store, asking(1, START + W), asking(2, START + 2 * W)) == ["stale", "replay"]
    later = subject.reopened(window=100 * W)
    assert said(later, asking(1, START + W), asking(2, START + 2 * W)) == ["stale", "replay"]


def test_a_client_that_knocks_too_often_is_refused_and_the_knock_is_not_used_up(store: Store) -> None:
    assert said(store, *(asking(number, START + number) for number in range(MAX_NONCES))) == ["first"] * MAX_NONCES
    more = asking("more", START + MAX_NONCES)
    assert outcomes(store, more) == [CannotStore(Reason.TOO_MANY)]
    assert said(store, asking(0), asking("somebody else's", key=OTHER)) == ["replay", "first"]
    # Time goes on, and what lies behind makes room: what was refused was not stored, and a stale one never is.
    assert said(store, asking("later", START + 2 * W + MAX_NONCES)) == ["first"]
    assert said(store, more) == ["first"]
    assert said(store, more) == ["replay"]


# -- a refusal leaves nothing


def test_a_refused_claim_leaves_nothing(subject: Subject, store: Store) -> None:
    assert said(store, *(asking(number, START + number) for number in range(MAX_NONCES))) == ["first"] * MAX_NONCES
    before = store.seen(), list(store.holders()), list(store.holder_keys())
    refused = [
        asking(0, START, source=ELSEWHERE, name="copy"),
        asking("old", START - 3 * W, source=ELSEWHERE, name="old"),
        asking("more", START + MAX_NONCES, source=ELSEWHERE, name="more"),
    ]
    assert said(store, *refused) == ["replay", "stale", "too_many"]
    assert (store.seen(), list(store.holders()), list(store.holder_keys())) == before
    later = subject.reopened()
    assert (later.seen(), list(later.holders()), list(later.holder_keys())) == before
    assert later.loss is None


# -- an operator's word


def test_a_client_whose_time_was_ahead_begins_anew_and_nothing_opens_twice(subject: Subject, store: Store) -> None:
    year = 365 * 86400 * NS
    assert said(store, asking("ahead", START + year), asking("now", START)) == ["first", "stale"]
    assert store.reset(OTHER, START) is None
    done = store.reset(KEY, START)
    assert done is not None
    assert done.shut == ((START + year, START + year),)
    for number, each in enumerate(now_and_later(subject)):
        assert said(each, asking("ahead", START + year), asking(number, START)) == ["stale", "first"]
        assert each.reset(KEY, START) is None


def test_everybodys_time_begins_anew_where_it_was_ahead(store: Store) -> None:
    assert said(store, asking("a", START + 100 * W), asking("b", key=OTHER)) == ["first", "first"]
    assert [done.client_key for done in store.reset_all(START)] == [KEY]
    assert store.floor_ns is None


# -- who was in, and which keys clients have


def test_who_was_in_and_who_was_seen_are_there_in_a_later_run(subject: Subject, store: Store) -> None:
    claims = [
        asking("a"),
        asking("b", key=OTHER, source=ELSEWHERE, name="bob"),
        asking("c", START + 1, source=ELSEWHERE),
    ]
    assert said(store, *claims) == ["first"] * 3
    for each in now_and_later(subject):
        assert each.seen() == {
            KEY: Seen("alice", (START + 1) / NS, ELSEWHERE),
            OTHER: Seen("bob", START / NS, ELSEWHERE),
        }
        assert sorted(each.holder_keys()) == [KEY, OTHER]
        assert {(h.client_key, h.address) for h in each.holders()} == {
            (KEY, HOME),
            (KEY, ELSEWHERE),
            (OTHER, ELSEWHERE),
        }
        assert each.holders_of(OTHER) == [holder(START, OTHER, ELSEWHERE)]
        assert each.holders_of(b"N" * 32) == []


def test_an_address_that_is_given_again_is_one_holder(store: Store) -> None:
    assert said(store, asking("a"), asking("b", START + NS)) == ["first", "first"]
    assert store.holders_of(KEY) == [holder(START + NS)]


def test_of_a_network_the_last_address_that_was_knocked_for_is_remembered(subject: Subject, store: Store) -> None:
    network = ip_network("203.0.113.0/24")

    def around(label: str, named: str) -> Claim:
        given = replace(holder(), address=network[0], network=network, knocked_for=ip_address(named))
        return replace(asking(label), holder=given)

    claims = [around("a", "203.0.113.5"), around("b", "203.0.113.6"), asking("c", source=network[0])]
    assert said(store, *claims) == ["first"] * 3
    assert said(store, latest := around("d", "203.0.113.7")) == ["first"]
    for each in now_and_later(subject):
        assert sorted(map(repr, each.holders_of(KEY))) == sorted(map(repr, [claims[2].holder, latest.holder]))


def test_all_who_were_seen_come_in_parts_in_the_order_of_their_keys(store: Store) -> None:
    keys = [bytes([number]) * 32 for number in (5, 1, 4, 2, 3)]
    said(store, *(asking("a", key=key) for key in keys))
    parts = list(store.seen_in_parts(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [key for part in parts for key in part] == sorted(keys)


def test_which_keys_clients_have_is_known_at_once_and_in_a_later_run(subject: Subject, store: Store) -> None:
    store.renew(KEY, 3000)
    assert store.renewals() == {KEY: 3000}
    store.flush()
    store.renew(KEY, 3001)
    subject.store = subject.reopened()
    assert subject.store.renewals() == {KEY: 3001}
    subject.store.forget_renewals()
    assert subject.store.renewals() == {}
    assert subject.reopened().renewals() == {}


def test_the_ratchet_is_known_as_it_is_and_as_it_is_about_to_be(subject: Subject, store: Store) -> None:
    assert store.ratchet_seen() == (None, None)
    store.note_ratchet(7, KEY)
    store.intend_ratchet(8, OTHER)
    subject.store = subject.reopened()
    assert subject.store.ratchet_seen() == ((7, KEY), (8, OTHER))
    subject.store.note_ratchet(8, OTHER)
    assert subject.reopened().ratchet_seen() == ((8, OTHER), None)
