"""What `asking.ask` makes of a server that is not there, and of one that does not answer: these are not the same."""

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openme.control import asking, place, serving
from openme.control.requests import Sessions, SessionsReply
from openme.errors import OpenmeError

REQUEST = Sessions()


@contextmanager
def answering(state_dir: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody who accepts one connection and does this with it."""
    with serving.listen(state_dir) as listening:
        listening.settimeout(10)

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(serving.MAX_REQUEST)
                answer(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """The lock of a server that runs."""
    descriptor = os.open(state_dir / place.LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_no_directory_no_socket_and_nobody_who_listens_are_no_server(tmp_path: Path) -> None:
    with pytest.raises(asking.NoServerError):
        asking.ask(tmp_path / "none", REQUEST)
    with pytest.raises(asking.NoServerError):
        asking.ask(tmp_path, REQUEST)
    serving.listen(tmp_path).close()  # what a server that was killed leaves
    (tmp_path / place.LOCK_NAME).touch()
    with pytest.raises(asking.NoServerError):
        asking.ask(tmp_path, REQUEST)


@pytest.mark.parametrize("left", [True, False], ids=["dead socket", "no socket"])
def test_a_lock_that_is_held_is_a_server(tmp_path: Path, *, left: bool) -> None:
    """One that is just starting, or whose socket somebody has removed."""
    if left:
        serving.listen(tmp_path).close()
    with locked(tmp_path), pytest.raises(asking.NoAnswerError, match="nobody listens"):
        asking.ask(tmp_path, REQUEST, timeout=0.1)


def test_a_server_that_begins_to_listen_meanwhile_is_asked(tmp_path: Path) -> None:
    with locked(tmp_path):
        asked: list[object] = []
        thread = threading.Thread(target=lambda: asked.append(asking.ask(tmp_path, REQUEST)))
        thread.start()
        with answering(tmp_path, lambda peer: peer.sendall(b'{"updated_at": "now", "active_sessions": []}')):
            thread.join()
    assert asked == [SessionsReply(updated_at="now", active_sessions=[])]


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"{}", b"null", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_answer_is_not_taken_for_one(tmp_path: Path, answer: bytes) -> None:
    with (
        answering(tmp_path, lambda peer: peer.sendall(answer)),
        pytest.raises(asking.NoAnswerError, match="the server did not answer"),
    ):
        asking.ask(tmp_path, REQUEST)


def test_a_connection_that_is_cut_is_no_answer(tmp_path: Path) -> None:
    with serving.listen(tmp_path) as listening:
        listening.settimeout(10)

        def serve() -> None:
            listening.accept()[0].close()  # with the request unread: ECONNRESET

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(asking.NoAnswerError, match="the server did not answer"):
            asking.ask(tmp_path, REQUEST)
        thread.join()


def test_a_server_that_hangs_is_no_answer(tmp_path: Path) -> None:
    with serving.listen(tmp_path), pytest.raises(asking.NoAnswerError, match="within"):
        asking.ask(tmp_path, REQUEST, timeout=0.1)


def test_a_full_queue_is_no_answer(tmp_path: Path) -> None:
    with serving.listen(tmp_path) as listening:
        listening.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(tmp_path / place.SOCKET_NAME))
        with waiting, pytest.raises(asking.NoAnswerError, match="too many are waiting"):
            asking.ask(tmp_path, REQUEST, timeout=0.1)


def test_a_refusal_is_in_the_servers_words(tmp_path: Path) -> None:
    with (
        answering(tmp_path, lambda peer: peer.sendall(b'{"error": "not today"}')),
        pytest.raises(OpenmeError, match="not today") as caught,
    ):
        asking.ask(tmp_path, REQUEST)
    assert not isinstance(caught.value, asking.NoServerError | asking.NoAnswerError)
