"""The control socket's end in the loop, alone: who asks is answered, also late, also with a refusal."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from openme.control import place, serving
from openme.control.requests import ClientReply, Reply, Request
from openme.errors import OpenmeError
from openme.server.control_service import Answer, ControlService
from openme.server.loop import Loop
from openme.server.slices import Slices
from openme.steps import Steps

ASKED = b'{"command": "client", "name": "alice", "keys": []}'


class Stand:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.loop, self.slices = Loop(), Slices()
        self.asked: list[Request[Reply]] = []
        self.answer: Answer | OpenmeError = ClientReply(keys=frozenset(), revoked=True)
        control = stack.enter_context(serving.listen(folder))
        self.service = ControlService(control, self.say, self.loop, self.slices)
        self.loop.watch(control, self.service.on_readable)
        stack.callback(self.loop.selector.close)

    def say(self, request: Request[Reply]) -> Answer:
        self.asked.append(request)
        if isinstance(self.answer, OpenmeError):
            raise self.answer
        return self.answer

    def ask(self, raw: bytes) -> socket.socket:
        peer = self.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        peer.settimeout(10)
        peer.connect(str(self.folder / place.SOCKET_NAME))
        peer.sendall(raw)
        for _ in range(2):  # he is there, and he has asked
            self.loop.wait(0)
        return peer


def told(peer: socket.socket) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(b"".join(iter(lambda: peer.recv(1 << 16), b"")))
    return value


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with ExitStack() as stack:
        yield Stand(tmp_path, stack)


def test_an_answer_comes_at_once(stand: Stand) -> None:
    assert told(stand.ask(ASKED))["revoked"] is True
    assert len(stand.asked) == 1


def test_an_answer_in_steps_comes_when_they_are_done(stand: Stand) -> None:
    def later() -> Steps[Reply]:
        for _ in range(3):
            yield
        return ClientReply(keys=frozenset(), revoked=False)

    stand.answer = later()
    peer = stand.ask(ASKED)
    peer.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    peer.settimeout(10)
    while stand.slices:
        stand.slices.advance()
    assert told(peer)["revoked"] is False


def test_a_refusal_is_a_line_for_the_operator(stand: Stand) -> None:
    stand.answer = OpenmeError("there is no such client")
    assert told(stand.ask(ASKED)) == {"error": "there is no such client"}


@pytest.mark.parametrize("raw", [b"nonsense", b"{}", b'{"command": "no such"}', b'{"command": "client", "name": 7}'])
def test_nonsense_is_refused_and_nobody_is_asked(stand: Stand, raw: bytes) -> None:
    assert "error" in told(stand.ask(raw))
    assert stand.asked == []


def test_one_who_says_nothing_and_goes_costs_nothing(stand: Stand) -> None:
    peer = stand.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    peer.connect(str(stand.folder / place.SOCKET_NAME))
    stand.loop.wait(0)
    peer.close()
    stand.loop.wait(0)
    assert stand.asked == []
    assert len(stand.loop.selector.get_map()) == 1


def test_a_stop_meanwhile_is_told(stand: Stand) -> None:
    def endless() -> Steps[Reply]:
        while True:
            yield

    stand.answer = endless()
    peer = stand.ask(ASKED)
    stand.slices.close()
    stand.service.close()
    assert told(peer) == {"error": "the server was stopped before this was done"}
