"""The state file: what other programs read, whole at every moment and for its owner only."""

import json
import os
import stat
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from openme.keeper.events import LetIn, Moved, NewConfig
from openme.keeper.grants import Grant
from openme.moments import rfc3339
from openme.ports import parse_port_spec
from openme.reasons import End
from openme.server import state_file
from openme.server.history import History
from openme.server.state_file import StateFile, write_state_file
from openme.server.state_text import StateLines, json_text, sessions_value
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


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_the_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "sessions.json"
    before = os.umask(mask)
    try:
        write_state_file(path, str(ELSEWHERE))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) & ~0o600 == 0
    assert path.read_text() == str(ELSEWHERE)


def test_a_loose_file_is_replaced_by_a_strict_one(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text("old")
    path.chmod(0o666)
    write_state_file(path, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_somebody_put_in_our_way_is_not_written_into(tmp_path: Path) -> None:
    path, victim = tmp_path / "sessions.json", tmp_path / "victim"
    trap = path.with_name(f".{path.name}.{os.getpid()}")
    for hard in (False, True):
        if hard:
            victim.write_text("")
            trap.hardlink_to(victim)
        else:
            trap.symlink_to(victim)
        write_state_file(path, "secret")
        assert not victim.exists() or victim.read_text() == ""
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reader_sees_the_old_or_the_new_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    write_state_file(path, "old")
    with path.open() as reader:
        write_state_file(path, "new")
        assert reader.read() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["sessions.json"]


def test_a_value_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "sessions.json"
    with pytest.raises(OSError, match="No such file"):
        write_state_file(path, "")
    assert list(tmp_path.iterdir()) == []


def test_times_are_utc_to_the_second() -> None:
    assert rfc3339(0.999) == "1970-01-01T00:00:00Z"


def test_a_door_for_a_network_is_listed_with_the_address_and_the_network() -> None:
    network = ip_network("203.0.113.0/24")
    wide = replace(grant("alice"), address=network.network_address, network=network, knocked_for=HOME)
    (session,) = done(sessions_value([wide], {}, NOW.unix))["active_sessions"]
    assert (session["ip"], session["network"]) == (str(HOME), "203.0.113.0/24")


def test_a_door_for_a_network_and_one_for_an_address_in_it_are_lines_of_their_own() -> None:
    network = ip_network("203.0.113.0/24")
    alone = grant("alice")
    wide = replace(alone, address=network.network_address, network=network, knocked_for=HOME)
    for goes, stays in ((alone, wide), (wide, alone)):
        lines = StateLines()
        for one in (alone, wide):
            lines.change((one.client_key, one.address), one)
        lines.change((goes.client_key, goes.address), None)
        (session,) = json.loads(done(lines.text(NOW.unix, {"warnings": []})))["active_sessions"]
        assert ("network" in session) == (stays is wide)


def test_lines_that_follow_changes_are_the_text_of_the_whole() -> None:
    lines, chance = StateLines(), Random(7)
    held: dict[tuple[bytes, IPAddress], Grant] = {}
    seen: dict[str, float] = {}
    rest = {"hidden_though_unnamed": ["22/tcp"], "warnings": []}
    for number in range(400):
        key = chance.choice("abcdef").encode(), HOME + chance.randrange(3)
        made = replace(grant(chance.choice("xyz"), "22/tcp"), client_key=key[0], address=key[1], opened_at=number)
        if chance.random() < 0.3:
            held.pop(key, None)
            lines.change(key, None)
        else:
            held[key] = made
            lines.change(key, made)
        if chance.random() < 0.05:
            seen.clear()
            lines.forget_seen()
        name = chance.choice(("alice", "bob", 'q"', "alice2"))
        seen[name] = NOW.unix + number
        lines.saw(name, NOW.unix + number)
        if number % 20 == 0:
            whole = done(sessions_value(held.values(), seen, NOW.unix)) | rest
            told = json.loads(done(lines.text(NOW.unix, deepcopy(rest))))
            order = [(session["client_name"], session["ip"]) for session in told["active_sessions"]]
            assert order == sorted(order)
            assert sorted(map(repr, told.pop("active_sessions"))) == sorted(map(repr, whole.pop("active_sessions")))
            assert list(told["last_seen"]) == sorted(told["last_seen"])
            assert told == whole


def test_the_text_of_lines_is_the_same_to_the_byte() -> None:
    rest: dict[str, list[str]] = {"hidden_though_unnamed": [], "warnings": ["a warning"]}
    for grants in ([], [grant("bob"), grant("alice", "22/tcp", "8080-8090/udp")]):
        lines = StateLines()
        for one in grants:
            lines.change((one.client_key, one.address), one)
            lines.saw(one.client_name, NOW.unix)
        whole = done(sessions_value(grants, {one.client_name: NOW.unix for one in grants}, NOW.unix))
        assert done(lines.text(NOW.unix, deepcopy(rest))) == done(json_text(whole | deepcopy(rest)))


def test_a_change_costs_no_other_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = StateLines()
    for number in range(200):
        lines.change((b"k", HOME + number), replace(grant("alice", "22/tcp"), address=HOME + number))
    made: list[object] = []
    real = json.dumps

    def dumps(value: object) -> str:
        made.append(value)
        return real(value)

    monkeypatch.setattr(json, "dumps", dumps)
    lines.change((b"k", HOME), grant("alice", "23/tcp"))
    done(lines.text(NOW.unix, {"warnings": []}))
    assert sum(isinstance(value, dict) for value in made) == 1


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


def test_what_is_written_is_not_written_again_until_something_changes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(state_file, "write_state_file", lambda _path, text: written.append(text))
    stand.let_in("alice")
    for _ in range(5):
        stand.tick()
    assert len(written) == 1


def test_what_happens_while_it_is_written_is_in_the_next_one(stand: Stand) -> None:
    for number in range(60):
        stand.let_in("alice", HOME + number)
    stand.ground.clock.advance(1)
    stand.file.tick(stand.ground.clock.now.monotonic)
    assert stand.ground.slices, "it takes more than a step"
    stand.let_in("bob", ELSEWHERE)
    stand.ground.work_off()
    assert "bob" in who(stand.tick())


def test_it_is_written_once_a_second_however_much_happens(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(state_file, "write_state_file", lambda _path, text: written.append(text))
    for number in range(100):
        stand.let_in("alice", HOME + number)
        stand.tick(0.1)
    assert 9 <= len(written) <= 11


def test_what_was_open_when_it_began_is_in_it(tmp_path: Path) -> None:
    ground = Ground()
    ground.let_in()
    path = tmp_path / "sessions.json"
    file = state_file_on(ground, path, History({}))
    done(file.write())
    assert who(json.loads(path.read_text())) == ["alice"]


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


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    stand = Stand(None)
    stand.let_in("alice")
    assert stand.tick() is None
    assert stand.file._changed == set()
    assert list(tmp_path.iterdir()) == []
