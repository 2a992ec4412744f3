"""The stages of a knock: their types against the table, and what each may change, with a store that takes its time."""

import inspect
import itertools
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.keeper.events import Events, LetIn
from openme.keeper.grants import Grant
from openme.keeper.journal import Journal
from openme.keeper.stages import NEXT, Authenticated, Claimed, Decided, Opened, Refused, Searched, State
from openme.reasons import Reason
from openme.server.admission import Admission
from openme.store.base import Answer, CannotStore, Claim, Outcome, Unavailable
from openme.store.memory import MemoryStore
from support.knocks import (
    ALICE,
    BOB,
    ELSEWHERE,
    HOME,
    NOW,
    STRANGER,
    Watched,
    config,
    frame,
    keeper,
    later,
    packet,
    packet_v2,
)

if typing.TYPE_CHECKING:
    from openme.keeper.keeper import Keeper
    from openme.server.verdicts import Verdicts

STATES: dict[type, State] = {
    bytes: State.FRAMED,
    Searched: State.SEARCHED,
    Authenticated: State.AUTHENTICATED,
    Decided: State.DECIDED,
    Claimed: State.CLAIMED,
    Opened: State.OPENED,
    Refused: State.REFUSED,
    type(None): State.TOLD,
}
STAGES: dict[Callable[..., object], str] = {
    Admission.authenticate_untrusted: "frame",
    Admission.search: "knock",
    Admission.decide: "knock",
    Admission.claim: "decided",
    Admission.open: "claimed",
    Admission.tell: "knock",
}
ONLY_BOB = "{bob: {ed25519_pubkey: KEY_B}}"


def states(annotation: object) -> set[State]:
    """The states that a type, a union, or a collection of them stands for."""
    if isinstance(annotation, types.UnionType) or typing.get_args(annotation):
        return set().union(*map(states, typing.get_args(annotation)))
    assert isinstance(annotation, type)
    return {STATES[annotation]}


def test_the_table_is_what_the_stages_take_and_give() -> None:
    """A refused knock passes through, and a search that is to be continued leaves it where it is."""
    ways: dict[State, set[State]] = {state: set() for state in State}
    for stage, parameter in STAGES.items():
        hints = typing.get_type_hints(stage)
        given = states(hints["return"]) - ({State.TOLD} if stage is Admission.search else set())
        for before in states(hints[parameter]):
            passes_through = before is State.REFUSED and stage is not Admission.tell
            ways[before] |= set() if passes_through else given
    assert ways == {state: set(following) for state, following in NEXT.items()}


def test_every_stage_is_in_the_file_in_the_order_of_the_way() -> None:
    lines = [inspect.getsourcelines(stage)[1] for stage in STAGES]
    assert lines == sorted(lines)


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    reached = {State.FRAMED}
    for _ in State:
        reached |= set().union(*(NEXT[state] for state in reached))
    assert reached == set(State)
    assert [state for state in State if not NEXT[state]] == [State.TOLD]


class Slow(MemoryStore):
    """Answers when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Sequence[Claim], Answer]] = []

    def claim(self, claims: Sequence[Claim], answer: Answer) -> None:
        self.asked.append((claims, answer))

    def answer(self, *instead: Outcome) -> None:
        claims, answer = self.asked.pop(0)
        if instead:
            answer(instead)
        else:
            super().claim(claims, answer)


@dataclass
class Noted:
    """Doors and verdicts that note what they are asked; the firewall refuses on demand."""

    events: list[tuple[str, str]] = field(default_factory=list)
    refusing: bool = False

    def open_doors(self, grants: list[Grant], now: Now) -> set[int]:
        if self.refusing:
            return set()
        self.events += [("door", f"{g.client_name} {g.address} {g.deadline - now.monotonic:g} s") for g in grants]
        return {id(grant) for grant in grants}

    def opened(self, opened: Opened, now: Now) -> None:  # noqa: ARG002  # as Verdicts has it
        self.events.append(("told", opened.grant.client_name))

    def refused(self, refused: Refused) -> None:
        self.events.append(("told", refused.reason))

    def came_in(self, event: LetIn) -> None:
        self.events.append(("came in", event.grant.client_name))


class Stand:
    """Admission before a store that takes its time."""

    def __init__(self, parsed: ServerConfig | None = None) -> None:
        self.store = Slow()
        self.keeper: Keeper = keeper(parsed, self.store)
        self.noted = Noted()
        self.journal = Journal()
        self.now = NOW
        verdicts = typing.cast("Verdicts", self.noted)
        events = Events(lambda steps: pytest.fail(f"what has {steps} to do?"))
        events.subscribe(LetIn, self.noted.came_in)
        self.journal.follow(events)
        self.admission = Watched(self.keeper, self.store, self.noted.open_doors, verdicts, events, lambda: self.now)

    def admit(self, *datagrams: bytes, source: typing.Any = HOME) -> None:
        self.admission.admit_untrusted([bytes(bytearray(frame(datagram, source))) for datagram in datagrams], self.now)
        while self.admission:
            self.admission.serve_waiting()

    @property
    def told(self) -> list[str]:
        return [what for event, what in self.noted.events if event == "told"]


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_before_the_claim_is_answered_nothing_changes(stand: Stand) -> None:
    before = repr(stand.keeper.epochs and stand.keeper.epochs._evidence)
    stand.admit(packet_v2(), packet(label="b"), packet_v2(STRANGER))
    assert len(stand.store.asked) == 2, "who is searched for comes in a batch of its own"
    assert stand.noted.events == []
    assert not list(stand.keeper.grants)
    assert not stand.keeper.new_sources
    assert not stand.keeper._last_from
    assert not stand.journal.counts.total
    assert repr(stand.keeper.epochs and stand.keeper.epochs._evidence) == before
    stand.store.answer()
    assert stand.told == ["alice", "unknown_key"]
    assert list(stand.keeper.new_sources) == [HOME]
    assert repr(stand.keeper.epochs and stand.keeper.epochs._evidence) != before


def test_a_batch_is_one_claim_and_one_opening_and_is_told_in_its_order(stand: Stand) -> None:
    stand.admit(packet_v2(STRANGER), packet_v2(BOB), packet_v2(), packet_v2(label="b", target="127.0.0.1"), packet_v2())
    assert [[claim.client_name for claim in claims] for claims, _ in stand.store.asked] == [
        ["bob", "alice", "alice", "alice"]
    ]
    stand.store.answer()
    assert [what for what, _ in stand.noted.events][:2] == ["door", "door"]
    assert stand.told == ["unknown_key", "bob", "alice", "loopback", "replay"]


def test_a_store_that_is_not_there_lets_nobody_in(stand: Stand) -> None:
    stand.admit(packet_v2(), packet_v2(BOB))
    stand.store.answer(Unavailable(Reason.UNAVAILABLE), CannotStore(Reason.TOO_MANY))
    assert stand.told == ["unavailable", "too_many"]
    assert [event for event, _ in stand.noted.events] == ["told", "told"]
    assert not stand.keeper.new_sources
    assert dict(stand.journal.counts.total) == {"unavailable": 1, "too_many": 1}


def test_what_the_firewall_refuses_is_told_and_not_counted(stand: Stand) -> None:
    stand.noted.refusing = True
    stand.admit(packet_v2())
    stand.store.answer()
    assert stand.noted.events == [("told", "firewall")]
    assert not stand.journal.counts.total


def test_a_door_that_opens_late_is_open_for_its_whole_time(stand: Stand) -> None:
    stand.admit(packet_v2())
    stand.now = later(7)
    stand.store.answer()
    assert stand.noted.events == [("door", f"alice {HOME} 30 s"), ("told", "alice"), ("came in", "alice")]


def test_a_late_answer_is_met_by_the_config_of_its_time(stand: Stand) -> None:
    stand.admit(packet_v2(), packet_v2(BOB))
    stand.keeper.reconfigure(config(ONLY_BOB, "knock_timeout: 44s"), later(1))
    stand.now = later(1)
    stand.store.answer()
    assert stand.noted.events[0] == ("door", f"bob {HOME} 44 s")
    assert stand.told == ["unknown_key", "bob"]


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("protocols: [v1]", "protocol"),
        ("expires: 2026-11-23T12:00:01Z", "expired"),
        ("allowed_from: [198.51.100.0/24]", "allowed_from"),
    ],
)
def test_a_right_that_is_lost_meanwhile_is_lost(stand: Stand, entry: str, word: str) -> None:
    stand.admit(packet_v2())
    stand.keeper.reconfigure(config(f"{{alice: {{ed25519_pubkey: KEY_A, {entry}}}}}"), later(1))
    stand.now = later(1)
    stand.store.answer()
    assert stand.told == [word]


def test_a_knock_is_not_too_old_because_the_store_was_slow(stand: Stand) -> None:
    stand.admit(packet_v2())
    stand.now = later(3600)
    stand.store.answer()
    assert stand.told == ["alice"]


def test_answers_may_come_in_another_order_than_the_claims(stand: Stand) -> None:
    stand.admit(packet_v2())
    stand.admit(packet_v2(BOB), source=ELSEWHERE)
    stand.store.asked.reverse()
    stand.store.answer()
    stand.store.answer()
    assert stand.told == ["bob", "alice"]


@pytest.mark.parametrize("make", [packet, packet_v2])
def test_what_happens_to_knocks_of_every_kind_is_in_the_table(make: typing.Any) -> None:
    expired = "{alice: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B, expires: 2026-11-23T12:00:00Z}}"
    stand = Stand(config(expired))
    for datagram in (make(ALICE), make(ALICE), make(BOB), make(STRANGER), make(ALICE, target="127.0.0.1", label="b")):
        stand.admission.seen.clear()
        stand.admit(datagram)
        while stand.store.asked:
            stand.store.answer()
        way = [State.FRAMED, *(STATES[type(one)] for one in stand.admission.seen)]
        # `open` passes on who was refused before.
        way = [state for number, state in enumerate(way) if number == 0 or state is not way[number - 1]]
        assert all(after in NEXT[before] for before, after in itertools.pairwise(way)), way
        assert way[-1] in {State.OPENED, State.REFUSED}
    assert stand.told == ["alice", "replay", "expired", "unknown_key", "loopback"]
