"""Whatever is said to the health port, it answers nothing, closes, and goes on serving the next one."""

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from openme.listener.listener import Listener
from openme.processes import listener_process
from openme.processes.listener_process import ListenerProcess
from openme.seam.channel import channel, send
from openme.seam.messages import Serve
from openme.server.sockets import bind_health, bind_knock
from support.command import until
from support.fuzzing import SEED, mutated, rounds
from support.ports import free_port

CORPUS = sorted((Path(__file__).parent / "corpus" / "health").glob("*.bin"))


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(listener_process, "RECEIPT_PATIENCE", 0.02)
    number = free_port()
    listener_end, keeper_end = channel()
    with bind_knock(number) as knock, bind_health(number) as health, listener_end:
        process = ListenerProcess(Listener(), knock, health, listener_end)
        thread = threading.Thread(target=process.run)
        thread.start()
        send(keeper_end, Serve().pack())
        until(lambda: health.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "the health port listens")
        yield number
        keeper_end.close()
        thread.join(5)
        assert not thread.is_alive()
        for connection in process._connections.values():
            connection.socket.close()


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 5
    assert all(path.read_bytes() for path in CORPUS)


def test_every_word_is_answered_by_closing_and_by_nothing_else(port: int) -> None:
    for path in CORPUS:
        chance = random.Random(f"{SEED}-health-{path.name}")
        for round_number in range(rounds(40)):
            said = mutated(path.read_bytes(), chance) or b"\0"
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                answer = b""
                with suppress(OSError):  # closed with our bytes unread
                    connection.sendall(said)
                    connection.shutdown(socket.SHUT_WR)
                    answer = connection.recv(100)
                assert answer == b"", f"OPENME_FUZZ_SEED={SEED}, {path.name}, round {round_number}"
