"""Requests and replies: the table, their forms in JSON, and what another version is told."""

import base64
import json
from dataclasses import is_dataclass
from typing import Any

import pytest

from openme.control import requests
from openme.control.forms import to_json
from openme.control.handlers import Handlers
from openme.control.requests import (
    REQUESTS,
    Client,
    ClientReply,
    Close,
    CloseReply,
    FileReply,
    FileRequest,
    NewRatchet,
    NewRatchetReply,
    OtherVersionError,
    RatchetReply,
    Reload,
    ReloadReply,
    Reply,
    Request,
    RequestError,
    Reset,
    ResetReply,
    Revoke,
    RevokeReply,
    Row,
    SaveRatchet,
    Sessions,
    SessionsReply,
    Stored,
    StoredReply,
    Unhide,
    UnhideReply,
    refusal_value,
    reply_from,
    reply_value,
    request_bytes,
    request_untrusted,
)
from openme.errors import OpenmeError
from openme.ports import parse_port_spec

KEY = base64.b64encode(bytes(32)).decode()
KEYS = frozenset({bytes(32), bytes(range(32))})
HASH = "0f" * 32
FILE: dict[str, Any] = {"file": "/etc/openme/config.yaml", "same": False, "fault": "line 7", "reading": True}
PORTS = (*parse_port_spec("22/tcp"), *parse_port_spec("8000-8010/udp"))
EXAMPLES: list[tuple[Request[Any], Reply]] = [
    (Sessions(), SessionsReply(updated_at="now", active_sessions=[{"ip": "192.0.2.7"}], warnings=["one"])),
    (Reload(lifted=KEYS, sha256=HASH), ReloadReply(**FILE, lifted=True, ports={"udp": 7, "tcp": None})),
    (Client(name="é", keys=KEYS, sha256=HASH), ClientReply(**FILE, keys=KEYS, revoked=True)),
    (Revoke(name="alice", keys=KEYS, cut=True), RevokeReply(**FILE, keys=KEYS, not_closed="no table", cut=7)),
    (Close(name="alice", cut=True), CloseReply(**FILE, closed=("192.0.2.7",), known=False, near="alicia", cut=0)),
    (Reset(everybody=True), ResetReply(**FILE, clients=7, since="now", lost_until="then", shut=[("a", "b")])),
    (Unhide(ports=PORTS), UnhideReply(**FILE, shown=("22/tcp",))),
    (Stored(), StoredReply(seen=[("AA==", "alice", 7.5, "192.0.2.7")], renewals=[("AA==", 7)], failing="full")),
    (SaveRatchet(), RatchetReply(made=True)),
    (NewRatchet(epoch_length=604800.0), NewRatchetReply()),
]


def name(row: Row) -> str:
    return row.command


def example(row: Row) -> tuple[Request[Any], Reply]:
    return next(pair for pair in EXAMPLES if type(pair[0]) is row.request)


def test_every_request_and_reply_has_a_row() -> None:
    kinds = {kind for kind in vars(requests).values() if isinstance(kind, type) and is_dataclass(kind)}
    leaves = kinds - {FileReply, FileRequest, Row}
    assert {row.request for row in REQUESTS} == {kind for kind in leaves if issubclass(kind, Request)}
    assert {row.reply for row in REQUESTS} == {kind for kind in leaves if issubclass(kind, Reply)}
    assert len({row.command for row in REQUESTS}) == len(REQUESTS)
    for row in REQUESTS:
        assert issubclass(row.request, FileRequest) == issubclass(row.reply, FileReply)


@pytest.mark.parametrize("row", REQUESTS, ids=name)
def test_a_request_and_its_reply_come_back(row: Row) -> None:
    request, reply = example(row)
    assert request_untrusted(request_bytes(request)) == request
    assert reply_from(json.dumps(reply_value(reply)).encode(), request) == reply


@pytest.mark.parametrize("row", REQUESTS, ids=name)
def test_what_says_no_version_is_the_first(row: Row) -> None:
    request, reply = example(row)
    raw = json.dumps({"command": row.command, "of_old": 7, **to_json(request)}).encode()
    assert request_untrusted(raw) == request
    assert reply_from(json.dumps(to_json(reply)).encode(), request) == reply


def test_a_request_looks_like_this() -> None:
    said = json.loads(request_bytes(Revoke(name="alice", keys=frozenset({bytes(32)}), cut=True)))
    fields = {"name": "alice", "keys": [KEY], "cut": True, "sha256": None}
    assert said == {"command": "revoke", "version": 1, **fields}
    assert json.loads(request_bytes(Reset(everybody=True)))["all"] is True


@pytest.mark.parametrize("row", REQUESTS, ids=name)
def test_a_newer_and_an_older_command_are_told_so_in_one_line(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps({"command": row.command, "version": row.version + 1, "what": "is new"}).encode()
    with pytest.raises(OtherVersionError, match="the running server is of an older version than this command"):
        request_untrusted(raw)
    rows = {row.command: Row(row.command, row.version + 1, row.request, row.reply)}
    monkeypatch.setattr(requests, "_BY_COMMAND", rows)
    for old in (request_bytes(example(row)[0]), json.dumps({"command": row.command}).encode()):
        with pytest.raises(OtherVersionError, match="this command is of an older version than the running server"):
            request_untrusted(old)


@pytest.mark.parametrize(("version", "whose"), [(2, "this command is of an older"), (0, "server is of an older")])
def test_a_reply_of_another_version_is_named_as_such(version: int, whose: str) -> None:
    with pytest.raises(OtherVersionError, match=whose):
        reply_from(json.dumps({"version": version, "made": True}).encode(), SaveRatchet())


def test_a_server_that_does_not_say_which_file_it_reads_is_of_another_version() -> None:
    with pytest.raises(OtherVersionError, match="does not say which file it reads"):
        reply_from(b'{"closed": [], "known": true}', Close(name="alice"))


def test_a_refusal_is_one_line_on_the_other_side() -> None:
    for error, line in (
        (OpenmeError("no", "hint"), "^no$"),
        (OtherVersionError("no", "restart it"), "^no: restart it$"),
    ):
        with pytest.raises(type(error), match=line):
            reply_from(json.dumps(refusal_value(error)).encode(), Sessions())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"revoke"',
        b"\xff",
        b"[" * 60_000,
        b"{}",
        b'{"command": 7}',
        b'{"command": ["revoke"]}',
        b'{"command": "revoke", "name": 7}',
        b'{"command": "revoke", "name": null}',
        b'{"command": "revoke", "name": "%s"}' % (b"a" * 5000),
        b'{"command": "revoke", "cut": "yes"}',
        b'{"command": "revoke", "keys": "%s"}' % KEY.encode(),
        b'{"command": "revoke", "keys": [7]}',
        b'{"command": "revoke", "keys": ["AAAA"]}',
        b'{"command": "revoke", "keys": ["%s!"]}' % KEY.encode(),
        b'{"command": "revoke", "keys": {"%s": 1}}' % KEY.encode(),
        json.dumps({"command": "revoke", "keys": [KEY] * 65}).encode(),
        b'{"command": "reload", "lifted": ["AAAA"]}',
        b'{"command": "reload", "sha256": "ABC"}',
        b'{"command": "reload", "sha256": 7}',
        b'{"command": "new_ratchet", "epoch_length": "7d"}',
        b'{"command": "new_ratchet", "epoch_length": true}',
        b'{"command": "revoke", "name": "\\ud800"}',
        b'{"command": "close", "version": "1"}',
        b'{"command": "close", "version": true}',
        b'{"command": "close", "version": 1, "name": "alice", "harder": true}',
        b'{"command": "unhide", "ports": ["22/icmp"]}',
    ],
)
def test_a_request_of_the_wrong_form_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="did not understand"):
        request_untrusted(raw)


def test_an_unknown_command_is_of_another_version() -> None:
    with pytest.raises(OtherVersionError, match="another version"):
        request_untrusted(b'{"command": "dance"}')


def test_a_request_without_a_handler_is_found_when_they_are_put_together() -> None:
    handlers = {row.request: print for row in REQUESTS}
    Handlers(handlers)
    del handlers[Close]
    with pytest.raises(LookupError, match=r"^handlers of requests: Close$"):
        Handlers(handlers)
