"""The state file: what other programs read, whole at every moment and for its owner only."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from openme.keeper.events import LetIn, Moved, NewConfig
from openme.keeper.grants import Grant
from openme.moments import rfc3339
from openme.ports import parse_port_spec
from openme.reasons import End
from openme.server import state_text
from openme.server.history import History
from openme.server.state_file import StateFile
from openme.server.state_text import StateLines, json_text, sessions_value
from openme.steps import Steps
from openme.wire.knock import IPAddress
from support.keeper_parts import Ground
from support.knocks import ELSEWHERE, HOME, NOW, config, lines
from support.steps import done


def grant(name: str, *specs: str) -> Grant:
    ports = tuple(r for spec in specs for r in parse_port_spec(spec))
    return Grant(name.encode(), name, HOME, ports, (), NOW.unix, NOW.unix + 30, NOW.monotonic + 30)


def test_the_content_is_what_the_contract_says() -> None:
    grants = [grant("bob"), grant("alice", "22/tcp", "8080-8090/udp")]
    value = done(sessions_value(grants, {"carol": NOW.unix}, NOW.unix))
    assert json.loads(done(json_text(deepcopy(value)))) == value
    assert value == {
        "updated_at": "2026-11-23T12:00:00Z",
        "active_sessions": [
            {
                "client_name": "alice",
                "ip": str(HOME),
                "ports": [
                    {"port": 22, "proto": "tcp", "end_port": 22},
                    {"port": 8080, "proto": "udp", "end_port": 8090},
                ],
                "opened_at": "2026-11-23T12:00:00Z",
                "expires_at": "2026-11-23T12:00:30Z",
            },
            {
                "client_name": "bob",
                "ip": str(HOME),
                "ports": [],
                "opened_at": "2026-11-23T12:00:00Z",
                "expires_at": "2026-11-23T12:00:30Z",
            },
        ],
        "last_seen": {"carol": "2026-11-23T12:00:00Z"},
    }


def test_a_long_content_is_made_in_steps() -> None:
    grants = [grant(f"client-{number}", "22/tcp") for number in range(1000)]
    steps = sessions_value(grants, {f"client-{number}": NOW.unix for number in range(1000)}, NOW.unix)
    assert len(list(steps)) > 15
    value = done(sessions_value(grants, {"carol": NOW.unix}, NOW.unix))
    assert len(list(json_text(deepcopy(value)))) > 8
    assert json.loads(done(json_text(deepcopy(value)))) == value


@pytest.mark.parametrize("value", [{}, {"a": [], "b": {}, "c": None}, {"d": [1, [2], {"e": '\u202e"'}]}])
def test_any_value_becomes_json(value: dict[str, object]) -> None:
    assert json.loads(done(json_text(deepcopy(value)))) == value


def test_times_are_utc_to_the_second() -> None:
    assert rfc3339(0.999) == "1970-01-01T00:00:00Z"


def test_a_door_for_a_network_is_listed_with_the_address_and_the_network() -> None:
    network = ip_network("203.0.113.0/24")
    wide = replace(grant("alice"), address=network.network_address, network=network, knocked_for=HOME)
    (session,) = done(sessions_value([wide], {}, NOW.unix))["active_sessions"]
    assert (session["ip"], session["network"]) == (str(HOME), "203.0.113.0/24")


def text(lines: StateLines, rest: dict[str, Any]) -> str:
    return b"".join(lines.pieces(NOW.unix, done(json_text(deepcopy(rest))))).decode()


def test_a_door_for_a_network_and_one_for_an_address_in_it_are_lines_of_their_own() -> None:
    network = ip_network("203.0.113.0/24")
    alone = grant("alice")
    wide = replace(alone, address=network.network_address, network=network, knocked_for=HOME)
    lines = StateLines()
    done(lines.change(alone.client_key, [alone, wide]))
    assert len(json.loads(text(lines, {"warnings": []}))["active_sessions"]) == 2
    for stays in (alone, wide):
        done(lines.change(alone.client_key, [stays]))
        (session,) = json.loads(text(lines, {"warnings": []}))["active_sessions"]
        assert ("network" in session) == (stays is wide)


def test_lines_that_follow_changes_are_the_text_of_the_whole() -> None:
    lines, chance = StateLines(), Random(7)
    held: dict[bytes, dict[IPAddress, Grant]] = {}
    names: dict[bytes, str] = {}
    seen: dict[str, float] = {}
    rest = {"hidden_though_unnamed": ["22/tcp"], "warnings": []}
    for number in range(400):
        key, address = chance.choice("abcdef").encode(), HOME + chance.randrange(3)
        own = held.setdefault(key, {})
        if chance.random() < 0.2:  # as when the config calls him otherwise
            names[key] = chance.choice(("x", 'q"', "x2", "\u00e9")) + key.decode()
            own.update({at: replace(one, client_name=names[key]) for at, one in own.items()})
        if chance.random() < 0.3:
            own.pop(address, None)
        else:
            name = names.setdefault(key, key.decode())
            own[address] = replace(grant(name, "22/tcp"), client_key=key, address=address, opened_at=number)
        done(lines.change(key, list(own.values())))
        if chance.random() < 0.05:
            seen.clear()
            lines.forget_seen()
        name = chance.choice(("alice", "bob", 'q"', "alice2"))
        seen[name] = NOW.unix + number
        lines.saw(name, NOW.unix + number)
        if number % 20 == 0:
            every = [one for own in held.values() for one in own.values()]
            whole = done(sessions_value(every, seen, NOW.unix)) | rest
            told = json.loads(text(lines, rest))
            assert list(told) == list(whole)
            assert list(told["last_seen"]) == sorted(told["last_seen"])
            assert told == whole


def test_the_text_of_lines_is_the_same_to_the_byte() -> None:
    rest: dict[str, list[str]] = {"hidden_though_unnamed": [], "warnings": ["a warning"]}
    network = ip_network("203.0.113.0/24")
    alice = grant("alice", "22/tcp", "8080-8090/udp")
    wide = replace(grant("alice", "22/tcp"), address=network.network_address, network=network, knocked_for=HOME + 1)
    for grants in ([], [grant("bob"), alice, wide, grant('"\u202e')]):
        lines = StateLines()
        for one in grants:
            done(lines.change(one.client_key, [other for other in grants if other.client_key == one.client_key]))
            lines.saw(one.client_name, NOW.unix)
        whole = done(sessions_value(grants, {one.client_name: NOW.unix for one in grants}, NOW.unix))
        assert text(lines, rest) == done(json_text(whole | deepcopy(rest)))


def test_the_text_comes_in_pieces_of_a_bounded_size() -> None:
    lines = StateLines()
    for number in range(3000):
        done(lines.change(b"%d" % number, [grant(f"client-{number}", "22/tcp")]))
        lines.saw(f"client-{number}", NOW.unix)
    pieces = list(lines.pieces(NOW.unix, done(json_text({"warnings": []}))))
    assert len(pieces) > 6
    assert max(map(len, pieces)) < 70_000
    assert len(json.loads(b"".join(pieces))["active_sessions"]) == 3000


def test_a_change_costs_no_other_clients_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = StateLines()
    for name in ("alice", "bob"):
        of_client = [replace(grant(name, "22/tcp"), address=HOME + number) for number in range(200)]
        done(lines.change(name.encode(), of_client))
    made: list[Grant] = []
    real = state_text._session_lines

    def session_lines(grants: Iterable[tuple[str, int, Grant]]) -> Iterator[str]:
        every = list(grants)
        made.extend(one for _, _, one in every)
        return real(every)

    monkeypatch.setattr(state_text, "_session_lines", session_lines)
    done(lines.change(b"alice", [grant("alice", "23/tcp")]))
    text(lines, {"warnings": []})
    assert [one.client_name for one in made] == ["alice"]


def test_many_lines_of_one_client_are_made_in_steps() -> None:
    lines = StateLines()
    of_client = [replace(grant("alice", "22/tcp"), address=HOME + number) for number in range(1000)]
    assert len(list(lines.change(b"alice", of_client))) > 8


# -- the file as a subscriber


def state_file_on(ground: Ground, path: Path | None, history: History) -> StateFile:
    return StateFile(
        path, ground.grants, history, ground.keeper.client, lambda: {"warnings": []}, ground.slices, ground.clock
    )


class Stand:
    def __init__(self, path: Path | None) -> None:
        self.ground = Ground()
        self.history = History({})
        self.path = path
        self.history.follow(self.ground.events)
        ground = self.ground
        self.file = StateFile(
            path,
            ground.grants,
            self.history,
            ground.keeper.client,
            lambda: {"warnings": []},
            ground.slices,
            ground.clock,
        )
        self.file.follow(ground.events)

    def let_in(self, name: str, address: IPAddress = HOME) -> Grant:
        grant = self.ground.let_in(name, address)
        self.ground.events.publish(LetIn(grant, address, self.ground.clock.now))
        return grant

    def tick(self, seconds: float = 1.0) -> dict[str, Any] | None:
        self.ground.clock.advance(seconds)
        self.file.tick(self.ground.clock.now.monotonic)
        self.ground.work_off()
        if self.path is None or not self.path.exists():
            return None
        value: dict[str, Any] = json.loads(self.path.read_text())
        return value


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "sessions.json")


def who(value: dict[str, Any] | None) -> list[str]:
    assert value is not None
    return [session["client_name"] for session in value["active_sessions"]]


def test_nothing_happened_is_nothing_written(stand: Stand) -> None:
    assert stand.tick(3600) is None


def test_it_follows_who_comes_goes_and_is_called_otherwise(stand: Stand) -> None:
    alice = stand.let_in("alice")
    value = stand.tick()
    assert who(value) == ["alice"]
    assert value is not None
    assert set(value["last_seen"]) == {"alice"}
    stand.let_in("bob", ELSEWHERE)
    assert who(stand.tick()) == ["alice", "bob"]
    plan = stand.ground.keeper.plan(config("{alicia: {ed25519_pubkey: KEY_A}, bob: {ed25519_pubkey: KEY_B}}"), NOW)
    stand.ground.keeper.follow(plan)
    stand.ground.events.publish(Moved(plan.moved))
    stand.ground.events.publish(NewConfig(plan.config, NOW))
    value = stand.tick()
    assert who(value) == ["alicia", "bob"]
    assert value is not None
    assert set(value["last_seen"]) == {"alicia", "bob"}
    stand.ground.doors.end([(alice, End.CLOSED)], stand.ground.clock.now)
    assert who(stand.tick()) == ["bob"]


def test_whoever_is_called_otherwise_and_has_no_door_is_called_so_there_too(stand: Stand) -> None:
    alice = stand.let_in("alice")
    stand.ground.doors.end([(alice, End.CLOSED)], stand.ground.clock.now)
    stand.tick()
    plan = stand.ground.keeper.plan(config("{alicia: {ed25519_pubkey: KEY_A}}"), stand.ground.clock.now)
    stand.ground.keeper.follow(plan)
    stand.ground.events.publish(NewConfig(plan.config, stand.ground.clock.now))
    value = stand.tick()
    assert value is not None
    assert set(value["last_seen"]) == {"alicia"}


def test_a_door_that_is_for_a_network_from_now_on_is_one_line(stand: Stand) -> None:
    stand.let_in("alice")
    stand.tick()
    plan = stand.ground.keeper.plan(config(server="prefix_v4: 24"), stand.ground.clock.now)
    stand.ground.keeper.follow(plan)
    stand.ground.events.publish(Moved(plan.moved))
    value = stand.tick()
    assert value is not None
    assert [(session["ip"], session["network"]) for session in value["active_sessions"]] == [
        (str(HOME), "203.0.113.0/24")
    ]


def test_what_is_written_is_not_written_again_until_something_changes(stand: Stand) -> None:
    stand.let_in("alice")
    first = stand.tick()
    assert all(stand.tick() == first for _ in range(5))


def test_who_has_changed_once_is_looked_at_once(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []
    change = StateLines.change

    def noted(self: StateLines, client_key: bytes, grants: Sequence[Grant]) -> Steps[None]:
        looked_at.append(client_key)
        return change(self, client_key, grants)

    monkeypatch.setattr(StateLines, "change", noted)
    of_alice, of_bob = (stand.let_in(name, at).client_key for name, at in (("alice", HOME), ("bob", ELSEWHERE)))
    stand.tick()
    stand.let_in("bob", ELSEWHERE)
    stand.tick()
    assert looked_at in ([of_alice, of_bob, of_bob], [of_bob, of_alice, of_bob])


def test_what_happens_while_it_is_written_is_in_the_next_one(stand: Stand) -> None:
    for number in range(60):
        stand.let_in("alice", HOME + number)
    stand.ground.clock.advance(1)
    stand.file.tick(stand.ground.clock.now.monotonic)
    assert stand.ground.slices, "it takes more than a step"
    stand.let_in("bob", ELSEWHERE)
    stand.ground.work_off()
    assert "bob" in who(stand.tick())


def test_it_is_written_once_a_second_however_much_happens(stand: Stand) -> None:
    written: dict[str, None] = {}
    for number in range(100):
        stand.let_in("alice", HOME + number)
        value = stand.tick(0.1)
        if value is not None:
            written[json.dumps(value)] = None
    assert 9 <= len(written) <= 11


def test_what_was_open_when_it_began_is_in_it(tmp_path: Path) -> None:
    ground = Ground()
    ground.let_in()
    path = tmp_path / "sessions.json"
    file = state_file_on(ground, path, History({}))
    done(file.write())
    assert who(json.loads(path.read_text())) == ["alice"]


@pytest.fixture
def longer(stand: Stand) -> Steps[None]:
    """The steps in which a file with Alice in it is replaced by a much longer one."""
    stand.let_in("alice")
    stand.tick()
    for number in range(1000):
        stand.let_in("bob", ELSEWHERE + number)
    return stand.file.write()


def listing(stand: Stand) -> list[str]:
    assert stand.path is not None
    return sorted(path.name for path in stand.path.parent.iterdir())


def test_wherever_it_is_killed_the_file_is_the_old_or_the_new_one(stand: Stand, longer: Steps[None]) -> None:
    assert stand.path is not None
    old = stand.path.read_text()
    beside = 0
    for _ in longer:
        # A kill leaves all as it is now.
        assert stand.path.read_text() == old
        beside += listing(stand) == [f".sessions.json.{os.getpid()}", "sessions.json"]
    assert beside > 2, "the new one was there in pieces"
    assert who(json.loads(stand.path.read_text())) == ["alice"] + ["bob"] * 1000
    assert listing(stand) == ["sessions.json"]


@pytest.mark.parametrize("steps", [1, 12, 13, 14])
def test_a_file_that_is_given_up_is_the_old_one_and_nothing_is_left_beside(
    stand: Stand, longer: Steps[None], steps: int
) -> None:
    assert stand.path is not None
    old = stand.path.read_text()
    for _ in range(steps):
        next(longer)
    longer.close()
    assert (listing(stand), stand.path.read_text()) == (["sessions.json"], old)


def test_a_disk_that_is_full_before_the_end_leaves_the_old_file_and_is_tried_again(
    stand: Stand, longer: Steps[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stand.path is not None
    old, real, pieces = stand.path.read_text(), os.write, count()

    def write(descriptor: int, data: bytes) -> int:
        if next(pieces) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with lines("openme.keeper") as records:
        done(longer)
    assert [record.getMessage() for record in records] == [f"{stand.path}: cannot be written: No space left on device"]
    assert (listing(stand), stand.path.read_text()) == (["sessions.json"], old)
    assert len(who(stand.tick())) == 1001


def test_what_killed_servers_have_left_unfinished_is_gone_when_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    for name in (".sessions.json.4711", ".sessions.json.4712", ".sessions.json.backup", "sessions.json.1"):
        (tmp_path / name).write_text("{")
    done(state_file_on(Ground(), path, History({})).begin())
    assert sorted(left.name for left in tmp_path.iterdir()) == [
        ".sessions.json.backup",
        "sessions.json",
        "sessions.json.1",
    ]


def test_a_disk_that_refuses_loses_no_change(stand: Stand) -> None:
    folder = stand.path.parent if stand.path else Path()
    stand.let_in("alice")
    stand.file._path = folder / "not" / "there"
    with lines("openme.keeper") as records:
        for _ in range(3):
            stand.let_in("bob", ELSEWHERE)
            assert stand.tick() is None
    (record,) = records
    assert record.getMessage() == f"{stand.file._path}: cannot be written: No such file or directory"
    stand.file._path = stand.path
    assert who(stand.tick()) == ["alice", "bob"]
    stand.file._path = folder / "not" / "there"
    stand.let_in("bob", ELSEWHERE)
    with lines("openme.keeper") as records:
        stand.tick()
    assert len(records) == 1, "after a time without a fault it is news again"


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    stand = Stand(None)
    stand.let_in("alice")
    assert stand.tick() is None
    assert stand.file._changed == set()
    assert list(tmp_path.iterdir()) == []
