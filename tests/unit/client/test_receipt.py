"""Asking for a receipt: patience while the server does not know it, and nothing but the server's own word counts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from openme.client import receipt as receipt_module
from openme.client.addresses import Endpoint
from openme.client.blocking import finish
from openme.client.known import PastKnock
from openme.client.receipt import Proof, prove
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import MAX_SIZE, Receipt, receipt_text, seal_receipt
from support.driven import Driven
from support.ports import free_port

HERE = Endpoint(socket.AF_INET, "127.0.0.1")
KEYS = ReceiptKeys(b"i" * 16, b"k" * 32, b"n" * 12)
TARGET = ip_address("203.0.113.5")
PAST = PastKnock("127.0.0.1", TARGET, 1_795_000_000 * 10**9, 2967, KEYS)
RECEIPT = Receipt("alice", TARGET, ("22/tcp",), 1_795_000_030, 1_795_000_000)
ANSWER = seal_receipt(receipt_text(RECEIPT), KEYS)


@contextmanager
def answering(*answers: bytes | None, piece: int = 5000) -> Iterator[tuple[int, list[bytes]]]:
    """A health port that gives these answers one after the other (None: it says nothing and stays); what it heard."""
    heard: list[bytes] = []
    stays: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                heard.append(connection.recv(100))
                if answer is None:
                    stays.append(connection)
                    continue
                for at in range(0, len(answer), piece):
                    try:
                        connection.sendall(answer[at : at + piece])
                    except OSError:
                        break
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], heard
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in stays:
                connection.close()


def asked(port: int, patience: float = 5.0, past: PastKnock = PAST) -> Proof:
    return finish(prove(Driven(), HERE, port, past, patience))


def test_the_receipt_is_the_proof_and_the_id_is_all_that_is_said() -> None:
    with answering(ANSWER) as (port, heard):
        proof = asked(port)
    assert (proof.receipt, proof.problem, proof.endpoint) == (RECEIPT, None, HERE)
    assert heard == [KEYS.id]


@pytest.mark.parametrize("is_whole", [True, False])
def test_only_who_has_read_all_ends_in_order_which_the_server_takes_for_its_word(*, is_whole: bool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        ends: list[str] = []

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(ANSWER if is_whole else ANSWER[:1000])
                if is_whole:
                    connection.shutdown(socket.SHUT_WR)
                try:
                    ends.append("in order" if connection.recv(1) == b"" else "more")
                except ConnectionResetError:
                    ends.append("reset")

        thread = threading.Thread(target=serve)
        thread.start()
        finish(prove(Driven(), HERE, listening.getsockname()[1], PAST, 0, limit=5 if is_whole else 0.2))
        thread.join(10)
    assert ends == ["in order" if is_whole else "reset"]


def test_a_server_that_does_not_know_it_yet_is_asked_again() -> None:
    with answering(b"", b"", ANSWER) as (port, heard):
        assert asked(port).receipt == RECEIPT
    assert heard == [KEYS.id] * 3


def test_when_patience_is_over_there_is_none() -> None:
    with answering(b"", b"") as (port, heard):
        proof = asked(port, patience=0)
    assert (proof.receipt, proof.problem) == (None, "the server gave no receipt")
    assert len(heard) == 1
    assert asked(free_port(), patience=0).receipt is None


def test_a_server_that_says_a_little_again_and_again_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to read is for all that is said, and not for each piece of it."""
    looks = iter(range(1000))
    monkeypatch.setattr(receipt_module, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    monkeypatch.setattr(receipt_module, "READ_SECONDS", 5)
    with answering(bytes(4096), piece=1) as (port, _):
        assert asked(port, patience=0).receipt is None
    assert next(looks) < 12


def test_silence_is_not_waited_for_longer_than_a_server_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing at all: with its own patience for a server the asker would wait for minutes."""
    monkeypatch.setattr(receipt_module, "READ_SECONDS", 0.1)
    with answering(None) as (port, _):
        assert asked(port, patience=0).receipt is None


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.2\r\n", bytes(4096), ANSWER[:-1], ANSWER + b" ", seal_receipt(b"{}", KEYS), bytes(MAX_SIZE)],
)
def test_anything_else_is_no_proof_and_is_not_asked_for_again(answer: bytes) -> None:
    with answering(answer, ANSWER) as (port, heard):
        proof = asked(port)
    assert proof.receipt is None
    assert "something else than the server" in (proof.problem or "")
    assert not proof.opened_as_asked
    assert len(heard) == 1


def test_an_endless_answer_is_read_to_64_kib_and_no_further() -> None:
    with answering(bytes(4_000_000)) as (port, _):
        assert asked(port).receipt is None


def test_another_knocks_receipt_is_no_proof() -> None:
    with answering(seal_receipt(receipt_text(RECEIPT), KEYS._replace(key=b"l" * 32))) as (port, _):
        assert asked(port).receipt is None


# -- what it proves


@pytest.mark.parametrize(
    ("target", "opened", "as_asked"),
    [
        ("203.0.113.5", "203.0.113.5", True),
        ("203.0.113.5", "203.0.113.6", False),
        ("203.0.113.5", "2001:db8::7", False),
        (None, "203.0.113.6", True),
    ],
)
def test_the_address_is_compared_with_the_one_asked_for(target: str | None, opened: str, *, as_asked: bool) -> None:
    past = PAST._replace(target=None if target is None else ip_address(target))
    proof = Proof(HERE, past, RECEIPT._replace(ip=ip_address(opened)))
    assert proof.opened_as_asked is as_asked
    assert not Proof(HERE, past, None, "nothing").opened_as_asked


@pytest.mark.parametrize(("server", "difference"), [(0, None), (5, None), (-5, None), (6, 6.0), (-30, -30.0)])
def test_a_clock_that_differs_is_worth_a_word(server: int, difference: float | None) -> None:
    proof = Proof(HERE, PAST, RECEIPT._replace(server_time=1_795_000_000.0 + server))
    assert proof.clock_difference == difference
    assert Proof(HERE, PAST, None).clock_difference is None
