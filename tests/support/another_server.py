"""Somebody else where a server's control socket would be."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from openme.control import serving
from support.command import Place

if TYPE_CHECKING:
    import socket


@contextmanager
def another_server(here: Place, answer: Callable[[dict[str, Any]], bytes | None]) -> Iterator[list[str]]:
    """Somebody else on the control socket; the commands that were asked. None: it hangs."""
    asked: list[str] = []
    held: list[socket.socket] = []
    with serving.listen(here.state) as listening:
        listening.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    peer, _ = listening.accept()
                except TimeoutError:
                    continue
                peer.setblocking(True)  # noqa: FBT003  # the standard library's signature
                request = json.loads(peer.recv(serving.MAX_REQUEST))
                asked.append(request["command"])
                if (reply := answer(request)) is None:
                    held.append(peer)
                    continue
                peer.sendall(reply)
                peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            over.set()
            thread.join()
            for peer in held:
                peer.close()
