"""The control socket's end in the server's loop: who may ask is heard, and answered when his work is done."""

import json
import socket
from collections.abc import Callable
from contextlib import suppress

from openme.control import serving
from openme.control.requests import Reply, Request, refusal_value, reply_value, request_untrusted
from openme.control.slow_askers import Replies
from openme.errors import OpenmeError
from openme.firewall.base import Steps
from openme.server.loop import Loop
from openme.server.slices import Slices
from openme.server.state_text import json_text

Answer = Reply | Steps[Reply]


class ControlService:
    """Takes requests, has them answered, and sends what comes of it."""

    def __init__(
        self,
        control: socket.socket,
        answer: Callable[[Request[Reply]], Answer],
        loop: Loop,
        slices: Slices,
    ) -> None:
        """`answer` does what is asked, now or in steps; OpenmeError if it cannot be done."""
        self._control = control
        self._answer = answer
        self._loop = loop
        self._slices = slices
        self._replies = Replies(loop.selector)

    def on_readable(self) -> None:
        """Somebody has come."""
        with suppress(OSError):
            peer, _ = self._control.accept()
            if not serving.is_allowed(peer):
                peer.close()
                return
            self._loop.watch(peer, lambda: self.on_request(peer))

    def on_request(self, peer: socket.socket) -> None:
        """He has asked: answer, now or when it is done. The socket is closed with the answer."""
        self._loop.forget(peer)
        try:
            peer.setblocking(False)  # noqa: FBT003  # the standard library's signature
            raw = peer.recv(serving.MAX_REQUEST)
        except OSError:
            raw = b""
        if not raw:
            peer.close()
            return
        try:
            answer = self._answer(request_untrusted(raw))
        except OpenmeError as error:
            self._replies.send(peer, json.dumps(refusal_value(error)).encode())
            return
        if isinstance(answer, Reply):
            self._replies.send(peer, json.dumps(reply_value(answer)).encode())
        else:
            self._slices.add(self._answer_later(peer, answer))

    def _answer_later(self, peer: socket.socket, steps: Steps[Reply]) -> Steps[None]:
        """Send what comes of it in the end, also when that is our own."""
        text = json.dumps(refusal_value(OpenmeError("the server was stopped before this was done")))
        try:
            try:
                value = reply_value((yield from steps))
            except OpenmeError as error:
                value = refusal_value(error)
            text = yield from json_text(value)
        finally:
            self._replies.send(peer, text.encode())

    def close(self) -> None:
        """Drop what nobody has read."""
        self._replies.close()
